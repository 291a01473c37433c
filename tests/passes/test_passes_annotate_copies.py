"""annotate-sites: what a compressed layer runs beside its products counts as planning counts it."""

import copy
import json
from functools import cache
from itertools import product
from typing import Any

import pytest
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.allocation.latency import Clock
from gacfx.applying import apply_to_graph
from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.sites import CopySite, Execution, Extent, MatmulSite, Mode, Site, Workload
from gacfx.graph.notes import Fact, erase, facts, matmuls, note, sites, targets
from gacfx.graph.pipeline import Pipeline
from gacfx.inspection import Inspection, annotate_graph
from gacfx.modules.install import install_
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.speedup import graph_speedup
from gacfx.tracing.export import export_model
from tests import tiny
from tests.passes.graphs import annotated, h200, planned, run, snapshot

O0, UP0, K1 = (
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.self_attn.k_proj",
)
"""64 x 64 and 32 x 64: pivots among outputs. 176 x 64: pivots among inputs."""
DECISIONS: dict[str, Decision] = {
    O0: Pivot(24),
    UP0: Pivot(16),
    K1: Pivot(8),
    "model.layers.1.mlp.up_proj": LowRank(8),
}
EXECUTIONS: tuple[Execution, ...] = ("eager", "compiled")
RUNS: tuple[tuple[Mode, int], ...] = (("prefill", 2), ("decode", 64))
WORKLOADS = [
    Workload(batch, 512, mode, execution) for (mode, batch), execution in product(RUNS, EXECUTIONS)
]


@cache
def dense(bias: bool) -> Any:
    return tiny.llama(attention_bias=bias, mlp_bias=bias)


@cache
def made(bias: bool) -> tuple[GraphModule, Planned, GraphModule]:
    """A dense graph, a plan, and the rewritten graph."""
    gm = annotated(export_model(dense(bias)))
    one = planned(gm, DECISIONS)
    return gm, one, apply_to_graph(gm, one)


def seen(gm: GraphModule, workload: Workload) -> Inspection:
    return annotate_graph(gm, h200(), workload, "tiny")


def inside(gm: GraphModule, module: str) -> dict[Site, float]:
    """Site -> microseconds of all that stands in a module."""
    found = {}
    for node, site in sites(gm):
        if site.name == module or site.name.startswith(f"{module}."):
            us = note(node).latency_us
            assert us is not None
            found[site] = us
    return found


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: f"{w.mode}-{w.execution}")
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_a_rewritten_graph_takes_the_time_that_was_planned(bias: bool, workload: Workload) -> None:
    gm, one, rewritten = made(bias)
    seen(rewritten, workload)
    clock = Clock(h200(), workload)
    weights = {site.name: site for _, site in matmuls(gm)}
    for module, decision in one.plan.decisions.items():
        found = inside(rewritten, module)
        launches = clock.launches(weights[module], decision)
        assert list(found.values()) == [launch.latency.us for launch in launches]
        ns = clock.ns(weights[module], decision)
        assert 1000 * sum(found.values()) == pytest.approx(ns, abs=len(launches) / 2)
        # Each operator is a kernel in eager mode, and each run of them is one when compiled.
        copied = [site for site in found if isinstance(site, CopySite)]
        kernels = [n for site in copied for n in site.kernels(workload)]
        eager, runs = (2, 2) if module == UP0 else (2 + bias, 1)
        many = eager if workload.execution == "eager" else runs
        assert len(kernels) == (many if isinstance(decision, Pivot) else 0)


def test_what_the_copies_are() -> None:
    token = Extent(1, "token")
    for bias, tail in ((False, ()), (True, ("sum",))):
        _, _, gm = made(bias)
        found = [site for _, site in sites(run(gm, AnnotateSites())) if isinstance(site, CopySite)]
        assert found == [
            CopySite(O0, token, (64,) * (2 + bias), "fp32", ("join", "gather", *tail)),
            CopySite(UP0, token, (64,), "fp32", ("gather",)),
            CopySite(UP0, token, (16,), "fp32", ("sum",)),
            CopySite(K1, token, (32,) * (2 + bias), "fp32", ("join", "gather", *tail)),
        ]


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_a_captured_model_has_the_sites_of_the_rewritten_graph(bias: bool) -> None:
    _, one, gm = made(bias)
    model = copy.deepcopy(dense(bias))
    install_(model, one.factors)
    ours = seen(gm, Workload())
    theirs = seen(export_model(model), Workload())
    assert theirs.rows == ours.rows
    assert [site for _, site in sites(theirs.graph)] == [site for _, site in sites(gm)]


def test_copies_are_in_the_forecast_and_in_no_share() -> None:
    gm, one, rewritten = made(True)
    before, after = seen(gm, Workload()), seen(rewritten, Workload())
    copied = [row for row in after.rows if row.kernel == "copy"]
    assert len(copied) == 4 and not any(row.kernel == "copy" for row in before.rows)
    assert {(row.tier, row.flops, row.note) for row in copied} == {(1, 0, "")}
    products = sum(row.latency_us for row in after.rows if row.kernel != "copy")
    assert after.latency_us == pytest.approx(products + sum(row.latency_us for row in copied))
    assert sum(number for number, _ in after.tiers().values()) == len(after.rows) - len(copied)
    assert sum(number for number, _ in before.tiers().values()) == len(before.rows)
    # One more product for each weight that is replaced, and no further target.
    assert len(list(matmuls(rewritten))) == len(list(matmuls(gm))) + len(one.plan.decisions)
    assert {s.name for _, s in targets(rewritten)}.isdisjoint(row.name for row in copied)
    assert all(note(n).targeted is None for n, s in sites(rewritten) if isinstance(s, CopySite))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_the_speedup_of_a_plan_is_that_of_its_graph(execution: Execution) -> None:
    gm, one, rewritten = made(True)
    found = graph_speedup(gm, one.plan, gpu=h200(), seq=512, execution=execution)
    again = graph_speedup(
        rewritten, one_that_keeps(rewritten), gpu=h200(), seq=512, execution=execution
    )
    for point, kept in zip(found.points, again.points, strict=True):
        run = Workload(point.batch, 512, point.mode, execution)
        assert seen(gm, run).latency_us == pytest.approx(point.dense_us)
        assert seen(rewritten, run).latency_us == pytest.approx(point.planned_us)
        assert kept.dense_us == kept.planned_us == pytest.approx(point.planned_us)


def one_that_keeps(gm: GraphModule) -> Plan:
    """A plan under which nothing is replaced."""
    return planned(gm, {}, dense=["lm_head"]).plan


def test_facts_need_the_copies_as_well() -> None:
    _, _, gm = made(False)
    seen(gm, Workload())
    assert {Fact.TIERS, Fact.LATENCY, Fact.TARGETS} <= facts(gm)
    node = next(node for node, site in sites(gm) if isinstance(site, CopySite))
    erase(node, "latency_us")
    assert Fact.LATENCY not in facts(gm)
    erase(node, "tier")
    assert Fact.TIERS not in facts(gm)


def test_twice_is_once() -> None:
    _, _, gm = made(True)
    analyse = Pipeline.parse(pipelines.ANALYSE).bind(profile=h200(), workload=Workload())
    analyse.run(gm)
    before = snapshot(gm)
    analyse.run(gm)
    assert snapshot(gm) == before


def test_a_note_of_a_copy_is_plain_json_and_comes_back() -> None:
    _, _, gm = made(True)
    again = copy.deepcopy(run(gm, AnnotateSites()))
    for node in again.graph.nodes:
        node.meta["custom"] = json.loads(json.dumps(node.meta.get("custom", {})))
    assert [site for _, site in sites(again)] == [site for _, site in sites(gm)]
    assert any(isinstance(site, CopySite) for _, site in sites(again))


def test_a_model_without_compressed_layers_has_no_copies() -> None:
    gm, _, _ = made(True)
    assert all(isinstance(site, MatmulSite) or site.flops(Workload()) for _, site in sites(gm))
