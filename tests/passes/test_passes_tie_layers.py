"""tie-layers: the layers of one kind of projection are held to one size, and nothing else is."""

from dataclasses import replace

import pytest
from torch.fx import GraphModule

from gacfx.allocation.ties import kind_of
from gacfx.core.decision import DENSE
from gacfx.core.sites import Extent
from gacfx.errors import PassError
from gacfx.graph.notes import Fact, state, targets
from gacfx.knapsack.limits import SameLabel
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.passes.planning.tie_layers import TieLayers
from tests.passes.graphs import Q0, Q1, annotated, llama, run, snapshot


def swept() -> GraphModule:
    return run(annotated(llama()), SyntheticCurves(), SweepCandidates())


def test_every_kind_of_projection_is_one_rule() -> None:
    gm = run(swept(), TieLayers())
    rules = state(gm).rules
    assert len(rules) == 7 and SameLabel((Q0, Q1)) in rules
    assert {len(rule.groups) for rule in rules} == {2}


def test_the_kind_is_the_name_without_numbers() -> None:
    assert kind_of("model.layers.11.mlp.up_proj") == "model.layers.*.mlp.up_proj"
    assert kind_of("decoder.h.3.experts.0.w1") == "decoder.h.*.experts.*.w1"


def test_weights_of_other_shapes_are_of_another_kind() -> None:
    gm = swept()
    sites = {site.name: site for _, site in targets(gm)}
    sites[Q1] = replace(sites[Q1], n=Extent(96))
    TieLayers().restrict(state(gm), sites)
    rules = state(gm).rules
    assert len(rules) == 6 and not any(Q1 in rule.groups for rule in rules)


def test_a_weight_that_can_only_stay_dense_does_not_hold_back_the_others() -> None:
    gm = swept()
    offered = state(gm).candidates
    assert offered is not None
    offered[Q1] = (DENSE,)
    rules = state(run(gm, TieLayers())).rules
    assert len(rules) == 6 and not any(Q1 in rule.groups for rule in rules)


def test_bounds_that_no_rank_is_within_are_named_with_the_kind() -> None:
    bounds = (f"{Q0}=8:8", f"{Q1}=16:16")
    gm = run(annotated(llama()), SyntheticCurves(), SweepCandidates(bounds=bounds))
    with pytest.raises(PassError) as caught:
        run(gm, TieLayers())
    assert str(caught.value) == (
        "tie-layers: uniform wants one rank for the 2 weights model.layers.*.self_attn.q_proj, and "
        "no rank is within the bounds of them all; loosen a bound or drop uniform"
    )


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = swept()
    before = snapshot(gm)
    step = TieLayers()
    assert not step(gm).modified
    assert snapshot(gm) == before
    rules = state(gm).rules
    run(gm, step)
    assert state(gm).rules == rules
    assert Fact.PLAN in step.drops
