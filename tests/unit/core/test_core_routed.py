"""Routed: which sizes can be, what they keep, run and store, and whose blocks are whose."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.decision import DENSE, Decision, Gemm, LowRank, Pivot, Stored
from gacfx.core.kinds import read_decision, write_decision
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.provenance import Provenance
from gacfx.core.routed import MOST, Routed, own_blocks
from gacfx.errors import PlanError
from gacfx.modules.make import carrier_of
from tests.unit.core.test_core_decision import Kernels

SIZES = {"pool": 12, "active": 8, "shared": 4, "block": 2}


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, Routed]:
    """A shape and a pool that a weight of it can have."""
    block = draw(st.integers(1, 5))
    active = block * draw(st.integers(1, 6))
    shared = block * draw(st.integers(0, active // block))
    pool = active + block * draw(st.integers(0, 12))
    rows, columns = draw(st.integers(active, 60)), draw(st.integers(active, 60))
    return rows, columns, Routed(pool, active, shared, block)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"block": 0}, "block 0 is below 1"),
        ({"block": -2}, "block -2 is below 1"),
        ({"pool": 13}, "pool 13 is no multiple of the block of 2"),
        ({"active": 7}, "active 7 is no multiple of the block of 2"),
        ({"shared": 3}, "shared 3 is no multiple of the block of 2"),
        ({"block": 5}, "pool 12 is no multiple of the block of 5"),
        ({"active": 0, "shared": 0}, "active rank 0 is outside 1 .. 9"),
        ({"active": -2, "shared": 0}, "active rank -2 is outside 1 .. 9"),
        ({"active": 10}, "active rank 10 is outside 1 .. 9"),
        ({"active": 8, "pool": 6}, "active rank 8 is more than the pool of 6"),
        ({"pool": 0}, "active rank 8 is more than the pool of 0"),
        ({"pool": -12}, "active rank 8 is more than the pool of -12"),
        ({"shared": -2}, "shared rank -2 is outside 0 .. 8, the active rank"),
        ({"shared": 10}, "shared rank 10 is outside 0 .. 8, the active rank"),
        ({"pool": MOST}, ""),
        ({"pool": MOST + 2}, "pool 16777218 is above 16,777,216 ranks"),
        ({"active": 8, "shared": 8}, ""),
        ({"shared": 0}, ""),
        ({"pool": 8}, ""),
        ({"pool": 100}, ""),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_named(change: dict[str, int], message: str) -> None:
    decision = Routed(**(SIZES | change))
    assert decision.problem(9, 14) == decision.problem(14, 9) == message


@given(cases())
def test_what_runs_and_what_is_stored(case: tuple[int, int, Routed]) -> None:
    rows, columns, decision = case
    assert decision.problem(rows, columns) == ""
    assert decision.params(rows, columns) == decision.pool * (rows + columns)
    assert decision.tensors(rows, columns) == {
        "down": Stored((decision.pool, columns), "down"),
        "up": Stored((decision.pool, rows), "up"),
    }
    for bias in (False, True):
        pair = LowRank(decision.active)
        assert decision.work(rows, columns, bias) == pair.work(rows, columns, bias)
    assert decision.work(rows, columns, True)[1] == Gemm(decision.active, rows, True)
    assert decision.sizes(rows, columns) == (decision.active, decision.block)
    assert decision.rank == decision.active and not decision.is_dense
    counts = (decision.blocks, decision.picks, decision.fixed)
    assert [each * decision.block for each in counts] == [
        decision.pool,
        decision.active,
        decision.shared,
    ]


@given(cases(), st.booleans())
def test_the_layer_stores_and_runs_what_the_decision_says(
    case: tuple[int, int, Routed], bias: bool
) -> None:
    rows, columns, decision = case
    carrier: Any = carrier_of(decision)
    layer = carrier(columns, rows, decision, bias=bias, device="meta")
    found = {name: tuple(t.shape) for name, t in layer.state_dict().items() if t.numel()}
    wanted = {s.parameter: s.shape for s in decision.tensors(rows, columns).values()}
    assert found == wanted | ({"bias": (rows,)} if bias else {})
    assert decision.params(rows, columns) == layer.down.numel() + layer.up.numel()
    assert layer(torch.zeros(3, columns, device="meta")).shape == (3, rows)
    assert layer.decision is decision


@pytest.mark.parametrize("bias", [False, True])
def test_the_work_is_what_the_layer_runs(bias: bool) -> None:
    decision = Routed(12, 8, 4, 2)
    carrier: Any = carrier_of(decision)
    layer, x = carrier(9, 14, decision, bias=bias).eval(), torch.zeros(3, 9)
    for blocks in (None, torch.tensor([[5, 0, 1, 3]])):
        layer.choose(blocks)
        with torch.no_grad(), Kernels(tokens=3) as kernels:
            layer(x)
        assert tuple(kernels.seen) == decision.work(14, 9, bias)


@given(cases())
def test_json_gives_the_same_pool_back(case: tuple[int, int, Routed]) -> None:
    decision = case[2]
    raw = json.loads(json.dumps(write_decision(decision)))
    assert read_decision(raw) == decision
    assert raw.pop("kind") == "routed"
    assert raw == {name: getattr(decision, name) for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_a_field_that_is_missing_or_no_number_is_refused(name: str) -> None:
    raw = write_decision(Routed(**SIZES))
    for odd in (None, "8", 8.0, True, [8]):
        with pytest.raises(PlanError, match="^routed: .* is no whole number"):
            read_decision({**raw, name: odd})
    with pytest.raises(PlanError, match=f"^routed: {name} is missing"):
        read_decision({key: value for key, value in raw.items() if key != name})


def plan_of(*decisions: Decision) -> Plan:
    made = tuple(
        Choice.single(f"layers.{at}.up", 40, 24, each, None, 0.5)
        for at, each in enumerate(decisions)
    )
    budget = Budget("5000", "targeted", 960 * len(made), 10_000, 5_000, "params")
    return Plan(made, budget, None, Provenance("gfwsvd", "pools:2", "", 8, "fp32"))


def test_a_plan_with_pools_reads_back() -> None:
    plan = plan_of(Routed(40, 16, 8, 8), LowRank(8), DENSE, Routed(16, 16, 16, 8))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.decisions["layers.0.up"] == Routed(40, 16, 8, 8)
    assert again.kept_params == 64 * (40 + 8 + 15 + 16)


def test_a_plan_with_a_pool_that_cannot_be_is_refused() -> None:
    raw = json.loads(plan_of(Routed(40, 16, 8, 8)).to_json())
    raw["choices"][0]["decision"]["active"] = 32
    raw["choices"][0]["decision"]["shared"] = 0
    with pytest.raises(PlanError, match="active rank 32 is outside 1 .. 24"):
        Plan.from_json(json.dumps(raw))


def test_labels_tell_all_candidates_of_a_block_size_apart() -> None:
    every: list[Decision] = [DENSE]
    for active in range(1, 7):
        every += [LowRank(active), Pivot(active)]
        every += [
            Routed(pool, active, shared, 1)
            for pool in range(active, 9)
            for shared in range(active + 1)
        ]
    assert len({each.label for each in every}) == len({str(each) for each in every}) == len(every)
    assert str(Routed(96, 64, 32, 16)) == "routed 64 of 96, 32 shared"


def test_a_curve_offers_none() -> None:
    found, why = Routed.offers(64, 64, 8)
    assert found == () and why == "is routed: gacfx route plans such pools"


@given(cases(), st.integers(1, 5))
def test_own_blocks_share_the_first_and_nothing_else(
    case: tuple[int, int, Routed], clusters: int
) -> None:
    given_one = case[2]
    own = given_one.active - given_one.shared
    decision = replace(given_one, pool=given_one.active + clusters * own)
    found = [own_blocks(decision, clusters, at) for at in range(clusters + 1)]
    fixed = set(range(decision.fixed))
    assert found[0] == tuple(range(decision.picks))
    for blocks in found:
        assert len(set(blocks)) == len(blocks) == decision.picks
        assert blocks[: decision.fixed] == tuple(range(decision.fixed))
    rest = [at for blocks in found for at in sorted({*blocks} - fixed)]
    assert rest == list(range(decision.fixed, decision.blocks))  # each in one of them, in order


def test_own_blocks_of_another_pool_are_refused() -> None:
    decision = Routed(40, 16, 8, 8)  # 2 + 3 x 1 blocks
    assert own_blocks(decision, 3, 3) == (0, 4)
    for clusters in (0, 2, 4):
        with pytest.raises(ValueError, match=f"is no pool of {clusters} clusters"):
            own_blocks(decision, clusters, 0)
    for cluster in (-1, 4):
        with pytest.raises(ValueError, match=f"cluster {cluster} is outside 0 .. 3"):
            own_blocks(decision, 3, cluster)
