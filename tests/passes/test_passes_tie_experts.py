"""tie-experts: the experts of one layer are held to one size, and nothing else is."""

import copy
from functools import cache
from typing import Any

import pytest
from torch.fx import GraphModule

import gacfx
from gacfx.allocation.ties import expert_of
from gacfx.core.decision import DENSE
from gacfx.errors import PassError
from gacfx.graph.notes import state
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.passes.planning.tie_experts import TieExperts
from tests.families.zoo import FAMILIES
from tests.passes.graphs import annotated, run, snapshot

FIRST = tuple(f"model.layers.0.mlp.experts.{n}.fc1" for n in range(4))


@cache
def captured() -> GraphModule:
    model: Any = gacfx.unpacked(FAMILIES["mixtral"].make())
    return gacfx.capture(model)


def swept(bounds: tuple[str, ...] = ()) -> GraphModule:
    return run(
        annotated(copy.deepcopy(captured())), SyntheticCurves(), SweepCandidates(bounds=bounds)
    )


def test_each_tensor_of_experts_is_one_rule() -> None:
    gm = run(swept(), TieExperts())
    rules = [rule.groups for rule in state(gm).rules]
    assert len(rules) == 4 and FIRST in rules
    assert {len(groups) for groups in rules} == {4}


def test_the_expert_is_the_last_number() -> None:
    assert expert_of("model.layers.11.mlp.experts.7.fc1") == "model.layers.11.mlp.experts.*.fc1"
    assert expert_of("model.layers.11.mlp.experts.7") == "model.layers.11.mlp.experts.*"


def test_an_expert_that_can_only_stay_dense_does_not_hold_back_the_others() -> None:
    gm = swept()
    offered = state(gm).candidates
    assert offered is not None
    offered[FIRST[2]] = (DENSE,)
    rules = [rule.groups for rule in state(run(gm, TieExperts())).rules]
    assert (FIRST[0], FIRST[1], FIRST[3]) in rules


def test_bounds_that_no_rank_is_within_are_named_with_the_layer() -> None:
    gm = swept(bounds=(f"{FIRST[0]}=8:8", f"{FIRST[1]}=16:16"))
    with pytest.raises(PassError) as caught:
        run(gm, TieExperts())
    assert str(caught.value) == (
        "tie-experts: wants one rank for the 4 weights model.layers.0.mlp.experts.*.fc1, and "
        "no rank is within the bounds of them all; loosen a bound or drop tie-experts"
    )


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = swept()
    before, step = snapshot(gm), TieExperts()
    assert not step(gm).modified
    assert snapshot(gm) == before
    rules = state(gm).rules
    run(gm, step)
    assert state(gm).rules == rules


def test_a_model_without_experts_has_nothing_to_tie() -> None:
    model = FAMILIES["llama"].make()
    gm = run(annotated(gacfx.capture(model)), SyntheticCurves(), SweepCandidates())
    assert state(run(gm, TieExperts())).rules == ()
