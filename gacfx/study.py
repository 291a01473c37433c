"""A study: a model whose calibration was measured once, so that plans for it come cheap.

study = Study.make(model, corpus, method="gfwsvd")
planned = study.plan("0.2", profile=h200)          # seconds: nothing is calibrated again
upstream = study.upstream("0.2", profile=h200)     # the method's own irregular ranks
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Literal

import torch
from torch import nn
from torch.fx import GraphModule

import gacfx
from gacfx import pipelines
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.gather import gather
from gacfx.calibration.text import Corpus, split
from gacfx.compressors.allocate import upstream_rank, wanted_rank
from gacfx.compressors.lowrank import Decomposition
from gacfx.core.locks import fingerprint
from gacfx.core.materialise import FactorSet
from gacfx.core.notes import state, targets
from gacfx.core.ops import DTYPES
from gacfx.core.pipeline import Pipeline
from gacfx.core.plan import Budget, Choice, Plan, Provenance, Trial
from gacfx.core.planned import Planned
from gacfx.core.statistics import Statistics
from gacfx.errors import InfeasibleBudget, UnsupportedModel
from gacfx.hardware.profile import Profile
from gacfx.modules.install import swapped
from gacfx.passes.planning.measure_curves import MeasureCurves
from gacfx.passes.planning.solve import refused_sites
from gacfx.planning import kept_budget
from gacfx.tracing.export import capture

VALUE_MODELS = ("two-sided", "fisher", "relative")
"""Value models that are tried, at most; the best one on held-back text is kept."""

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its graph, what calibration found, and text held back for judging plans."""

    model: nn.Module
    graph: GraphModule
    method: str
    statistics: Statistics
    held_back: Corpus
    dense_nats: float
    """Loss of the dense model on the held-back text, nats per token."""
    progress: Progress
    decompositions: dict[str, Decomposition] = field(default_factory=dict)

    @staticmethod
    def make(
        model: nn.Module,
        corpus: Corpus,
        *,
        method: str = "gfwsvd",
        skip: tuple[str, ...] = (),
        seed: int = 0,
        progress: Progress = lambda *_: None,
    ) -> "Study":
        """Capture the model, choose targets and gather statistics.

        A quarter of the documents is held back for judging plans.

        Raises:
            UnsupportedModel: no weight of the model can be compressed; lists the reasons.
            CalibrationError: too little text, or weights that are not finite.
        """
        progress("capture", 0, 1)
        graph = capture(model)
        Pipeline.parse(pipelines.SELECT).bind(skip=skip).run(graph)
        names = [site.name for _, site in targets(graph)]
        if not names:
            reasons = "; ".join(sorted(set(refused_sites(graph).values())))
            raise UnsupportedModel(f"no weight can be compressed: {reasons or 'no matmul found'}")
        progress("capture", 1, 1)
        fit, held_back = split(corpus)
        done = _Count(progress, "calibrate", len(fit.documents))
        statistics = gather(model, fit, names, seed=seed, progress=done)
        dense = evaluate(model, held_back).nats_per_token
        return Study(model, graph, method, statistics, held_back, dense, progress)

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
        align = align or self.default_align(profile)
        values = VALUE_MODELS if value == "auto" else (value,)
        made: list[Planned] = []
        for step, name in enumerate(values):
            self.progress("plan", step, len(values))
            made.append(self._solve(name, budget, align, profile))
        trials = [Trial(p.plan.provenance.value_model, self.measure(p), False) for p in made]
        self.progress("plan", len(values), len(values))
        best = min(range(len(made)), key=lambda i: trials[i].nats_per_token)
        trials[best] = replace(trials[best], chosen=True)
        return self._finish(made[best], tuple(trials))

    def upstream(self, ratio: str | float, *, profile: Profile) -> Planned:
        """The method's own allocation at ``ratio``: one formula, irregular ranks, no planner."""
        MeasureCurves(
            method=self.method, statistics=self.statistics, decompositions=self.decompositions
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
            budget=make_budget(self.graph, ratio, "targeted"),
            proof=None,
            provenance=self._provenance("upstream", profile, 1),
            fingerprint=fingerprint(self.model),
            digests=self.statistics.digests,
            refusals=refused_sites(self.graph),
        )
        planned = Planned(plan, self._factors(plan))
        trial = Trial("upstream", self.measure(planned), True)
        return self._finish(planned, (trial,))

    def measure(self, planned: Planned, corpus: Corpus | None = None) -> float:
        """Loss of the model with these factors, nats per token; on the held-back text if None."""
        with swapped(self.model, planned.factors):
            return evaluate(self.model, corpus or self.held_back).nats_per_token

    def default_align(self, profile: Profile) -> int:
        """What the profile wants for the model's dtype, and for half precision in any case."""
        dtype = DTYPES[next(self.model.parameters()).dtype]
        return max(profile.align_for(dtype), profile.align_for("bf16"))

    def _solve(self, value: str, budget: Budget, align: int, profile: Profile) -> Planned:
        shapes = {s.name: (s.n.times, s.k.times) for _, s in targets(self.graph)}
        wanted = {name: wanted_rank(*mn, budget.ratio) for name, mn in shapes.items()}
        Pipeline.parse(pipelines.PLAN).bind(
            method=self.method,
            value=value,
            align=align,
            statistics=self.statistics,
            decompositions=self.decompositions,
            budget=budget,
            provenance=self._provenance(value, profile, align),
            wanted=wanted,
        ).run(self.graph)
        plan = state(self.graph).plan
        assert plan is not None
        locks = {"fingerprint": fingerprint(self.model), "digests": self.statistics.digests}
        plan = replace(plan, **locks)  # type: ignore[arg-type]
        return Planned(plan, self._factors(plan))

    def _factors(self, plan: Plan) -> FactorSet:
        return {name: self.decompositions[name].factors(r) for name, r in plan.ranks.items()}

    def _provenance(self, value: str, profile: Profile, align: int) -> Provenance:
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
            calibration_tokens=self.statistics.tokens,
            calibration_digest=self.statistics.text_digest,
            seed=self.statistics.seed,
            dense_nats_per_token=self.dense_nats,
        )

    @staticmethod
    def _finish(planned: Planned, trials: tuple[Trial, ...]) -> Planned:
        provenance = replace(planned.plan.provenance, trials=trials)
        return replace(planned, plan=replace(planned.plan, provenance=provenance))


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
