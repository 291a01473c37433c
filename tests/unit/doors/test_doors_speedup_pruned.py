"""Forecasts of pruned plans are those of the rewritten graph, whoever makes them.

Oracle: the annotated graph after prune and factorize.
"""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from gacfx.allocation.latency import Clock
from gacfx.api import annotate_graph, apply_to_graph
from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.planned import Planned
from gacfx.core.provenance import Provenance
from gacfx.core.pruning import Heads, Skip, Sliced, Width
from gacfx.core.search import Search
from gacfx.core.sites import Execution, MatmulSite, Workload
from gacfx.core.structures import Structure
from gacfx.coupling.structures import coupled_structures
from gacfx.graph import edit
from gacfx.graph.notes import note, sites
from gacfx.modules.make import make_factors
from gacfx.passes.planning.read_graph import graph_curves
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.replan import plan_from_curves, problem_again
from gacfx.speedup import curves_speedup, graph_speedup
from gacfx.sweep import forecast_us
from gacfx.tracing.export import export_model
from tests import tiny
from tests.families.narrow import decision_of, plan_of
from tests.few import few
from tests.passes.graphs import annotated, graph_of, h200, model_of
from tests.svd import Svd
from tests.unit import made_structures

LIMITED = Search(prune="both", limits=("limit-latency{share=1}",))
EXECUTIONS: tuple[Execution, ...] = ("eager", "compiled")


def with_rests(made: Planned, rests: dict[str, Decision]) -> Planned:
    """The plan with decisions for what is left of some weights."""
    factors, choices = dict(made.factors), []
    for choice in made.plan.choices:
        decision = choice.decision
        if isinstance(decision, Width | Heads):
            parts = list(decision.parts)
            for at, weight in enumerate(choice.weights):
                part, known = parts[at], factors[weight.module]
                if weight.module not in rests or not isinstance(part, Sliced):
                    continue
                rest = rests[weight.module]
                source = Svd.of(known.tensors["weight"], weight.module)
                parts[at] = replace(part, rest=rest)
                shape = weight.rows, weight.columns
                factors[weight.module] = make_factors(
                    source, parts[at], *shape, torch.float32, known.order
                )
            decision = replace(decision, parts=tuple(parts))
        choices.append(replace(choice, decision=decision))
    return Planned(replace(made.plan, choices=tuple(choices)), factors)


def made(family: str, gm: GraphModule, model: Any) -> Planned:
    """Half an MLP, some heads, a skipped MLP and a skipped attention."""
    found = {each.name: each for each in coupled_structures(gm) if not each.refused}
    narrow, wide = (x for x in found.values() if x.kind == "width")
    first, second = (x for x in found.values() if x.kind == "heads")
    units = tuple(range(0, narrow.units, 2))
    chosen: list[tuple[Structure, Width | Heads | Skip]] = [
        (narrow, decision_of(narrow, units)),
        (first, decision_of(first, (1,), ((0,),))),
        *((each, Skip()) for each in (wide, second) if not each.keeps_block),
    ]
    return plan_of(model, *chosen)


def check(gm: GraphModule, one: Planned, execution: Execution) -> None:
    rewritten = apply_to_graph(gm, one)
    found = graph_speedup(gm, one.plan, seq=512, execution=execution)
    for point in found.points:
        run = Workload(point.batch, 512, point.mode, execution)
        dense, pruned = (
            annotate_graph(edit.fork(graph), h200(), run, "").latency_us
            for graph in (gm, rewritten)
        )
        assert point.dense_us == pytest.approx(dense, rel=1e-9)
        assert point.planned_us == pytest.approx(pruned, rel=1e-9)
        assert pruned < 0.9 * dense


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("family", few(["llama", "gpt2", "opt", "phi3"], "llama", "gpt2"))
def test_a_pruned_plan_takes_the_time_of_its_graph(family: str, execution: Execution) -> None:
    gm = annotated(graph_of(family))
    check(gm, made(family, gm, model_of(family)), execution)


def test_ranks_of_what_is_left_are_in_the_forecast() -> None:
    gm = annotated(graph_of("llama"))
    one = made("llama", gm, model_of("llama"))
    name = "model.layers.0.mlp"
    rests: dict[str, Decision] = {f"{name}.gate_proj": Pivot(8), f"{name}.down_proj": LowRank(8)}
    check(gm, with_rests(one, rests), "eager")


def test_attention_that_is_written_out_loses_products_of_its_heads() -> None:
    model = tiny.llama()
    model.config._attn_implementation = "eager"
    gm = annotated(export_model(model))
    written = [site for _, site in sites(gm) if site.name.endswith("self_attn")]
    assert len(written) == 4 and all(isinstance(site, MatmulSite) for site in written)
    check(gm, made("llama", gm, model), "eager")


def test_curves_say_of_the_weights_what_the_graph_says_of_them() -> None:
    gm = annotated(graph_of("llama"))
    one = made("llama", gm, model_of("llama"))
    SyntheticCurves()(gm)
    curves = graph_curves(gm, Provenance("none", "synthetic", gpu="", align=1, dtype="fp32"))
    rewritten = apply_to_graph(gm, one)
    names = {weight.module for weight in curves.facts.weights}
    for point in curves_speedup(curves, one.plan, seq=512).points:
        run = Workload(point.batch, 512, point.mode)
        annotate_graph(rewritten, h200(), run, "")
        found = [
            note(node).latency_us or 0.0 for node, site in sites(rewritten) if site.name in names
        ]
        assert point.planned_us == pytest.approx(sum(found), rel=1e-9)


def test_candidates_of_a_structure_take_the_time_of_their_parts() -> None:
    curves = made_structures.curves()
    plan = plan_from_curves(curves, ratio="0.4", search=LIMITED)
    assert any(isinstance(choice.decision, Width | Heads) for choice in plan.choices)
    clock = Clock(h200(), Workload(1, 1024))
    ns = sum(
        clock.ns(weight.site, part)
        for weight in curves.facts.weights
        for choice in plan.choices
        for module, part in choice.decisions.items()
        if module == weight.module
    )
    assert [limit.spent for limit in plan.limits] == [ns]
    assert forecast_us(curves, plan) == ns / 1e3
    # The same problem again has the same candidates: a limit is one more reason to keep some.
    problem, _ = problem_again(curves, plan)
    assert plan.proof is not None
    assert sum(len(group.costs) for group in problem.groups) == plan.proof.candidates


def test_where_every_block_is_taken_out_nothing_runs() -> None:
    curves = made_structures.curves()
    plan = plan_from_curves(curves, ratio="0.99", search=Search(prune="only"))
    assert set(plan.counts) == {"gone", "dense"} and plan.counts["dense"] == 0
    found = curves_speedup(curves, plan)
    assert [(point.planned_us, point.ratio) for point in found.points] == [(0.0, inf)] * 6
    assert forecast_us(curves, plan) == 0
