"""A study: a model whose calibration was measured once, so that plans for it come cheap.

study = Study.make(model, corpus, method="gfwsvd")
planned = study.plan("0.2", profile=h200)          # seconds: nothing is calibrated again
upstream = study.upstream("0.2", profile=h200)     # the method's own irregular ranks
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from math import gcd, isfinite

import torch
from torch import nn
from torch.fx import GraphModule

import gacfx
from gacfx import pipelines
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.gather import gather
from gacfx.calibration.running import few_threads
from gacfx.calibration.sanity import check_causal, check_reads
from gacfx.calibration.text import Corpus, split
from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs, Decomposition
from gacfx.compressors.values import TRIED, VALUES
from gacfx.core.asked import check_asked, check_module
from gacfx.core.decision import of_rank
from gacfx.core.goal import Goal, as_goal
from gacfx.core.locks import fingerprint
from gacfx.core.plan import Budget, Choice, Plan, Provenance, Trial
from gacfx.core.planned import Planned
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.statistics import Statistics, merge
from gacfx.core.surroundings import plain_torch
from gacfx.errors import PlanError, UnsupportedModel
from gacfx.graph.notes import state, targets
from gacfx.graph.ops import DTYPES
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.contracts import chosen_align, rank_step
from gacfx.hardware.profile import Profile
from gacfx.knapsack import kept_budget
from gacfx.modules.install import low_rank_modules, swapped
from gacfx.passes.planning.budget import make_budget, target_names, targeted_params, wanted_ranks
from gacfx.passes.planning.limiting import check_limits
from gacfx.passes.planning.measure_curves import MeasureCurves, check_method
from gacfx.passes.planning.solve import refused_sites
from gacfx.tracing.export import capture

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
        budget = make_budget(self.graph, as_goal(goal))
        values = TRIED if search.value == "auto" else (search.value,)
        trials: tuple[Trial, ...] = ()
        with few_threads(self.model):
            if tried or search.value == "auto":
                trials = self._trials(values, budget, search, profile)
            chosen = next((t.value_model for t in trials if t.chosen), values[0])
            return self._solve(chosen, budget, search, profile, self.full, trials)

    def _trials(
        self, values: tuple[str, ...], budget: Budget, search: Search, profile: Profile
    ) -> tuple[Trial, ...]:
        """One plan for each value model, judged on text that its curves did not see."""
        losses, promised = [], []
        for number, value in enumerate(values):
            self.progress("plan", number, len(values))
            made = self._solve(value, budget, search, profile, self.fit)
            losses.append(self.measure(made))
            promised.append(made.plan.loss_nats if VALUES.find(value).in_nats else None)
        self.progress("plan", len(values), len(values))
        best = losses.index(min(losses))
        return tuple(
            Trial(value, loss if isfinite(loss) else None, i == best, promise)
            for i, (value, loss, promise) in enumerate(zip(values, losses, promised, strict=True))
        )

    @plain_torch()
    def upstream(self, ratio: str | float, *, profile: Profile) -> Planned:
        """The method's own allocation at ``ratio``: one formula, irregular ranks, no planner."""
        known, budget = self.full, make_budget(self.graph, Goal(ratio=ratio))
        MeasureCurves(
            method=self.method,
            statistics=known.statistics,
            decompositions=known.decompositions,
        )(self.graph)
        curves = state(self.graph).curves or {}
        shapes = {site.name: (site.n.times, site.k.times) for _, site in targets(self.graph)}
        inputs = AllocationInputs(known.decompositions, self._at_ranks)
        ranks = METHODS.find(self.method).allocate(shapes, ratio, inputs)
        choices = []
        for name, shape in shapes.items():
            curve, wanted = curves[name], wanted_rank(*shape, ratio)
            rank = None if curve.failed else ranks[name]
            loss = 0.0 if rank is None else float(curve.loss_nats[rank])
            choice = Choice.single(name, *shape, of_rank(rank), wanted, loss, curve.failed)
            choices.append(choice)
        plan = Plan(
            choices=tuple(choices),
            budget=budget,
            proof=None,
            provenance=self._provenance("upstream", profile, 1, Search(align=1), ()),
            refusals=refused_sites(self.graph),
        )
        return self._planned(plan, known)

    @plain_torch()
    def measure(self, planned: Planned, corpus: Corpus | None = None) -> float:
        """Loss of the model with these factors, nats per token; on the held-back text if None."""
        with swapped(self.model, planned.factors):
            return evaluate(self.model, corpus or self.held_back).nats_per_token

    def _at_ranks(self, ranks: Mapping[str, int]) -> float:
        """Loss of the model with these modules at these ranks, on a quarter of the text."""
        known = self.full.decompositions
        with swapped(self.model, {name: known[name].factors(r) for name, r in ranks.items()}):
            return evaluate(self.model, self.held_back).nats_per_token

    @property
    def dtype(self) -> str:
        """Of the model's parameters."""
        return DTYPES[next(self.model.parameters()).dtype]

    def _solve(
        self,
        value: str,
        budget: Budget,
        search: Search,
        profile: Profile,
        known: Evidence,
        trials: tuple[Trial, ...] = (),
    ) -> Planned:
        align = chosen_align(search, profile, self.dtype)
        model = VALUES.find(value).label(METHODS.find(self.method))
        step = rank_step(align, search)
        curves = pipelines.step("measure-curves", method=self.method, value=value)
        plan = run_planning(
            self.graph,
            pipelines.planning(search, curves, align),
            statistics=known.statistics,
            decompositions=known.decompositions,
            budget=budget,
            provenance=self._provenance(model, profile, step, search, trials),
            wanted=wanted_ranks(self.graph, budget),
            profile=profile,
        )
        return self._planned(plan, known)

    def _planned(self, plan: Plan, known: Evidence) -> Planned:
        """The plan with its locks and factors."""
        locked = replace(
            plan, fingerprint=fingerprint(self.model), digests=known.statistics.digests
        )
        ranks = plan.ranks.items()
        return Planned(locked, {name: known.decompositions[name].factors(r) for name, r in ranks})

    def _provenance(
        self,
        value: str,
        profile: Profile,
        align: int,
        search: Search,
        trials: tuple[Trial, ...],
    ) -> Provenance:
        known = self.full.statistics
        return Provenance(
            method=self.method,
            value_model=value,
            gpu=profile.name,
            align=align,
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
            trials=trials,
            search=search,
        )


def check_request(
    method: str,
    goal: Goal | str | float,
    value: str = "auto",
    limits: tuple[str, ...] = (),
    form: str = "auto",
) -> None:
    """Refuse what can be refused before any work.

    Raises:
        PipelineError: no such method or value model, a form that the method cannot make, or a bad
            pass or option in ``limits``.
        PlanError: a ratio outside [0, 1).
        PassError: a bad option of a latency limit.
    """
    check_method(method, TRIED[0] if value == "auto" else value, form)
    if (ratio := as_goal(goal).ratio) is not None:
        kept_budget(0, ratio)
    check_limits(limits)


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
    if low_rank_modules(model):
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


def run_planning(gm: GraphModule, text: str, **given: object) -> Plan:
    """Run a planning pipeline and return the plan.

    Args:
        gm: the graph, with sites and targets.
        text: the pipeline.
        given: fields by name, bound in every pass that has them.
    """
    pipeline = Pipeline.parse(text)
    known = {f.name for each in pipeline.passes for f in fields(each) if f.metadata.get("given")}
    pipeline.bind(**{name: found for name, found in given.items() if name in known}).run(gm)
    plan = state(gm).plan
    assert plan is not None
    return plan


class _Count:
    """Adds up documents for a progress callback."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0

    def __call__(self, _tokens: int) -> None:
        self.done += 1
        self.progress(self.what, self.done, self.total)
