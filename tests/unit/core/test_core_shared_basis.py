"""One basis for weights of several layers: decisions, whose basis it is, plans, and curves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gacfx.core.curve_file import Curves, Facts, Target, _read, load_curves, save_curves
from gacfx.core.decision import DENSE, Gemm, LowRank, Stored
from gacfx.core.kinds import read_decision, write_decision
from gacfx.core.plan import Budget, Choice, Plan, Weight
from gacfx.core.provenance import Provenance
from gacfx.core.pruning import Each, Sliced, odd_parts
from gacfx.core.shared_basis import SharedBasis, basis_group, layers_before, odd_loans
from gacfx.core.shared_curves import SharedCurve, SharedFacts, shared_key
from gacfx.core.sites import Extent, Layout
from gacfx.errors import CheckpointError, PlanError

Q = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(4)]
SHAPE = (6, 8)


def test_a_group_stores_its_basis_once() -> None:
    first, second, third = (SharedBasis(5).of(at) for at in range(3))
    assert (first.back, second.back, third.back) == (0, 1, 2)
    assert sum(part.params(*SHAPE) for part in (first, second, third)) == 5 * (8 + 3 * 6)
    up, down = Stored((6, 5), "up.weight"), Stored((5, 8), "down.weight")
    assert first.tensors(*SHAPE) == {"down": down, "up": up} and first.borrowed(*SHAPE) == {}
    assert second.tensors(*SHAPE) == {"up": up} and second.borrowed(*SHAPE) == {"down": down}
    assert {part.active_params(*SHAPE) for part in (first, second)} == {5 * 14}
    assert {part.work(*SHAPE, True) for part in (first, third)} == {
        (Gemm(8, 5), Gemm(5, 6, bias=True))
    }
    assert {part.rank for part in (first, second, third)} == {5} == set(third.sizes(*SHAPE))
    assert str(SharedBasis(5)) == "shared rank 5"
    assert str(second) == "shared rank 5, basis 1 layer before"
    assert str(third) == "shared rank 5, basis 2 layers before"


def test_its_rank_may_be_above_the_outputs_of_one_weight_and_not_of_all() -> None:
    assert SharedBasis(7).problem(4, 8) == ""
    assert odd_parts(SharedBasis(7), [(4, 8)] * 2) == ""
    assert odd_parts(SharedBasis(9), [(4, 16)] * 2) == "rank 9 is outside 1 .. 8"
    assert SharedBasis(9).problem(4, 8) == "rank 9 is outside 1 .. 8"
    assert SharedBasis(0).problem(4, 8) == "rank 0 is outside 1 .. 8"
    assert "-1 layers before" in SharedBasis(2, -1).problem(4, 8)
    assert "1000 layers before" in SharedBasis(2, 1000).problem(4, 8)


@pytest.mark.parametrize(
    ("decision", "shapes", "message"),
    [
        (SharedBasis(2), [(4, 8)], "shared by 2 .. 1000 weights, not by 1"),
        (SharedBasis(2, 1), [(4, 8)] * 2, "lies in its first layer, not 1 before"),
        (SharedBasis(2), [(4, 8), (6, 8)], "weights of 4 x 8 and 6 x 8 cannot share a basis"),
        (Each((SharedBasis(2), DENSE)), [(4, 8)] * 2, "decided for a whole group"),
    ],
)
def test_groups_that_cannot_share(
    decision: Any, shapes: list[tuple[int, int]], message: str
) -> None:
    assert message in odd_parts(decision, shapes)


def test_no_slice_leaves_a_shared_basis() -> None:
    assert "no shared-basis" in Sliced(4, 8, SharedBasis(2)).problem(8, 8)


def test_it_is_no_candidate_of_one_weight() -> None:
    assert SharedBasis.offers(8, 8, 1) == ((), "is shared-basis, which is for several weights")


def test_names_tell_the_layer_before() -> None:
    assert layers_before(Q[3], 2) == Q[1] and layers_before(Q[1], 0) == Q[1]
    assert layers_before(Q[1], 2) == "" == layers_before("lm_head", 0) == layers_before("head.3", 1)
    assert layers_before("a.2.mlp.1", 1) == "a.1.mlp.1"
    assert layers_before("a.2.experts.5.up", 1) == "a.1.experts.5.up"
    assert basis_group(Q[1:3]) == "model.layers.1.self_attn.q_proj+1"


def test_json_both_ways() -> None:
    part = SharedBasis(5).of(1)
    assert write_decision(part) == {"kind": "shared-basis", "rank": 5, "back": 1}
    assert read_decision(write_decision(part)) == part
    with pytest.raises(PlanError, match="back is missing"):
        read_decision({"kind": "shared-basis", "rank": 5})


SHAPES = dict.fromkeys(Q, SHAPE)


def test_every_loan_is_found() -> None:
    group = {name: SharedBasis(5).of(at) for at, name in enumerate(Q[:3])}
    assert odd_loans(group, SHAPES) is None


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({Q[1]: SharedBasis(5, 1)}, "there is no such layer"),
        ({Q[0]: SharedBasis(5), Q[1]: SharedBasis(4, 1)}, "that is shared rank 5"),
        ({Q[0]: SharedBasis(5), Q[1]: SharedBasis(5, 1), Q[2]: SharedBasis(5, 1)}, "basis 1 layer"),
        ({Q[0]: DENSE, Q[1]: SharedBasis(5, 1)}, "that is dense"),
        ({Q[1]: SharedBasis(5, 2)}, "which its name does not tell"),
    ],
)
def test_a_basis_that_nobody_holds(decisions: dict[str, Any], message: str) -> None:
    odd = odd_loans(decisions, SHAPES)
    assert odd is not None and odd[0] == list(decisions)[-1] and message in odd[1]


def test_a_basis_of_other_inputs_is_none() -> None:
    odd = odd_loans({Q[0]: SharedBasis(5), Q[1]: SharedBasis(5, 1)}, {**SHAPES, Q[0]: (6, 9)})
    assert odd is not None and "down [5, 8]" in odd[1]


# -- plans -----------------------------------------------------------------------------------------


def plan() -> Plan:
    weights = tuple(Weight(module, *SHAPE) for module in Q[:2])
    return Plan(
        choices=(
            Choice(basis_group(Q[:2]), weights, SharedBasis(3), 3.2, 0.5),
            Choice.single(Q[2], *SHAPE, LowRank(2), 3.4, 0.25),
        ),
        budget=Budget("0.2", "targeted", 144, 144, 115),
        proof=None,
        provenance=Provenance("basis-sharing", "two-sided", "h200", 1, "fp32"),
    )


def test_a_plan_counts_the_basis_once() -> None:
    made = plan()
    assert Plan.from_json(made.to_json()) == made
    assert made.kept_params == 3 * (8 + 2 * 6) + 2 * 14
    assert made.decisions == {Q[0]: SharedBasis(3), Q[1]: SharedBasis(3, 1), Q[2]: LowRank(2)}
    assert made.ranks == {Q[0]: 3, Q[1]: 3, Q[2]: 2}  # what is tied stays tied
    assert made.counts == {"low-rank": 1, "shared-basis": 2, "dense": 0}
    assert made.active_params == 3 * 14 * 2 + 2 * 14


def _renamed(raw: Any) -> None:
    raw["choices"][0]["weights"][1]["module"] = Q[3]


def _alone(raw: Any) -> None:
    del raw["choices"][0]["weights"][1]


def _unlike(raw: Any) -> None:
    raw["choices"][0]["weights"][1]["rows"] = 7


def _single(raw: Any) -> None:
    raw["choices"][1]["decision"] = {"kind": "shared-basis", "rank": 2, "back": 1}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_renamed, f"{Q[3]}: shared rank 3, basis 1 layer before asks {Q[2]}"),
        (_alone, "shared by 2 .. 1000 weights, not by 1"),
        (_unlike, "weights of 6 x 8 and 7 x 8 cannot share a basis"),
        (_single, "lies in its first layer, not 1 before"),
    ],
)
def test_plans_that_cannot_be(spoil: Callable[[Any], None], message: str) -> None:
    raw = json.loads(plan().to_json())
    spoil(raw)
    with pytest.raises(PlanError, match=message):
        Plan.from_json(json.dumps(raw))


# -- curves ----------------------------------------------------------------------------------------

GROUP = SharedFacts(basis_group(Q[:2]), (Q[0], Q[1]), *SHAPE, "two-sided")
LOSSES = np.linspace(2.0, 0.0, 9)


def curves(group: SharedFacts = GROUP, **more: Any) -> Curves:
    weights = tuple(
        Target(m, *SHAPE, "two-sided", Extent(1), Extent(1), False, Layout.LINEAR, "fp32")
        for m in Q[:3]
    )
    facts = Facts(weights, 144, 144, {}, plan().provenance, shared=(group,), **more)
    losses = {m: np.linspace(1.0, 0.0, 7) for m in Q[:3]}
    return Curves(facts, {**losses, shared_key(group.name): LOSSES})


def test_curves_in_a_file(tmp_path: Path) -> None:
    known = curves(unshared={Q[2]: "no neighbour"})
    save_curves(tmp_path / "curves", known)
    found = load_curves(tmp_path / "curves")
    assert found.facts == known.facts and found.unshared == {Q[2]: "no neighbour"}
    assert found.shared[0].facts == GROUP
    np.testing.assert_array_equal(found.shared[0].losses, LOSSES)


def test_curves_without_groups_are_as_older_readers_want_them(tmp_path: Path) -> None:
    known = curves()
    losses = {name: known.losses[name] for name in Q[:3]}
    save_curves(tmp_path / "curves", Curves(replace(known.facts, shared=()), losses))
    head = (tmp_path / "curves").read_bytes()
    assert b'\\"version\\": 2' in head and b"unshared" not in head
    assert load_curves(tmp_path / "curves").shared == ()


@pytest.mark.parametrize("field", ["shared", "unshared"])
def test_what_a_file_says_of_groups_is_held_by_its_digest(field: str, tmp_path: Path) -> None:
    save_curves(tmp_path / "curves", curves(unshared={Q[2]: "no neighbour"}))
    head, arrays = _read(tmp_path / "curves")
    assert head["version"] == 3
    del head["facts"][field]
    save_file(arrays, tmp_path / "curves", metadata={"gacfx": json.dumps(head)})
    with pytest.raises(CheckpointError, match="changed after it was written"):
        load_curves(tmp_path / "curves")


def test_corrections_of_a_group_and_of_its_weights() -> None:
    known, name = curves(), GROUP.name
    for corrections, factor in (({name: 3.0, Q[0]: 5.0}, 3.0), ({Q[0]: 3.0}, 2.0)):
        made = known.corrected(corrections)
        np.testing.assert_allclose(made.shared[0].losses, factor * LOSSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": (Q[0],)}, "not by 1"),
        ({"members": (Q[0], Q[2])}, "is not 1 layers after the first"),
        ({"members": (Q[2], Q[3])}, "is no weight of the curves"),
        ({"rows": 8}, "is no weight of the curves"),
        ({"name": "model.q"}, "is not what such a group is called"),
        ({"name": "a..b"}, "is no name of a group"),
        ({"value_model": "fisher"}, "losses of two kinds do not add up"),
    ],
)
def test_groups_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        curves(replace(GROUP, **change))


@pytest.mark.parametrize("losses", [LOSSES[:-1], LOSSES[::-1], LOSSES - 1, LOSSES * np.nan])
def test_losses_that_are_no_curve(losses: Any) -> None:
    with pytest.raises(PlanError, match="q_proj.1"):
        SharedCurve(GROUP, losses)
