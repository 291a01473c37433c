"""A study: a model whose calibration was measured once, so that plans for it come cheap.

study = Study.make(model, corpus, method="gfwsvd")
planned = study.plan("0.2", profile=h200)          # seconds: nothing is calibrated again
upstream = study.upstream("0.2", profile=h200)     # the method's own irregular ranks
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import isfinite
from typing import Literal

import torch
from torch import nn
from torch.fx import GraphModule

import gacfx
from gacfx import pipelines
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.gather import gather
from gacfx.calibration.running import few_threads
from gacfx.calibration.text import Corpus, split
from gacfx.compressors.allocate import upstream_rank, wanted_rank
from gacfx.compressors.lowrank import Decomposition
from gacfx.core.locks import fingerprint
from gacfx.core.notes import state, targets
from gacfx.core.ops import DTYPES
from gacfx.core.pipeline import Pipeline
from gacfx.core.plan import Budget, Choice, Plan, Provenance, Trial
from gacfx.core.planned import Planned
from gacfx.core.statistics import Statistics, merge
from gacfx.errors import InfeasibleBudget, UnsupportedModel
from gacfx.hardware.profile import Profile
from gacfx.modules.install import low_rank_modules, swapped
from gacfx.passes.planning.measure_curves import MeasureCurves, check_method
from gacfx.passes.planning.solve import refused_sites
from gacfx.planning import kept_budget
from gacfx.tracing.export import capture

VALUE_MODELS = ("two-sided", "fisher", "relative")
"""Value models that are tried, at most; the best one on held-back text is kept."""

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

    Value models are compared with evidence from three quarters of the documents, by measured loss
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
    def make(
        model: nn.Module,
        corpus: Corpus,
        *,
        method: str = "gfwsvd",
        skip: tuple[str, ...] = (),
        seed: int = 0,
        seq: int = 1024,
        progress: Progress = lambda *_: None,
    ) -> "Study":
        """Capture the model, choose targets and gather statistics.

        A quarter of the documents is held back for comparing value models.

        Args:
            model: dense, in evaluation mode.
            corpus: calibration text.
            method: metric of the factors.
            skip: patterns of module names to leave dense.
            seed: of the sampled labels.
            seq: tokens of a sequence for which attention calls are recorded.
            progress: called with (stage, done, total).

        Raises:
            PipelineError: no such method.
            UnsupportedModel: no weight of the model can be compressed; lists the reasons.
            CalibrationError: too little text, or weights that are not finite.
        """
        check_method(method)
        check_model(model)
        progress("capture", 0, 1)
        graph = capture(model, attention_seq=seq)
        Pipeline.parse(pipelines.SELECT).bind(skip=skip).run(graph)
        names = target_names(graph)
        progress("capture", 1, 1)
        part, held_back = split(corpus)
        done = _Count(progress, "calibrate", len(corpus.documents))
        fit = gather(model, part, names, seed=seed, progress=done)
        rest = gather(model, held_back, names, seed=seed, progress=done)
        full = merge(fit, rest, corpus.digest)
        dense = evaluate(model, held_back).nats_per_token
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

    def plan(
        self,
        ratio: str | float,
        *,
        profile: Profile,
        align: int | None = None,
        value: str = "auto",
        ratio_of: Literal["targeted", "model"] = "targeted",
    ) -> Planned:
        """The best plan: exact for each value model, and among those by measured loss.

        Args:
            ratio: share of the parameters to remove, 0 <= ratio < 1.
            profile: GPU whose alignment the ranks follow.
            align: multiple for the ranks instead of the profile's.
            value: ``auto`` tries three value models on held-back text; or name one of them.
            ratio_of: what the ratio is a share of: the targeted weights or the whole model.
        """
        budget = make_budget(self.graph, ratio, ratio_of)
        align = self.default_align(profile) if align is None else align
        trials: tuple[Trial, ...] = ()
        with few_threads(self.model):
            if value == "auto":
                trials = self._trials(budget, align, profile)
                value = next(t.value_model for t in trials if t.chosen)
            return self._solve(value, budget, align, profile, self.full, trials)

    def _trials(self, budget: Budget, align: int, profile: Profile) -> tuple[Trial, ...]:
        """One plan for each value model, judged on text that its curves did not see."""
        losses = []
        for step, value in enumerate(VALUE_MODELS):
            self.progress("plan", step, len(VALUE_MODELS))
            losses.append(self.measure(self._solve(value, budget, align, profile, self.fit)))
        self.progress("plan", len(VALUE_MODELS), len(VALUE_MODELS))
        best = losses.index(min(losses))
        return tuple(
            Trial(value, loss if isfinite(loss) else None, chosen=i == best)
            for i, (value, loss) in enumerate(zip(VALUE_MODELS, losses, strict=True))
        )

    def upstream(self, ratio: str | float, *, profile: Profile) -> Planned:
        """The method's own allocation at ``ratio``: one formula, irregular ranks, no planner."""
        known, budget = self.full, make_budget(self.graph, ratio, "targeted")
        MeasureCurves(
            method=self.method,
            statistics=known.statistics,
            decompositions=known.decompositions,
        )(self.graph)
        curves = state(self.graph).curves or {}
        choices = []
        for _, site in targets(self.graph):
            rows, columns = site.n.times, site.k.times
            rank = upstream_rank(rows, columns, ratio)
            wanted = wanted_rank(rows, columns, ratio)
            curve = curves[site.name]
            if curve.failed:
                rank = None
            loss = 0.0 if rank is None else float(curve.loss_nats[rank])
            choices.append(Choice(site.name, rows, columns, rank, wanted, loss, curve.failed))
        plan = Plan(
            choices=tuple(choices),
            budget=budget,
            proof=None,
            provenance=self._provenance("upstream", profile, 1, ()),
            refusals=refused_sites(self.graph),
        )
        return self._planned(plan, known)

    def measure(self, planned: Planned, corpus: Corpus | None = None) -> float:
        """Loss of the model with these factors, nats per token; on the held-back text if None."""
        with swapped(self.model, planned.factors):
            return evaluate(self.model, corpus or self.held_back).nats_per_token

    def default_align(self, profile: Profile) -> int:
        """What the profile wants for the model's dtype, and for half precision in any case."""
        dtype = DTYPES[next(self.model.parameters()).dtype]
        return max(profile.align_for(dtype), profile.align_for("bf16"))

    def _solve(
        self,
        value: str,
        budget: Budget,
        align: int,
        profile: Profile,
        known: Evidence,
        trials: tuple[Trial, ...] = (),
    ) -> Planned:
        shapes = {s.name: (s.n.times, s.k.times) for _, s in targets(self.graph)}
        removed = 1 - budget.limit_params / budget.targeted_params
        Pipeline.parse(pipelines.PLAN).bind(
            method=self.method,
            value=value,
            align=align,
            statistics=known.statistics,
            decompositions=known.decompositions,
            budget=budget,
            provenance=self._provenance(value, profile, align, trials),
            wanted={name: wanted_rank(*mn, removed) for name, mn in shapes.items()},
        ).run(self.graph)
        plan = state(self.graph).plan
        assert plan is not None
        return self._planned(plan, known)

    def _planned(self, plan: Plan, known: Evidence) -> Planned:
        """The plan with its locks and factors."""
        locked = replace(
            plan, fingerprint=fingerprint(self.model), digests=known.statistics.digests
        )
        ranks = plan.ranks.items()
        return Planned(locked, {name: known.decompositions[name].factors(r) for name, r in ranks})

    def _provenance(
        self, value: str, profile: Profile, align: int, trials: tuple[Trial, ...]
    ) -> Provenance:
        known = self.full.statistics
        return Provenance(
            method=self.method,
            value_model=value,
            gpu=profile.name,
            align=align,
            dtype=DTYPES[next(self.model.parameters()).dtype],
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
        )


def check_model(model: nn.Module) -> None:
    """Nothing when the model can be calibrated and compressed.

    Raises:
        UnsupportedModel: no causal language model, in training mode, or compressed already.
    """
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


def target_names(gm: GraphModule) -> list[str]:
    """Names of the targeted modules.

    Raises:
        UnsupportedModel: there is none; lists the reasons.
    """
    names = [site.name for _, site in targets(gm)]
    if not names:
        reasons = "; ".join(sorted(set(refused_sites(gm).values())))
        raise UnsupportedModel(f"no weight can be compressed: {reasons or 'no matmul found'}")
    return names


def targeted_params(gm: GraphModule) -> int:
    """Parameters of all targeted weights of a graph, dense."""
    return sum(s.k.times * s.n.times for _, s in targets(gm))


def make_budget(
    gm: GraphModule, ratio: str | float, ratio_of: Literal["targeted", "model"]
) -> Budget:
    """The limit in whole parameters that ``ratio`` leaves to the targeted weights of a graph.

    Raises:
        PlanError: a ratio outside [0, 1).
        InfeasibleBudget: a ratio of the model that the targeted weights cannot bear.
    """
    whole, targeted = sum(p.numel() for p in gm.parameters()), targeted_params(gm)
    total = targeted if ratio_of == "targeted" else whole
    limit = kept_budget(total, ratio) - (total - targeted)
    if limit < 0:
        raise InfeasibleBudget(
            f"ratio {ratio} of the model asks to remove more than the {targeted:,} targeted "
            f"parameters of {whole:,}; the largest is below {targeted / whole:.4f}",
            needed=0,
            budget=limit,
        )
    return Budget(str(ratio), ratio_of, targeted, whole, limit)


class _Count:
    """Adds up documents for a progress callback."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0

    def __call__(self, _tokens: int) -> None:
        self.done += 1
        self.progress(self.what, self.done, self.total)
