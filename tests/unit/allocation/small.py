"""Small planning problems, and the best plan of each by trying every combination.

Nothing here asks gacfx.allocation or a decision for a cost: sizes, parameters and times are counted
again, by the formulas of the three forms.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from gacfx.core.curve_file import Curves, Facts, Target
from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.plan import Plan
from gacfx.core.sites import MatmulSite, Workload
from gacfx.hardware.latency import copy_us, estimate_us
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import load_profile
from tests.unit import made_curves

H200 = load_profile("h200")
Shape = tuple[int, int]


def curves_of(losses: Mapping[str, tuple[Shape, Sequence[float]]], **changes: object) -> Curves:
    """Weights of these shapes with these losses, one for each rank from 0 on; 172 other parameters.

    Args:
        losses: module -> ((rows, columns), losses).
        changes: of every weight.
    """
    weights: list[Target] = [
        made_curves.weight(module, rows=rows, columns=columns, **changes)
        for module, ((rows, columns), _) in losses.items()
    ]
    whole = sum(weight.rows * weight.columns for weight in weights)
    facts: Facts = made_curves.facts(
        weights=tuple(weights),
        targeted_params=whole,
        model_params=whole + 172,
        digests=dict.fromkeys(losses, "d" * 64),
    )
    known = {m: np.array(loss, float) for m, (_, loss) in losses.items()}
    return Curves(facts, {w.module: known[w.module] for w in weights if not w.failed})


def falling(shape: Shape, steps: Sequence[float]) -> tuple[Shape, list[float]]:
    """A curve that falls by these steps, from rank 0 on, to 0 at full rank."""
    full = min(shape)
    tails = np.cumsum(np.resize(np.array(steps, float), full)[::-1])[::-1]
    return shape, [*tails.tolist(), 0.0]


@dataclass(frozen=True)
class Item:
    """A candidate of a weight, counted again."""

    decision: Decision
    params: int
    loss: float
    ns: int


def items(
    shape: Shape,
    losses: Sequence[float],
    step: int,
    *,
    pivots: bool = True,
    site: MatmulSite | None = None,
    workload: Workload | None = None,
) -> Iterator[Item]:
    """Everything that a weight may become; times are 0 without a site."""
    rows, columns = shape
    for rank in range(step, min(shape), step):
        if rank * (rows + columns) < rows * columns:
            params, pair = rank * (rows + columns), LowRank(rank)
            yield Item(pair, params, losses[rank], ns_of(pair, site, workload))
        if pivots and min(shape) % step == 0:
            params, pivot = rank * (rows + columns - rank), Pivot(rank)
            yield Item(pivot, params, losses[rank], ns_of(pivot, site, workload))
    yield Item(DENSE, rows * columns, 0.0, ns_of(DENSE, site, workload))


def ns_of(decision: Decision, site: MatmulSite | None, workload: Workload | None) -> int:
    """Nanoseconds of all kernels of a decision, by the formulas of its form."""
    if site is None or workload is None:
        return 0
    rows, columns, r = site.n.times, site.k.times, decision.rank or 0
    if isinstance(decision, LowRank):
        return gemm_ns(site, columns, r, workload) + gemm_ns(site, r, rows, workload)
    if isinstance(decision, Pivot) and rows <= columns:
        products = gemm_ns(site, columns, r, workload) + gemm_ns(site, r, rows - r, workload)
        return products + copies_ns(site, [rows] * (2 + site.bias), workload)
    if isinstance(decision, Pivot):
        products = gemm_ns(site, columns - r, r, workload) + gemm_ns(site, r, rows, workload)
        return products + sum(copies_ns(site, [width], workload) for width in (columns, r))
    return gemm_ns(site, columns, rows, workload)


def gemm_ns(site: MatmulSite, k: int, n: int, workload: Workload) -> int:
    """Of one product with the rows of a site."""
    one = replace(site, k=replace(site.k, times=k), n=replace(site.n, times=n))
    return round(1000 * estimate_us(one, predict(one, H200, workload), H200, workload).us)


def copies_ns(site: MatmulSite, widths: Sequence[int], workload: Workload) -> int:
    """Of kernels in a row, each of which writes so many numbers for every row of a site."""
    written = [site.m.at(workload) * width for width in widths]
    if workload.execution == "compiled":
        written = [max(written)]
    return round(1000 * copy_us(written, site.dtype, H200).us)


def best_loss(tables: Sequence[Sequence[Item]], params: int, ns: int | None = None) -> float | None:
    """The least loss of all combinations that keep to the budgets; None where there is none."""
    fitting = [
        sum(item.loss for item in plan)
        for plan in product(*tables)
        if sum(item.params for item in plan) <= params
        and (ns is None or sum(item.ns for item in plan) <= ns)
    ]
    return min(fitting, default=None)


def untimed(plan: Plan) -> Plan:
    """The plan without the seconds that finding it took."""
    return replace(plan, proof=plan.proof and replace(plan.proof, seconds=0.0))
