"""Forecasts of mixtures: experts of one size are grouped products, others run one by one.

Oracle: the annotated graphs of the packed model and of the grouped one, and sums over experts.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from torch.fx import GraphModule

import gacfx
from gacfx import api, pipelines
from gacfx.allocation import experts
from gacfx.allocation.latency import Clock, chosen_share
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.search import Search
from gacfx.core.sites import Extent, MatmulSite, Workload
from gacfx.graph import edit
from gacfx.graph.pipeline import Pipeline
from gacfx.replan import plan_from_curves, synthetic_graph
from gacfx.report.speedup_view import speedup_view
from gacfx.speedup import graph_speedup
from tests.families.zoo import FAMILIES
from tests.passes.graphs import h200
from tests.unit.checkpoint.tiny_models import cast_
from tests.unit.modules.test_grouped import TIED, corpus

SITE = MatmulSite("l.0.experts.0.fc1", Extent(2, "token", 8), Extent(64), Extent(96), "bf16")


def site(number: int) -> MatmulSite:
    return replace(SITE, name=f"l.0.experts.{number}.fc1")


def bf16() -> Any:
    return cast_(cast(Any, FAMILIES["qwen3moe"].make()), torch.bfloat16)


def of_graph(gm: GraphModule, run: Workload) -> float:
    return api.annotate_graph(edit.fork(gm), h200(), run, "").latency_us


def test_tied_experts_cost_what_the_grouped_model_costs() -> None:

    made = gacfx.compress(bf16(), calibration=corpus(), ratio=0.3, search=TIED)
    one_by_one = gacfx.capture(bf16(), one_by_one=True)
    Pipeline.parse(pipelines.SELECT).run(one_by_one)
    found = graph_speedup(one_by_one, made.planned.plan, seq=256)
    assert gacfx.group_experts_(made.model) == {}
    packed: Any = bf16()
    packed.set_experts_implementation("grouped_mm")
    graphs = gacfx.capture(packed), gacfx.capture(made.model)
    for point in found.points:
        run = Workload(point.batch, 256, point.mode, "eager")
        want = [of_graph(graph, run) for graph in graphs]
        assert point.dense_us == pytest.approx(want[0], rel=1e-9)
        assert point.planned_us == pytest.approx(want[1], rel=1e-9)


@pytest.mark.parametrize(
    ("mode", "batch", "share"), [("decode", 1, 0.25), ("decode", 8, 1.0), ("prefill", 1, 1.0)]
)
def test_experts_of_their_own_sizes_run_one_by_one(mode: Any, batch: int, share: float) -> None:
    clock = Clock(h200(), Workload(batch, 512, mode))
    own = [site(number) for number in range(8)]
    assert chosen_share(own[0], clock.workload) == share
    decisions = {own[0].name: LowRank(8), own[1].name: Pivot(16)}
    found = experts.launches(clock, own, decisions)
    alone = [clock.launches(each, decisions.get(each.name, DENSE)) for each in own]
    want = sum(launch.latency.us for each in alone for launch in each)
    assert sum(launch.latency.us for launch in found) == pytest.approx(share * want)
    assert not any(map(experts.is_grouped, found))
    assert clock.ns(own[0], DENSE) == pytest.approx(share * alone[7][0].latency.us * 1000, abs=1)


def test_pivots_are_no_grouped_products_and_pairs_are() -> None:
    clock, own = Clock(h200(), Workload(1, 512, "decode")), [site(number) for number in range(8)]
    pairs = experts.launches(clock, own, {each.name: LowRank(8) for each in own})
    assert len(pairs) == 2 and all(map(experts.is_grouped, pairs))
    pivots = experts.launches(clock, own, {each.name: Pivot(8) for each in own})
    assert not any(map(experts.is_grouped, pivots))
    (dense,) = experts.launches(clock, own, {})
    assert experts.is_grouped(dense)


def test_many_small_experts_of_their_own_sizes_are_slower_and_the_reason_is_told(
    tmp_path: Path,
) -> None:
    sizes = {
        "num_local_experts": 16,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 128,
        "hidden_size": 256,
    }
    config = {**bf16().config.to_dict(), **sizes, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    gm, curves = synthetic_graph(tmp_path, skip=("*.self_attn.*",))
    found = {}
    for name, search in {"own": Search(), "tied": TIED}.items():
        plan = plan_from_curves(curves, ratio="0.3", search=replace(search, value="auto"))
        found[name] = graph_speedup(gm, plan)
    pairs = zip(found["own"].points, found["tied"].points, strict=True)
    assert all(tied.planned_us < own.planned_us for own, tied in pairs)
    slower = {point.cause for point in found["own"].points if point.ratio < 1}
    assert slower == {"loop"}
    said = Console(width=200, record=True, file=io.StringIO())
    said.print(speedup_view(found["own"]))
    assert "--form pair --limit tie-experts" in said.export_text()
