"""Decisions: what they keep, run and store, against counts of the layers that carry them out."""

import json
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gacfx.core.decision import (
    DENSE,
    Copy,
    Decision,
    Gemm,
    LowRank,
    Pivot,
    PivotInOrder,
    break_even,
    of_rank,
)
from gacfx.modules.make import carrier_of

few = settings(max_examples=30)
VIEWS = ("t", "transpose", "permute", "view", "detach", "slice", "split", "split_with_sizes")
SHAPES = st.tuples(st.integers(2, 40), st.integers(2, 40))


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, Decision]:
    """A shape and a product that a weight of it can become."""
    rows, columns = draw(SHAPES)
    kinds: tuple[type[LowRank] | type[Pivot], ...] = (LowRank, Pivot, PivotInOrder)
    kind = draw(st.sampled_from(kinds))
    rank = draw(st.integers(1, min(rows, columns) - (kind is not LowRank)))
    return rows, columns, kind(rank)


class Kernels(TorchDispatchMode):
    """Every kernel that runs, as the work of a decision counts it: views are none."""

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens, self.seen = tokens, list[Gemm | Copy]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Note one call."""
        out = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        if name in ("mm", "addmm"):
            second: Tensor = args[-1]
            self.seen.append(Gemm(second.shape[0], second.shape[1], name == "addmm"))
        elif name in ("cat", "index_select", "add", "add_"):
            self.seen.append(Copy(out.numel() // self.tokens))
        else:
            assert name in VIEWS, f"{name} is no kernel that is known here"
        return out


@few
@given(cases(), st.booleans())
def test_work_is_what_the_layer_runs(case: tuple[int, int, Decision], bias: bool) -> None:
    rows, columns, decision = case
    carrier: Any = carrier_of(decision)
    layer = carrier(columns, rows, decision.rank, bias=bias)
    x = torch.zeros(3, columns)
    with torch.no_grad(), Kernels(tokens=3) as kernels:
        layer(x)
    assert tuple(kernels.seen) == decision.work(rows, columns, bias)


@few
@given(cases())
def test_tensors_and_parameters_are_those_of_the_layer(case: tuple[int, int, Decision]) -> None:
    rows, columns, decision = case
    carrier: Any = carrier_of(decision)
    layer = carrier.bare(decision, rows, columns, device="meta")
    stored = {each.parameter: each for each in decision.tensors(rows, columns).values()}
    # A carrier without a bias also has names that say to other programs what it is.
    found = {name: t for name, t in layer.state_dict().items() if t.numel()}
    assert {name: each.shape for name, each in stored.items()} == {
        name: tuple(tensor.shape) for name, tensor in found.items()
    }
    whole = {name for name, each in stored.items() if each.integer}
    assert whole == {name for name, tensor in found.items() if tensor.dtype == torch.int32}
    assert whole == {name for name, each in layer.named_buffers() if each.numel()}
    assert decision.params(rows, columns) == sum(p.numel() for p in layer.parameters())


@given(cases())
def test_sizes_are_the_dims_that_the_weight_did_not_have(case: tuple[int, int, Decision]) -> None:
    rows, columns, decision = case
    stored = decision.tensors(rows, columns).values()
    dims = {dim for each in stored if not each.integer for dim in each.shape}
    sizes = set(decision.sizes(rows, columns))
    assert dims - {rows, columns} <= sizes <= dims
    assert decision.rank in sizes


@given(cases())
def test_products_cost_as_much_as_they_store(case: tuple[int, int, Decision]) -> None:
    rows, columns, decision = case
    gemms = [step for step in decision.work(rows, columns, False) if isinstance(step, Gemm)]
    assert sum(each.k * each.n for each in gemms) == decision.params(rows, columns)
    shapes = decision.tensors(rows, columns).values()
    assert sum(prod(s.shape) for s in shapes if not s.integer) == decision.params(rows, columns)


@given(SHAPES, st.booleans())
def test_a_dense_weight_stays_as_it_is(shape: tuple[int, int], bias: bool) -> None:
    rows, columns = shape
    assert DENSE.params(rows, columns) == rows * columns
    assert DENSE.work(rows, columns, bias) == (Gemm(columns, rows, bias),)
    assert (DENSE.tensors(rows, columns), DENSE.sizes(rows, columns)) == ({}, ())
    assert (DENSE.rank, DENSE.is_dense, DENSE.label, DENSE.problem(1, 1)) == (
        None,
        True,
        "dense",
        "",
    )


@given(SHAPES)
def test_break_even_is_the_last_rank_at_which_a_pair_saves(shape: tuple[int, int]) -> None:
    rows, columns = shape
    rank = break_even(rows, columns)
    assert LowRank(rank).params(rows, columns) < rows * columns
    assert LowRank(rank + 1).params(rows, columns) >= rows * columns


@given(SHAPES)
def test_every_pivot_saves_and_costs_less_than_its_pair(shape: tuple[int, int]) -> None:
    rows, columns = shape
    for rank in range(1, min(shape)):
        kept = Pivot(rank).params(rows, columns)
        assert kept < min(rows * columns, LowRank(rank).params(rows, columns))


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (LowRank(0), "rank 0 is outside 1 .. 6"),
        (LowRank(-1), "rank -1 is outside 1 .. 6"),
        (LowRank(1), ""),
        (LowRank(6), ""),
        (LowRank(7), "rank 7 is outside 1 .. 6"),
        (Pivot(0), "pivot rank 0 is outside 1 .. 5"),
        (Pivot(1), ""),
        (Pivot(5), ""),
        (Pivot(6), "pivot rank 6 is outside 1 .. 5"),
    ],
    ids=str,
)
def test_ranks_at_the_edge(decision: Decision, said: str) -> None:
    assert decision.problem(6, 9) == decision.problem(9, 6) == said


def test_labels_tell_all_candidates_apart() -> None:
    every: list[Decision] = [DENSE, *map(LowRank, range(1, 9)), *map(Pivot, range(1, 9))]
    assert len({each.label for each in every}) == len({str(each) for each in every}) == len(every)
    assert [each.label for each in (LowRank(7), Pivot(7), DENSE)] == [7, "pivot 7", "dense"]
    assert (of_rank(None), of_rank(7)) == (DENSE, LowRank(7))


@pytest.mark.parametrize(
    ("order", "fine"),
    [([0, 1, 2], True), ([2, 0, 1], True), ([0, 0, 1], False), ([1, 2, 3], False), ([], True)],
)
def test_an_order_names_every_feature_once(order: list[int], fine: bool) -> None:
    assert (Pivot(1).odd_integers("order", order) == "") == fine
    assert LowRank(1).odd_integers("order", order) == ""


def test_decisions_are_values() -> None:
    assert len({LowRank(3), LowRank(3), Pivot(3), DENSE}) == 3
    with pytest.raises(AttributeError):
        LowRank(3).rank = 4  # type: ignore[misc]
    assert LowRank(3).of(0) == LowRank(3)
    assert json.dumps(DENSE.label) == '"dense"'
