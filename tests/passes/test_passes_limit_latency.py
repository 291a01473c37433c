"""limit-latency: a second budget in nanoseconds from the forecasts of the launches that would run.

Oracle: the annotated graph itself, dense and rewritten, timed by estimate-latency.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.fx import GraphModule

from gacfx.allocation.latency import Clock, ShareOfDense, bare
from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.sites import MatmulSite, Workload
from gacfx.errors import PassError
from gacfx.graph.notes import matmuls, note, state, targets
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.estimate_latency import EstimateLatency
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.planning.limit_latency import LimitLatency
from gacfx.passes.planning.measure_curves import dense_weight
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.passes.rewrite.factorize import Factorize
from tests.passes.graphs import (
    DOWN0,
    Q0,
    annotated,
    graph_of,
    h200,
    llama,
    planned,
    provenance,
    run,
    site_of,
    snapshot,
)
from tests.svd import Svd


def swept(family: str = "llama") -> GraphModule:
    return run(annotated(graph_of(family)), SyntheticCurves(), SweepCandidates(align=4))


def limited(gm: GraphModule, **options: Any) -> ShareOfDense:
    (limit,) = state(run(gm, LimitLatency(profile=h200(), **options))).limits
    assert isinstance(limit, ShareOfDense)
    return limit


def forecasts(gm: GraphModule, workload: Workload) -> dict[str, int]:
    """Module -> nanoseconds of its matmul nodes, as inspection shows them."""
    run(gm, AnnotateSites(), PredictTiers(profile=h200(), workload=workload))
    run(gm, EstimateLatency(profile=h200(), workload=workload))
    found = {}
    for node, site in matmuls(gm):
        us = note(node).latency_us
        assert us is not None
        found[site.name] = round(us * 1000)
    return found


@pytest.mark.parametrize("workload", [Workload(1, 1024), Workload(8, 512, "decode")], ids=str)
def test_every_candidate_costs_what_the_rewritten_graph_would(workload: Workload) -> None:
    gm = swept()
    run_it = {"mode": workload.mode, "batch": workload.batch, "seq": workload.seq}
    limit = limited(gm, **run_it)
    candidates = state(gm).candidates
    assert candidates is not None
    dense = forecasts(llama(), workload)
    for rank in (4, 12, 20):
        made = planned(llama(), {Q0: rank, DOWN0: rank})
        rewritten = run(annotated(llama()), Factorize(plan=made.plan, factors=made.factors))
        pair = forecasts(rewritten, workload)
        for module in (Q0, DOWN0):
            cost = limit.costs[module][candidates[module].index(LowRank(rank))]
            assert cost == pair[f"{module}.down"] + pair[f"{module}.up"] > 0
            assert limit.costs[module][candidates[module].index(DENSE)] == dense[module]


@pytest.mark.parametrize("decision", [LowRank(8), Pivot(8)], ids=str)
@pytest.mark.parametrize("part", ["attn.c_attn", "attn.c_proj", "mlp.c_proj"])
def test_the_products_are_those_of_the_rewritten_graph(decision: Decision, part: str) -> None:
    # An addmm with a bias, and a weight that lies the other way round; tall, square and wide.
    gm, name = annotated(graph_of("gpt2")), f"transformer.h.0.{part}"
    _, site = site_of(gm, name)
    assert isinstance(site, MatmulSite)
    weight = dense_weight(gm, site)
    rows, columns = weight.shape
    choice = Choice.single(name, rows, columns, decision, None, 0.0)
    plan = Plan((choice,), Budget("0", "targeted", 0, 0, 0), None, provenance())
    factors = FactorSet({name: Svd.of(weight).factors(decision)})
    run(gm, Factorize(plan=plan, factors=factors), AnnotateSites())
    made = [bare(found) for _, found in matmuls(gm) if found.name.startswith(f"{name}.")]
    clock = Clock(h200(), Workload())
    launches = clock.launches(site, decision)
    forecast = [launch.latency for launch in launches if launch.tier.kernel != "copy"]
    assert forecast == [clock.forecast(each).latency for each in made] and len(made) == 2
    assert clock.launches(site, DENSE) == (clock.forecast(bare(site)),)
    # What is no product is a copy of its own.
    assert (len(launches) > len(forecast)) == (decision == Pivot(8))


def test_the_limit_is_the_share_of_all_dense_targets() -> None:
    gm = swept()
    dense = sum(
        ns
        for name, ns in forecasts(llama(), Workload()).items()
        if name in {site.name for _, site in targets(gm)}
    )
    assert limited(gm).most == limited(gm, share=1.0).dense == dense
    assert limited(gm, share=0.3).most == dense * 3 // 10
    assert limited(gm, share=1.5).most == dense * 3 // 2


def test_it_says_that_times_come_from_rules_and_for_which_workload() -> None:
    limit = limited(swept(), mode="decode", batch=4, seq=2048)
    assert (limit.name, limit.unit) == ("decode latency", "ns")
    assert limit.source == "rule-based, decode, 4 x 2048 tokens, h200"


def test_microseconds_are_a_limit_of_their_own() -> None:
    gm = swept()
    dense = limited(gm).dense
    absolute = limited(gm, us=0.1)
    assert (absolute.most, absolute.dense) == (100, dense)
    # Twice the dense time is no share of 1: a plan may be slower than dense.
    assert limited(gm, us=dense / 500).most == dense * 2


def test_a_limit_is_replaced_by_one_of_its_mode_and_stands_beside_one_of_the_other() -> None:
    gm = swept()
    first = limited(gm)
    second = limited(gm, batch=256)
    assert not np.array_equal(first.costs[Q0], second.costs[Q0])
    assert state(gm).limits == (second,)
    run(gm, LimitLatency(profile=h200(), mode="decode"))
    prefill, decode = state(gm).limits
    assert (prefill, prefill.name, decode.name) == (second, "prefill latency", "decode latency")


def test_weights_alike_share_their_times() -> None:
    limit = limited(swept())
    assert limit.costs[Q0] is limit.costs[Q0.replace("layers.0", "layers.1")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share 0.0 is not a finite number above 0; 0.9 is 90 % of dense"),
        ({"share": -1.0}, "share -1.0 is not a finite number above 0"),
        ({"share": float("nan")}, "share nan is not a finite number above 0"),
        ({"share": float("inf")}, "share inf is not a finite number above 0"),
        ({"us": -1.0}, "us -1.0 is no time in microseconds, such as 5200"),
        ({"us": float("nan")}, "us nan is no time in microseconds"),
        ({"us": 5.0, "share": 0.5}, "share 0.5 and us 5.0 are both given; give one"),
        ({"mode": "training"}, "no mode 'training'; known: prefill, decode"),
        ({"batch": 0}, "batch 0 and seq 1024 must be at least 1"),
        ({"seq": 0}, "batch 1 and seq 0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    gm = swept()
    with pytest.raises(PassError, match=f"^limit-latency: {message}"):
        limited(gm, **options)
    assert state(gm).limits == ()


def test_what_the_gpu_cannot_multiply_has_no_time() -> None:
    without = {d: f for d, f in h200().peak_tflops.items() if d != "fp32"}
    step = LimitLatency(profile=replace(h200(), peak_tflops=without))
    with pytest.raises(PassError, match="q_proj: h200 has no fp32 matmul; no time can be forecast"):
        step(swept())


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = swept()
    before = snapshot(gm)
    first = limited(gm)
    assert snapshot(gm) == before
    assert limited(gm) == first
