"""What ``gacfx plan`` shows: two real layers with made-up curves, planned four ways."""

from dataclasses import replace
from pathlib import Path
from textwrap import indent

import pytest
from rich.console import Group
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.provenance import Provenance, Trial
from gacfx.core.search import Bound, Search
from gacfx.demo import REAL
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware import profile as profiles
from gacfx.passes.planning.read_graph import graph_curves
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.replan import plan_from_curves, synthetic_graph
from gacfx.report.speedup_view import speedup_view
from gacfx.report.tables import plan_view
from gacfx.speedup import curves_speedup, graph_speedup
from tests.golden.goldens import NARROW, check, render, shapes
from tests.unit import made_structures

WAYS = {
    "default": (Goal(ratio="0.2"), Search()),
    "pairs": (Goal(ratio="0.2"), Search(form="pair")),
    "limited": (
        Goal(params="1.4G"),
        Search(
            tp=2,
            quant="fp8",
            uniform=True,
            bounds=(Bound("*.k_proj", 64, 512),),
            limits=("limit-latency{share=0.9}",),
        ),
    ),
    "paper": (Goal(ratio="0.2"), Search.paper()),
}


def planned(gm: GraphModule, goal: Goal, search: Search) -> Plan:
    """The plan of two layers of Llama-3-8B, as ``gacfx plan --synthetic 0.5`` makes it."""
    Pipeline.parse(pipelines.SELECT).run(gm)
    paper = search.value == "paper"
    SyntheticCurves(value="paper" if paper else SyntheticCurves.value)(gm)
    model = "synthetic decay 0.5" + (", paper" if paper else "")
    curves = graph_curves(gm, Provenance("none", model, gpu="", align=1, dtype="bf16"))
    return plan_from_curves(curves, goal=goal, search=search)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_plan_shows(way: str) -> None:
    gm = shapes("llama-3-8b")
    plan = planned(gm, *WAYS[way])
    assert plan.proof is not None
    timeless = replace(plan, proof=replace(plan.proof, seconds=0.0))
    faster = speedup_view(graph_speedup(gm, plan))
    view = Group(plan_view(timeless), "", faster)
    check(f"plan_{way}", render(view))
    check(f"plan_{way}_80", render(view, NARROW))


def test_what_a_plan_of_structures_shows() -> None:
    curves = made_structures.curves(layers=3)
    plan = plan_from_curves(curves, ratio="0.45", search=Search(prune="both"))
    assert plan.proof is not None
    tried = (
        Trial("two-sided", 2.9, False, 0.1, "either"),
        Trial("two-sided", 2.8, True, 0.1, "both"),
    )
    made = replace(plan.provenance, trials=tried, dense_nats_per_token=2.75)
    timeless = replace(
        plan,
        proof=replace(plan.proof, seconds=0.0),
        provenance=made,
        unpruned={
            f"model.layers.{i}.experts": "experts in one tensor, planned one by one" for i in (1, 2)
        },
    )
    view = Group(plan_view(timeless), "", speedup_view(curves_speedup(curves, plan)))
    check("plan_pruned", render(view))
    check("plan_pruned_80", render(view, NARROW))


def test_how_much_faster_llama_3_8b_gets_is_what_demo_and_readme_say() -> None:
    graph, curves = synthetic_graph("llama-3-8b")
    text = render(speedup_view(graph_speedup(graph, plan_from_curves(curves, ratio="0.2"))))
    check(REAL.stem, text, REAL.parent)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert indent(text, "    ") in readme


def test_the_head_of_a_plan_says_that_a_gpu_has_vendor_figures_only() -> None:
    plan = planned(shapes("llama-3-8b"), *WAYS["default"])
    made = replace(plan, provenance=replace(plan.provenance, gpu="l4"))
    assert "l4 (vendor figures only), ranks in steps of 8" in render(
        plan_view(made, profiles.load("l4"))
    )
    assert "vendor" not in render(plan_view(plan, profiles.load("h200")))
