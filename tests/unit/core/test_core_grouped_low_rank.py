"""Groups of outputs with factors of their own: sizes, parameters, work, and what cannot be."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.decision import Copy, Gemm, LowRank
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.kinds import KINDS, read_decision, write_decision
from gacfx.errors import PlanError


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 60), st.integers(1, 8))
def test_parameters_are_those_of_the_tensors(
    groups: int, size: int, columns: int, rank: int
) -> None:
    rows, decision = groups * size, GroupedLowRank(groups, rank)
    if decision.problem(rows, columns):
        assert rank > min(rows, columns) // groups
        return
    stored = decision.tensors(rows, columns)
    assert decision.params(rows, columns) == sum(prod(each.shape) for each in stored.values())
    assert stored["down"].shape == (decision.rank, columns) and decision.rank == groups * rank
    products = [step for step in decision.work(rows, columns, False) if isinstance(step, Gemm)]
    assert decision.params(rows, columns) == sum(g.k * g.n * g.count for g in products)


def test_one_group_is_a_pair() -> None:
    one, pair = GroupedLowRank(1, 5), LowRank(5)
    assert one.params(12, 20) == pair.params(12, 20)
    assert one.work(12, 20, False) == pair.work(12, 20, False)
    assert one.rank == pair.rank and one.kind != pair.kind


def test_what_runs() -> None:
    decision = GroupedLowRank(4, 64)
    products = (Gemm(4096, 256), Gemm(64, 256, count=4))
    assert decision.work(1024, 4096, bias=False) == (*products, Copy(1024))
    assert decision.work(1024, 4096, bias=True) == (*products, Copy(1024), Copy(1024))
    assert GroupedLowRank(1, 64).work(1024, 4096, bias=True)[2:] == (Copy(1024),)


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (GroupedLowRank(3, 2), "3 groups do not divide 16 outputs"),
        (GroupedLowRank(0, 2), "0 groups do not divide"),
        (GroupedLowRank(-2, 2), "-2 groups do not divide"),
        (GroupedLowRank(2, 0), "rank 0 of each group is outside 1 .. 5"),
        (GroupedLowRank(2, 6), "rank 6 of each group is outside 1 .. 5"),
        (GroupedLowRank(16, 1), "rank 1 of each group is outside 1 .. 0"),
    ],
    ids=str,
)
def test_what_a_weight_cannot_have(decision: GroupedLowRank, said: str) -> None:
    assert said in decision.problem(16, 10)


def test_ranks_of_groups_and_of_all_of_them_are_sizes() -> None:
    assert GroupedLowRank(3, 24).sizes(192, 576) == (24, 72)
    assert GroupedLowRank(3, 24).latents(192) == 72 and LowRank(24).latents(192) == 192


def test_offers_are_multiples_of_the_step_that_save_parameters() -> None:
    found, why = GroupedLowRank.offers_in_groups(1024, 4096, 2, 16)
    assert not why and found[0] == GroupedLowRank(2, 16)
    assert all(each.params(1024, 4096) < 1024 * 4096 for each in found)
    assert not any(each.problem(1024, 4096) for each in found)
    ranks = [size for each in found for size in each.sizes(1024, 4096)]
    assert ranks and all(rank % 16 == 0 for rank in ranks)
    last = found[-1]
    assert isinstance(last, GroupedLowRank)
    assert GroupedLowRank(2, last.group_rank + 16).params(1024, 4096) >= 1024 * 4096


def test_without_groups_nothing_is_offered_and_the_reason_is_said() -> None:
    assert GroupedLowRank.offers(64, 64, 1) == ((), "is grouped-low-rank: its groups are not known")
    assert GroupedLowRank.offers_in_groups(64, 64, 0, 1) == GroupedLowRank.offers(64, 64, 1)
    none, why = GroupedLowRank.offers_in_groups(16, 64, 4, 8)
    assert none == () and "below break-even, 3 of each of 4 groups" in why


def test_other_kinds_know_no_groups() -> None:
    assert LowRank.offers_in_groups(64, 64, 4, 8) == LowRank.offers(64, 64, 8)


def test_json() -> None:
    made = GroupedLowRank(2, 16)
    assert write_decision(made) == {"kind": "grouped-low-rank", "groups": 2, "group_rank": 16}
    assert read_decision(write_decision(made)) == made and "grouped-low-rank" in KINDS
    with pytest.raises(PlanError, match="grouped-low-rank: group_rank is missing"):
        read_decision({"kind": "grouped-low-rank", "groups": 2})
