"""A study: a model whose calibration was measured once, so that plans for it come cheap.

study = Study.make(model, corpus, method="gfwsvd")
planned = study.plan("0.2", profile=h200)          # seconds: nothing is calibrated again
upstream = study.upstream("0.2", profile=h200)     # the method's own irregular ranks
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import gcd, isfinite

import torch
from torch import nn
from torch.fx import GraphModule

import gacfx
from gacfx import pipelines
from gacfx.allocation.allocate import allocate
from gacfx.allocation.budget import make_budget
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.gather import gather
from gacfx.calibration.running import few_threads
from gacfx.calibration.sanity import check_causal, check_reads
from gacfx.calibration.text import Corpus, split
from gacfx.compressors.allocate import upstream_rank, wanted_rank
from gacfx.compressors.lowrank import Decomposition
from gacfx.core.asked import check_asked, check_module
from gacfx.core.curve_file import Curves
from gacfx.core.decision import of_rank
from gacfx.core.goal import Goal, as_goal
from gacfx.core.locks import fingerprint
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Choice, Plan, Provenance, Trial
from gacfx.core.planned import Planned
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.statistics import Statistics, merge
from gacfx.core.surroundings import plain_torch
from gacfx.errors import DecompositionFailed, PlanError, UnsupportedModel
from gacfx.graph.ops import DTYPES
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.profile import Profile
from gacfx.modules.install import compressed_modules, swapped
from gacfx.modules.make import make_factors
from gacfx.passes.planning.importance import proxy_of
from gacfx.passes.planning.limiting import bound_to, limiting_passes
from gacfx.passes.planning.measure_curves import PAPER, MeasureCurves, check_method
from gacfx.passes.planning.read_graph import graph_curves, target_names, targeted_params
from gacfx.tracing.export import capture

VALUE_MODELS = ("two-sided", "fisher", "relative")
"""Value models that are tried, at most; the best one on held-back text is kept."""
IN_NATS = ("two-sided", "fisher")
"""Value models whose losses are nats, so that a plan of theirs promises a rise of the loss."""

UPSTREAM = Search(align=1, form="pair")
"""What a plan of a method's own ranks says of its search."""

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What calibration found on one text, and the decompositions that were made of it so far."""

    statistics: Statistics
    decompositions: dict[str, Decomposition] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its graph, and what calibration found.

    Value models are compared with evidence from three quarters of the windows, by measured loss
    on the last quarter; the plan itself then uses the evidence of all of them.
    """

    model: nn.Module
    graph: GraphModule
    method: str
    fit: Evidence
    full: Evidence
    held_back: Corpus
    dense_nats: float
    """Loss of the dense model on the held-back text, nats per token."""
    progress: Progress

    @staticmethod
    @plain_torch()
    def make(
        model: nn.Module,
        corpus: Corpus,
        *,
        method: str = "gfwsvd",
        skip: tuple[str, ...] = (),
        seed: int = 0,
        seq: int = 1024,
        progress: Progress = lambda *_: None,
        force: bool = False,
    ) -> "Study":
        """Capture the model, choose targets and gather statistics.

        A quarter of the windows is held back for comparing value models.

        Args:
            model: dense, in evaluation mode.
            corpus: calibration text.
            method: metric of the factors.
            skip: patterns of module names to leave dense.
            seed: of the sampled labels.
            seq: tokens of a sequence for which attention calls are recorded.
            progress: called with (stage, done, total).
            force: go on with a model that predicts the text worse than guessing.

        Raises:
            PipelineError: no such method.
            UnsupportedModel: no weight of the model can be compressed; lists the reasons. Or it
                sees the future, so that its loss means nothing.
            PoorQuality: the dense model does not know this text.
            CalibrationError: too little text, or weights that are not finite.
        """
        check_asked(skip=skip, seed=seed, force=force)
        check_method(method)
        check_model(model)
        progress("capture", 0, 1)
        graph = capture(model, attention_seq=seq)
        Pipeline.parse(pipelines.SELECT).bind(skip=skip).run(graph)
        names = target_names(graph)
        progress("capture", 1, 1)
        part, held_back = split(corpus)
        check_causal(model, corpus)
        dense = evaluate(model, held_back).checked().nats_per_token
        if not force:
            check_reads(model, dense)
        done = _Count(progress, "calibrate", len(corpus.documents))
        fit = gather(model, part, names, seed=seed, progress=done)
        rest = gather(model, held_back, names, seed=seed, progress=done)
        full = merge(fit, rest, corpus.digest)
        evidence = Evidence(fit), Evidence(full)
        return Study(model, graph, method, *evidence, held_back, dense, progress)

    def with_method(self, method: str) -> "Study":
        """The same model and statistics under another metric of the factors."""
        fit, full = Evidence(self.fit.statistics), Evidence(self.full.statistics)
        return replace(self, method=method, fit=fit, full=full)

    @property
    def targeted_params(self) -> int:
        """Parameters of all targeted weights, dense."""
        return targeted_params(self.graph)

    @plain_torch()
    def plan(
        self,
        goal: Goal | str | float,
        *,
        profile: Profile,
        search: Search = DEFAULT_SEARCH,
        tried: bool = False,
    ) -> Planned:
        """The best plan: for each value model, and among those by measured loss.

        Args:
            goal: how much may remain; text or a number is the share of the targeted weights to
                remove, 0 <= share < 1.
            profile: GPU whose alignment the ranks follow.
            search: which sizes, what they are worth, who chooses.
            tried: also try a value model that ``search`` names, as ``auto`` tries its own: then
                the plan's provenance says what such a plan costs on text that it has not seen.
        """
        check_tp(search.tp, getattr(self.model, "config", None))
        case = _Case(as_goal(goal), profile, search)
        values = VALUE_MODELS if search.value == "auto" else (search.value,)
        trials: tuple[Trial, ...] = ()
        with few_threads(self.model):
            if tried or search.value == "auto":
                trials = self._trials(values, case)
            chosen = next((t.value_model for t in trials if t.chosen), values[0])
            return self._solve(chosen, case, self.full, trials)

    def _trials(self, values: tuple[str, ...], case: "_Case") -> tuple[Trial, ...]:
        """One plan for each value model, judged on text that its curves did not see."""
        losses, promised = [], []
        for number, value in enumerate(values):
            self.progress("plan", number, len(values))
            made = self._solve(value, case, self.fit)
            losses.append(self.measure(made))
            promised.append(made.plan.loss_nats if value in IN_NATS else None)
        self.progress("plan", len(values), len(values))
        best = losses.index(min(losses))
        return tuple(
            Trial(value, loss if isfinite(loss) else None, i == best, promise)
            for i, (value, loss, promise) in enumerate(zip(values, losses, promised, strict=True))
        )

    @plain_torch()
    def curves(self, value: str, known: Evidence | None = None) -> Curves:
        """The curves of all targets under a value model, with the locks of this model.

        Args:
            value: name of the value model.
            known: what they are made of; all calibration text if None.
        """
        known = known or self.full
        MeasureCurves(
            method=self.method,
            value=value,
            statistics=known.statistics,
            decompositions=known.decompositions,
        )(self.graph)
        model = f"{PAPER}:{proxy_of(self.method)}" if value == PAPER else value
        found = graph_curves(self.graph, self._provenance(model))
        facts = replace(
            found.facts, fingerprint=fingerprint(self.model), digests=known.statistics.digests
        )
        return Curves(facts, found.losses)

    def curves_of(self, plan: Plan) -> Curves:
        """The curves that a plan of this study was made of, with its provenance."""
        model = plan.provenance.value_model
        found = self.curves(PAPER if model.startswith(PAPER) else model)
        return Curves(replace(found.facts, provenance=plan.provenance), found.losses)

    @plain_torch()
    def upstream(self, ratio: str | float, *, profile: Profile) -> Planned:
        """The method's own allocation at ``ratio``: one formula, irregular ranks, no planner."""
        curves = self.curves(VALUE_MODELS[0])
        facts, choices = curves.facts, []
        for curve in curves.curves.values():
            shape = curve.rows, curve.columns
            rank = None if curve.failed else upstream_rank(*shape, ratio)
            choices.append(
                Choice.single(
                    curve.module,
                    *shape,
                    of_rank(rank),
                    wanted_rank(*shape, ratio),
                    curve.loss(of_rank(rank)),
                    curve.failed,
                )
            )
        made = replace(
            facts.provenance, value_model="upstream", gpu=profile.name, search=UPSTREAM, align=1
        )
        plan = Plan(
            choices=tuple(choices),
            budget=make_budget(facts, Goal(ratio=ratio)),
            proof=None,
            provenance=made,
            fingerprint=facts.fingerprint,
            digests=facts.digests,
            refusals=facts.refusals,
        )
        factors, failed = self._factors(plan, self.full)
        for module, reason in failed.items():
            raise DecompositionFailed(module, reason)
        return Planned(plan, factors)

    @plain_torch()
    def measure(self, planned: Planned, corpus: Corpus | None = None) -> float:
        """Loss of the model with these factors, nats per token; on the held-back text if None."""
        with swapped(self.model, planned.factors):
            return evaluate(self.model, corpus or self.held_back).nats_per_token

    @property
    def dtype(self) -> str:
        """Of the model's parameters."""
        return DTYPES[next(self.model.parameters()).dtype]

    def _solve(
        self, value: str, case: "_Case", known: Evidence, trials: tuple[Trial, ...] = ()
    ) -> Planned:
        """The best plan under one value model, and its factors.

        A weight that cannot have the form that was chosen for it is offered the others, and the
        plan is made again.
        """
        curves = self.curves(value, known)
        limiters = bound_to(limiting_passes(case.search.limits), case.profile)
        without: dict[str, dict[str, str]] = {}
        while True:
            plan = allocate(
                curves,
                case.goal,
                profile=case.profile,
                search=case.search,
                limiters=limiters,
                trials=trials,
                without=without,
            )
            factors, failed = self._factors(plan, known)
            if not failed:
                return Planned(plan, factors)
            for module, reason in failed.items():
                kind = plan.decisions[module].kind
                without.setdefault(module, {})[kind] = f"{kind}: {reason}"

    def _factors(self, plan: Plan, known: Evidence) -> tuple[FactorSet, dict[str, str]]:
        """The tensors of every decision, and why some weights cannot have theirs."""
        factors, failed = FactorSet(), dict[str, str]()
        for module, decision in plan.decisions.items():
            source, weight = known.decompositions[module], plan.weights[module]
            try:
                factors[module] = make_factors(
                    source, decision, weight.rows, weight.columns, source.weight_MN.dtype
                )
            except DecompositionFailed as error:
                failed[module] = error.reason
        return factors, failed

    def _provenance(self, value: str) -> Provenance:
        """Where the curves come from; what a plan adds is added by whoever makes it."""
        known = self.full.statistics
        return Provenance(
            method=self.method,
            value_model=value,
            gpu="",
            align=1,
            dtype=self.dtype,
            versions={
                "gacfx": gacfx.__version__,
                "torch": torch.__version__,
                "transformers": version("transformers"),
            },
            calibration_tokens=known.tokens,
            calibration_digest=known.text_digest,
            seed=known.seed,
            dense_nats_per_token=self.dense_nats,
        )


@dataclass(frozen=True)
class _Case:
    """What a plan is asked for."""

    goal: Goal
    profile: Profile
    search: Search


def check_dtype(model: nn.Module, profile: Profile) -> None:
    """Nothing when the GPU can multiply what the model is held in.

    Raises:
        ProfileError: it cannot.
    """
    profile.check_dtype(DTYPES[next(model.parameters()).dtype])


def check_model(model: nn.Module) -> None:
    """Nothing when the model can be calibrated and compressed.

    Raises:
        UnsupportedModel: no model, no causal language model, in training mode, or compressed
            already.
    """
    check_module(model)
    writes = getattr(model, "can_generate", None)
    both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if both or (callable(writes) and not writes()):
        raise UnsupportedModel(
            f"{type(model).__name__} is no causal language model; it can be inspected, but "
            "calibration needs the likelihood of text"
        )
    if model.training:
        raise UnsupportedModel("the model is in training mode; call model.eval() first")
    if compressed_modules(model):
        raise UnsupportedModel(
            "the model is compressed by gacfx already; start from the dense checkpoint"
        )


def check_tp(tp: int, config: object) -> None:
    """Nothing when ``tp`` devices can share the attention heads of a configuration.

    Raises:
        PlanError: names the heads that it does not divide.
    """
    text = getattr(config, "get_text_config", lambda: config)()
    kinds = {"num_attention_heads": "query", "num_key_value_heads": "key-value"}
    counts = {name: getattr(text, name, None) for name in kinds}
    heads = {name: n for name, n in counts.items() if isinstance(n, int) and n > 0}
    common = gcd(*heads.values())
    for name, number in heads.items():
        if number % tp:
            fit = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise PlanError(
                f"tp {tp} does not divide the {number} {kinds[name]} heads of the model ({name}); "
                f"devices share whole heads, so take one of {fit}"
            )


class _Count:
    """Adds up documents for a progress callback."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0

    def __call__(self, _tokens: int) -> None:
        self.done += 1
        self.progress(self.what, self.done, self.total)
