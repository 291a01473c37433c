"""How much faster a plan makes a model: the forecast of a step, dense against compressed.

found = graph_speedup(study.graph, plan, gpu="h200")     # the whole model
found = curves_speedup(curves, plan, gpu="h200")         # what a file of curves knows: the targets
print([(point.mode, point.batch, point.ratio) for point in found.points])
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any, Literal, TypeGuard

from torch.fx import GraphModule

from gacfx.allocation import experts
from gacfx.allocation.latency import Clock, Launch
from gacfx.core.curve_file import Curves
from gacfx.core.decision import DENSE, Decision
from gacfx.core.plan import Plan
from gacfx.core.pruning import Heads, Skip
from gacfx.core.sites import AttentionSite, Execution, Extent, MatmulSite, Mode, Site, Workload
from gacfx.errors import ProfileError
from gacfx.graph import notes
from gacfx.hardware.profile import Profile, load_profile
from gacfx.passes.rewrite.factorize import check_shapes

MODES: tuple[Mode, ...] = ("prefill", "decode")
BATCHES = (1, 8, 64)

Cause = Literal["launch", "memory", "compute", "kernel", "loop"]
"""What grew most: starting kernels, moving bytes, arithmetic; or it left the fast kernels, or the
experts of a layer are no grouped product any more."""
Scope = Literal["whole model", "targeted weights only"]


@dataclass(frozen=True, slots=True)
class Point:
    """One step of one workload, dense and compressed."""

    mode: Mode
    batch: int
    dense_us: float
    planned_us: float
    dense_launch_us: float
    """Of ``dense_us``: starting kernels."""
    cause: Cause | None
    """Of the weights that got slower, where all together got slower; None where they did not."""

    @property
    def ratio(self) -> float:
        """Dense time over compressed time: 1.2 is a fifth more steps in the same time; infinite
        where every weight that is counted went with its block."""
        return self.dense_us / self.planned_us if self.planned_us else inf


@dataclass(frozen=True, slots=True)
class Speedup:
    """Dense against compressed on one GPU, in prefill and decode at several batches."""

    gpu: str
    seq: int
    """Tokens of each sequence in prefill, length of its KV cache in decode."""
    execution: Execution
    dtype: str
    evidence: str
    """Where the times come from: ``rule-based`` or ``vendor figures only``."""
    scope: Scope
    replaced: int
    """Weights that do not stay dense."""
    points: tuple[Point, ...]
    refused: str = ""
    """Why there are no points: the GPU cannot run the model as it is."""

    @property
    def small(self) -> bool:
        """Most of a decode step of the dense model, at batch 1, is starting kernels."""
        steps = (point for point in self.points if (point.mode, point.batch) == ("decode", 1))
        return any(2 * step.dense_launch_us > step.dense_us for step in steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        points = [{**asdict(point), "ratio": point.ratio} for point in self.points]
        return {**asdict(self), "points": points}


def graph_speedup(
    gm: GraphModule,
    plan: Plan,
    *,
    gpu: str | Profile = "h200",
    seq: int = 1024,
    execution: Execution = "eager",
) -> Speedup:
    """What a plan makes of the whole model.

    Args:
        gm: the dense graph with its sites, as a study holds it; it is left as it is.
        plan: made for this model.
        gpu: profile of the forecast.
        seq: tokens of each sequence in prefill, length of its KV cache in decode.
        execution: ``eager`` or ``compiled``: attention is called differently.

    Raises:
        PlanMismatch: the plan was made for another model.
    """
    sites = (site for _, site in notes.sites(gm))
    return _speedup(plan, sites, "whole model", load_profile(gpu), seq, execution)


def curves_speedup(
    curves: Curves, plan: Plan, *, gpu: str | Profile = "h200", seq: int = 1024
) -> Speedup:
    """What a plan makes of the targeted weights: curves know no other operation of the model.

    Raises:
        PlanMismatch: the plan was made for another model.
    """
    sites = (weight.site for weight in curves.facts.weights)
    return _speedup(plan, sites, "targeted weights only", load_profile(gpu), seq, "eager")


def _speedup(
    plan: Plan,
    given: Iterable[Site],
    scope: Scope,
    profile: Profile,
    seq: int,
    execution: Execution,
) -> Speedup:
    sites = tuple(given)
    check_shapes(plan, {site.name: site for site in sites if _has_weight(site)})
    points, refused = [], ""
    try:
        for mode in MODES:
            for batch in BATCHES:
                clock = Clock(profile, Workload(batch, seq, mode, execution))
                points.append(_point(clock, sites, plan.decisions, plan.blocks))
    except ProfileError as error:
        points, refused = [], str(error)
    return Speedup(
        gpu=profile.name,
        seq=seq,
        execution=execution,
        dtype=plan.provenance.dtype,
        evidence=profile.forecast,
        scope=scope,
        replaced=len(plan.decisions),
        points=tuple(points),
        refused=refused,
    )


def _point(
    clock: Clock,
    sites: Iterable[Site],
    decisions: Mapping[str, Decision],
    blocks: Mapping[str, Heads | Skip],
) -> Point:
    """All sites dense, and each as its decision, or that of its block, has it."""
    dense_us = planned_us = launch_us = 0.0
    grown = Counter[Cause]()
    for own in experts.by_layer(sites):
        site = own[0]
        if experts.is_routed(site):
            routed = tuple(filter(_has_weight, own))
            (before,) = _checked(site, experts.launches(clock, routed, {}))
            after = _checked(site, experts.launches(clock, routed, decisions))
        elif _has_weight(site):
            (before,) = dense = _launches(clock, site, DENSE)
            decision = decisions.get(site.name, DENSE)
            after = dense if decision.is_dense else _launches(clock, site, decision)
        else:
            (before,) = dense = _launches(clock, site, DENSE)
            left = _left(site, blocks)
            after = dense if left == site else _launches(clock, left, DENSE) if left else ()
        runs = site.runs if isinstance(site, MatmulSite) else 1
        dense_us += runs * before.latency.us
        launch_us += runs * before.latency.launch_us
        us = sum(launch.latency.us for launch in after)
        planned_us += runs * us
        if us > before.latency.us:
            grown.update({cause: runs * us for cause, us in _growth(before, after).items()})
    slower = grown.most_common() if planned_us > dense_us else []
    cause = slower[0][0] if slower else None
    run = clock.workload
    return Point(run.mode, run.batch, dense_us, planned_us, launch_us, cause)


def _left(site: Site, blocks: Mapping[str, Heads | Skip]) -> Site | None:
    """What is left of a site that has no weight; None where its block is taken out."""
    parts = site.name.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    block = next((blocks[name] for name in around if name in blocks), None)
    if block is None or isinstance(block, Skip):
        return site if block is None else None
    if isinstance(site, AttentionSite):
        return replace(site, heads_q=block.queries, heads_kv=len(block.groups))
    if isinstance(site, MatmulSite) and site.count.of == "sequence":  # one product for each head
        return replace(site, count=Extent(block.queries, "sequence"))
    return site


def _launches(clock: Clock, site: Site, decision: Decision) -> tuple[Launch, ...]:
    """Kernel and time of each product, and of the copies between them.

    Raises:
        ProfileError: the GPU cannot run one of them.
    """
    return _checked(site, clock.launches(site, decision))


def _checked(site: Site, found: tuple[Launch, ...]) -> tuple[Launch, ...]:
    for launch in found:
        if not isfinite(launch.latency.us):
            raise ProfileError(f"{site.name}: {launch.tier.reason}")
    return found


def _growth(before: Launch, after: tuple[Launch, ...]) -> dict[Cause, float]:
    """What takes a decision longer than the dense weight -> microseconds; fewer are negative."""
    dense, steps = before.latency, [launch.latency for launch in after]
    if experts.is_grouped(before) and not all(map(experts.is_grouped, after)):
        return {"loop": sum(one.us for one in steps) - dense.us}
    compute_us = sum(one.compute_us for one in steps) - dense.compute_us
    memory_us = sum(one.memory_us for one in steps) - dense.memory_us
    launch_us = sum(one.launch_us for one in steps) - dense.launch_us
    if any(launch.tier.tier > before.tier.tier for launch in after):
        return {"launch": launch_us, "kernel": compute_us + memory_us}
    return {"launch": launch_us, "compute": compute_us, "memory": memory_us}


def _has_weight(site: Site) -> TypeGuard[MatmulSite]:
    return isinstance(site, MatmulSite) and site.weight is not None
