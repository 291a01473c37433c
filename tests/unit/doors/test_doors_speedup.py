"""How much faster: every ratio is that of the rewritten graph, and what is slower says why.

Oracle: the annotated graph itself, dense and rewritten.
"""

from dataclasses import replace

import numpy as np
import pytest

from gacfx.allocation.latency import Clock, Launch
from gacfx.api import annotate_graph, apply_to_graph
from gacfx.core.curve_file import Curves, Target
from gacfx.core.decision import DENSE, Decision, LowRank, Pivot, of_rank
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.sites import Execution, Site, Workload
from gacfx.errors import PlanMismatch, ProfileError
from gacfx.graph import edit
from gacfx.speedup import Cause, Point, curves_speedup, graph_speedup
from tests.passes.graphs import (
    DOWN0,
    Q0,
    Q1,
    annotated,
    graph_of,
    h200,
    llama,
    planned,
    provenance,
)
from tests.unit import made_curves

A, B = made_curves.LOSSES


def paired(a: int | None, b: int | None) -> Plan:
    """Ranks of pairs for the two weights of the hand-made curves."""
    return decided(of_rank(a), of_rank(b))


def decided(a: Decision, b: Decision) -> Plan:
    """Decisions for the two weights of the hand-made curves."""
    choices = (Choice.single(A, 8, 8, a, None, 0.0), Choice.single(B, 8, 8, b, None, 0.0))
    return Plan(choices, Budget("0.2", "targeted", 0, 0, 0), None, provenance())


def point_of(shape: tuple[int, int], rank: int, mode: str, batch: int, *more: int) -> Point:
    """Weights of M tokens x this shape: one at a rank, and one at each further rank."""
    rows, columns = shape
    ranks = {f"layers.{number}.a": each for number, each in enumerate((rank, *more))}
    weights: list[Target] = [made_curves.weight(m, rows=rows, columns=columns) for m in ranks]
    facts = made_curves.facts(
        weights=tuple(weights),
        targeted_params=len(ranks) * rows * columns,
        model_params=len(ranks) * rows * columns + 172,
        digests=dict.fromkeys(ranks, "d" * 64),
    )
    choices = tuple(
        Choice.single(m, rows, columns, of_rank(each), None, 0.0) for m, each in ranks.items()
    )
    plan = Plan(choices, Budget("0.2", "targeted", 0, 0, 0), None, provenance())
    found = curves_speedup(Curves(facts, {m: np.zeros(min(shape) + 1) for m in ranks}), plan)
    (point,) = (p for p in found.points if (p.mode, p.batch) == (mode, batch))
    return point


@pytest.mark.parametrize(("family", "execution"), [("llama", "eager"), ("opt", "compiled")])
def test_every_ratio_is_that_of_the_rewritten_graph(family: str, execution: Execution) -> None:
    gm = annotated(graph_of(family))
    names = [name.removesuffix(".weight") for name, p in gm.named_parameters() if p.ndim == 2]
    named = [name for name in names if any(kind in name for kind in ("q_proj", "v_proj", "fc1"))]
    assert len(named) >= 4
    made = planned(gm, {name: 5 + number for number, name in enumerate(named)})
    found = graph_speedup(gm, made.plan, seq=512, execution=execution)
    rewritten = apply_to_graph(gm, made)
    assert (found.scope, found.replaced, found.refused) == ("whole model", len(named), "")
    assert [(p.mode, p.batch) for p in found.points] == [
        (mode, batch) for mode in ("prefill", "decode") for batch in (1, 8, 64)
    ]
    for point in found.points:
        run = Workload(point.batch, 512, point.mode, execution)
        dense, pairs = (
            annotate_graph(edit.fork(graph), h200(), run, "").latency_us
            for graph in (gm, rewritten)
        )
        assert point.dense_us == pytest.approx(dense, rel=1e-9)
        assert point.planned_us == pytest.approx(pairs, rel=1e-9)
        assert point.ratio == pytest.approx(dense / pairs, rel=1e-9)


def test_the_graph_is_left_as_it_is() -> None:
    gm = annotated(llama())
    plan = planned(gm, {Q0: 4, DOWN0: 8}).plan
    before = str(gm.graph), [node.meta.get("custom") for node in gm.graph.nodes]
    graph_speedup(gm, plan)
    assert (str(gm.graph), [node.meta.get("custom") for node in gm.graph.nodes]) == before


def test_curves_know_the_targeted_weights_only() -> None:
    found = curves_speedup(made_curves.curves(), paired(2, None))
    assert (found.scope, found.replaced) == ("targeted weights only", 1)
    kept, both = (curves_speedup(made_curves.curves(), paired(*r)) for r in ((2, None), (2, 2)))
    for one, two in zip(kept.points, both.points, strict=True):
        # Both weights are alike, so the second pair costs what the first one did.
        assert two.planned_us - one.planned_us == pytest.approx(one.planned_us - one.dense_us)


@pytest.mark.parametrize(
    ("shape", "rank", "mode", "batch", "cause"),
    [
        ((128, 128), 56, "decode", 1, "launch"),
        ((128, 128), 56, "prefill", 64, "memory"),  # 65,536 rows pass between the products
        ((4096, 4096), 2040, "prefill", 64, "compute"),  # as many products, in narrower tiles
        ((4096, 4096), 1107, "prefill", 8, "kernel"),  # an odd size
    ],
)
def test_what_is_slower_says_why(
    shape: tuple[int, int], rank: int, mode: str, batch: int, cause: Cause
) -> None:
    point = point_of(shape, rank, mode, batch)
    assert point.ratio < 1 and point.cause == cause


def test_what_is_faster_needs_no_reason() -> None:
    point = point_of((4096, 4096), 512, "prefill", 8)
    assert point.ratio > 2 and point.cause is None


def test_the_reason_is_that_of_the_weights_that_got_slower() -> None:
    alone = point_of((4096, 4096), 2051, "decode", 1)
    assert alone.ratio < 1 and alone.cause == "kernel"
    # The other weight starts two kernels as well, and gains: launches are not what it is about.
    beside = point_of((4096, 4096), 2051, "decode", 1, 512)
    assert beside.ratio < 1 and beside.cause == "kernel"


def test_where_the_whole_is_faster_a_slower_weight_needs_no_reason() -> None:
    point = point_of((4096, 4096), 2051, "decode", 1, 512, 512, 512)
    assert point.ratio > 1 and point.cause is None


def test_a_model_is_small_where_decode_is_mostly_launches() -> None:
    gm = annotated(llama())
    assert graph_speedup(gm, planned(gm, {Q0: 4}).plan).small
    large = point_of((4096, 4096), 512, "decode", 1)
    assert 0 < 2 * large.dense_launch_us < large.dense_us


def test_a_pivot_takes_its_products_and_its_copies() -> None:
    found = curves_speedup(made_curves.curves(), decided(Pivot(4), DENSE))
    assert found.replaced == 1
    sites = [weight.site for weight in made_curves.facts().weights]
    for point in found.points:
        clock = Clock(h200(), Workload(point.batch, 1024, point.mode))
        steps = [*clock.launches(sites[0], Pivot(4)), *clock.launches(sites[1], DENSE)]
        assert len(steps) == 4  # two products, the copies after them, a dense product
        assert point.planned_us == pytest.approx(sum(step.latency.us for step in steps))
        # Four kernels where one was: nothing so small gets faster.
        assert point.ratio < 1 and point.cause == "launch"
    pair = curves_speedup(made_curves.curves(), decided(LowRank(4), DENSE))
    for two, four in zip(pair.points, found.points, strict=True):
        assert two.planned_us < four.planned_us


def test_a_dense_plan_is_as_fast_as_the_model() -> None:
    gm = annotated(llama())
    found = graph_speedup(gm, planned(gm, {}, dense=[Q0, Q1]).plan)
    assert found.replaced == 0 and {(p.ratio, p.cause) for p in found.points} == {(1.0, None)}


def test_a_gpu_without_the_dtype_has_no_points_and_says_so() -> None:
    gm = annotated(llama())
    without = {d: f for d, f in h200().peak_tflops.items() if d != "fp32"}
    found = graph_speedup(gm, planned(gm, {Q0: 4}).plan, gpu=replace(h200(), peak_tflops=without))
    assert found.points == () and not found.small
    assert found.refused == f"{Q0}: h200 has no fp32 matmul"


def test_a_gpu_that_can_run_some_steps_only_has_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Clock.forecast

    def small_batches(self: Clock, site: Site) -> Launch:
        if self.workload.batch > 1:
            raise ProfileError("too many sequences")
        return real(self, site)

    monkeypatch.setattr(Clock, "forecast", small_batches)
    found = curves_speedup(made_curves.curves(), paired(2, 2))
    assert (found.points, found.refused) == ((), "too many sequences")


def test_a_plan_of_another_model_is_refused() -> None:
    plan = planned(annotated(llama()), {Q0: 4}).plan
    with pytest.raises(PlanMismatch, match="q_proj"):
        curves_speedup(made_curves.curves(), plan)


def test_the_value_is_plain_json_with_its_ratios() -> None:
    found = curves_speedup(made_curves.curves(), paired(2, 2))
    said = found.to_dict()
    assert said["points"][0]["ratio"] == found.points[0].ratio
    assert (said["evidence"], said["gpu"], said["seq"]) == ("rule-based", "h200", 1024)
