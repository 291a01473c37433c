"""Palu: the best factors of each group, exact curves, own ranks within the budget, and refusals."""

# M outputs, N inputs, G groups, T tokens

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

from gacfx.compressors.grouped_svd import GroupedSvd
from gacfx.compressors.kept import KeptDecompositions
from gacfx.compressors.methods import METHODS
from gacfx.compressors.palu import PALU, Palu
from gacfx.compressors.palu_ranks import fisher
from gacfx.compressors.parallel import WeightTask, decompose_task
from gacfx.compressors.protocol import AllocationInputs, Decomposition, Statistic
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.search import Search
from gacfx.core.statistics import Moments
from gacfx.core.store import MemoryStore
from gacfx.core.stored_moments import moments_tensors
from gacfx.core.tensor_bytes import TensorBytes
from gacfx.errors import DecompositionFailed, InfeasibleBudget, PipelineError, PlanError
from gacfx.modules.make import make_factors

M, N = 24, 30


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(
    rows: int = M, columns: int = N, tokens: int = 200, seed: int = 0, scale: float = 1.0
) -> tuple[Tensor, Tensor, Moments]:
    """(weight [M, N], inputs [T, N], moments) of inputs with a decaying spectrum."""
    decay = torch.arange(1, columns + 1, dtype=torch.float64) ** -0.7
    x_TN = draw(tokens, columns, seed=seed + 1) * decay @ draw(columns, columns, seed=seed + 2)
    weight_MN, g_TM = draw(rows, columns, seed=seed), draw(tokens, rows, seed=seed + 3) * scale
    return weight_MN, x_TN, Moments.from_samples(weight_MN, x_TN, g_TM)


def whole(found: Decomposition, decision: GroupedLowRank) -> Tensor:
    """[M, N] weight that the factors of a decision stand for."""
    rows, columns = found.weight_MN.shape
    made = make_factors(found, decision, rows, columns, torch.float64).tensors
    parts = zip(made["up"], made["down"].chunk(decision.groups), strict=True)
    return torch.cat([up @ down for up, down in parts])


@pytest.mark.parametrize("tokens", [200, 7])
@pytest.mark.parametrize("rank", [1, 3, 12])
def test_each_group_loses_the_least_that_its_rank_can(rank: int, tokens: int) -> None:
    weight_MN, x_TN, moments = sample(tokens=tokens)
    found = replace(PALU, heads_per_group=3).for_heads(6).decompose(weight_MN, moments, "here")
    got = whole(found, GroupedLowRank(2, rank))
    for part, own in zip(weight_MN.chunk(2), got.chunk(2), strict=True):
        tail = torch.linalg.svdvals(x_TN @ part.T)[rank:].square().sum()
        lost = (x_TN @ (part - own).T).square().sum()
        torch.testing.assert_close(lost, tail, rtol=1e-9, atol=1e-9)


def test_a_weight_that_calibration_hardly_saw_comes_back_at_full_rank() -> None:
    weight_MN, _, moments = sample(tokens=3)
    found = PALU.for_heads(8).decompose(weight_MN, moments)
    torch.testing.assert_close(whole(found, GroupedLowRank(2, 12)), weight_MN)


@pytest.mark.parametrize("value", ["two-sided", "fisher", "relative"])
def test_the_curve_is_what_factors_of_that_rank_cost(value: str) -> None:
    weight_MN, x_TN, moments = sample()
    found = PALU.for_heads(8).decompose(weight_MN, moments, "here")
    curve, input_NN = found.curve(value), x_TN.T @ x_TN / len(x_TN)
    weigh = {
        "two-sided": moments.side_moment,
        "fisher": moments.grad_square_mean * torch.eye(M, dtype=torch.float64),
        "relative": torch.eye(M, dtype=torch.float64),
    }[value]
    assert curve.groups == 2 and len(curve.loss_nats) == M + 1
    zero = 0.5 * (weigh @ weight_MN @ input_NN @ weight_MN.T).trace()
    for rank in (1, 4, 9, 12):
        decision = GroupedLowRank(2, rank)
        gap_MN = weight_MN - whole(found, decision)
        exact = 0.5 * (weigh @ gap_MN @ input_NN @ gap_MN.T).trace()
        exact = exact / zero if value == "relative" else exact
        # two-sided curves are made monotone: a smaller rank may lose less in another metric
        assert curve.loss(decision) >= float(exact) - 1e-9 * float(zero)
        if value != "two-sided":
            assert curve.loss(decision) == pytest.approx(float(exact), rel=1e-6, abs=1e-9)


def test_larger_groups_never_lose_more_at_as_many_latents() -> None:
    weight_MN, _, moments = sample()
    curves = [
        replace(PALU, heads_per_group=g).for_heads(8).decompose(weight_MN, moments).curve("fisher")
        for g in (1, 2, 4, 8)
    ]
    for latents in (8, 16):
        losses = [float(curve.loss_nats[latents]) for curve in curves]
        assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1] > 0
    joint = METHODS.find("svd-llm").decompose(weight_MN, moments).curve("fisher")
    assert curves[-1].loss_nats == pytest.approx(joint.loss_nats, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("heads", "asked", "each"), [(8, 4, 4), (3, 4, 3), (6, 4, 3), (1, 4, 1), (7, 4, 1), (8, 16, 8)]
)
def test_groups_divide_the_heads_and_what_they_cannot_be_is_said(
    heads: int, asked: int, each: int
) -> None:
    found = replace(PALU, heads_per_group=asked).for_heads(heads)
    assert (found.group_heads, found.groups) == (each, heads // each)
    said = f"{heads} key-value heads come in no groups of {asked}; groups of {each} are taken"
    assert (said in found.remark) == (each != asked)
    assert found == found.for_heads(heads) and found != found.for_heads(heads + 1)


def test_what_cannot_be_decomposed_has_a_reason() -> None:
    weight_MN, _, moments = sample()
    with pytest.raises(DecompositionFailed, match="how many key-value heads it makes is not known"):
        PALU.decompose(weight_MN, moments, "here")
    with pytest.raises(DecompositionFailed, match="28 heads of 24 outputs"):
        PALU.for_heads(28).decompose(weight_MN, moments, "here")
    wide_MN, _, wide = sample(32, 20)
    with pytest.raises(DecompositionFailed, match=r"more outputs than inputs \(32 and 20\)"):
        PALU.for_heads(4).decompose(wide_MN, wide, "here")
    nothing = replace(moments, input_square_mean=torch.zeros(N))
    with pytest.raises(DecompositionFailed, match="no calibration token reached"):
        PALU.for_heads(4).decompose(weight_MN, nothing, "here")
    with pytest.raises(DecompositionFailed, match="NaN or infinite weight"):
        PALU.for_heads(4).decompose(weight_MN * inf, moments, "here")
    with pytest.raises(DecompositionFailed, match="'paper' counts the parameters of a pair"):
        PALU.for_heads(4).decompose(weight_MN, moments, "here").curve("paper")


# -- its own ranks --------------------------------------------------------------------------------

SHAPES = {f"{layer}.{name}": (M, N) for layer in range(4) for name in ("k", "v")}
WHOLE = len(SHAPES) * M * N


def decompositions(method: Palu) -> dict[str, Decomposition]:
    """Of weights whose gradients differ by up to 64 times."""
    found = dict[str, Decomposition]()
    for seed, name in enumerate(SHAPES):
        weight_MN, _, moments = sample(seed=10 * seed, scale=2.0 ** (seed % 4 - 1))
        found[name] = method.for_heads(8).decompose(weight_MN, moments, name)
    return found


def never(ranks: Mapping[str, int], tokens: int | None = None) -> float:
    raise AssertionError(ranks, tokens)


def own(method: Palu, ratio: str, limit: int) -> dict[str, int | None]:
    return method.allocate(SHAPES, ratio, AllocationInputs(decompositions(method), never, limit))


def kept(ranks: Mapping[str, int | None], groups: int) -> int:
    pairs = ((SHAPES[name], rank) for name, rank in ranks.items())
    return sum(
        rows * columns
        if rank is None
        else GroupedLowRank(groups, rank // groups).params(rows, columns)
        for (rows, columns), rank in pairs
    )


@pytest.mark.parametrize("name", ["palu", "palu:allocation=uniform", "palu:multiple=4"])
@pytest.mark.parametrize("ratio", ["0.05", "0.3", "0.5", "0.8"])
def test_the_budget_is_kept_whatever_is_rounded(name: str, ratio: str) -> None:
    method = METHODS.find(name)
    assert isinstance(method, Palu)
    limit = int(WHOLE * (1 - float(ratio)))
    if method.multiple * (M + 2 * N) * len(SHAPES) > limit:
        with pytest.raises(InfeasibleBudget, match="rank 4 of every group is"):
            own(method, ratio, limit)
        return
    ranks = own(method, ratio, limit)
    step = 2 * method.multiple
    assert ranks.keys() == SHAPES.keys()
    assert all(rank is None or (rank % step == 0 and rank >= step) for rank in ranks.values())
    left = limit - kept(ranks, 2)
    assert left >= 0
    largest = (M * N - 1) // (M + 2 * N) // method.multiple * step
    for name, rank in ranks.items():  # no step more would fit
        more = None if rank is None or rank + step > largest else rank + step
        assert rank is None or kept({**ranks, name: more}, 2) > limit


def test_nothing_is_rounded_up_beyond_its_turn() -> None:
    ranks = own(PALU, "0.5", WHOLE // 2)
    scores = {name: fisher(found) for name, found in decompositions(PALU).items()}
    order = sorted(SHAPES, key=scores.__getitem__)
    sizes = [M + 1 if ranks[name] is None else ranks[name] or 0 for name in order]
    assert all(more >= less - 2 for less, more in pairwise(sizes))
    assert sizes[-1] > 2 * sizes[0]
    exact = [size / scores[name] for size, name in zip(sizes, order, strict=True) if size <= M]
    assert max(exact) < 2 * min(exact)


def test_uniform_ranks_differ_by_one_of_each_group_at_most() -> None:
    found = {*own(replace(PALU, allocation="uniform"), "0.5", WHOLE // 2).values()}
    assert None not in found
    ranks = [rank for rank in found if rank is not None]
    assert max(ranks) - min(ranks) <= 2


def test_latents_are_shared_out_and_not_ranks_of_groups() -> None:
    weight_MN, _, moments = sample()
    found: dict[str, Decomposition] = {
        name: PALU.for_heads(heads).decompose(weight_MN, moments, name)
        for name, heads in (("0.k", 4), ("0.v", 8))
    }
    shapes = {name: SHAPES[name] for name in found}
    ranks = PALU.allocate(shapes, "0.5", AllocationInputs(found, never, M * N))
    one, two = ranks["0.k"], ranks["0.v"]
    assert one is not None and two is not None and abs(one - two) <= 2


def test_nothing_to_remove_leaves_all_at_their_cap() -> None:
    assert own(PALU, "0", WHOLE) == dict.fromkeys(SHAPES)
    assert own(replace(PALU, multiple=32), "0", WHOLE) == dict.fromkeys(SHAPES)


def test_too_much_is_said() -> None:
    with pytest.raises(InfeasibleBudget, match="parameters more than may remain") as caught:
        own(PALU, "0.99", WHOLE // 100)
    assert caught.value.needed == len(SHAPES) * (M + 2 * N)
    with pytest.raises(PlanError, match="not a share"):
        own(PALU, "1.5", 0)
    with pytest.raises(PipelineError, match="need a model and its statistics"):
        PALU.allocate(SHAPES, "0.5")


def test_a_weight_without_decomposition_stays_dense_and_the_others_make_up_for_it() -> None:
    some = decompositions(PALU)
    del some["0.k"]
    ranks = PALU.allocate(SHAPES, "0.5", AllocationInputs(some, never, WHOLE // 2))
    assert ranks["0.k"] is None and kept(ranks, 2) <= WHOLE // 2


def test_the_fisher_score_is_that_of_the_gradients_of_the_weight() -> None:
    weight_MN, x_TN, moments = sample(tokens=20000)
    g_TM = draw(20000, M, seed=3)
    moments = Moments.from_samples(weight_MN, x_TN, g_TM)
    found = PALU.for_heads(8).decompose(weight_MN, moments)
    exact = (g_TM.square().T @ x_TN.square() / len(x_TN)).sqrt().mean()  # E (g_i x_j)^2
    assert fisher(found) == pytest.approx(float(exact), rel=0.02)


# -- as a method ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("palu:heads-per-group=0", "heads-per-group 0: at least 1"),
        ("palu:multiple=-1", "multiple -1: at least 1"),
        ("palu:allocation=fisher", "no allocation 'fisher'; known: fisher-uniform, uniform"),
        ("palu:heads=8", "no setting 'heads'"),
        ("palu:groups=4", "no setting 'groups'"),
    ],
)
def test_settings_that_cannot_be(name: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        METHODS.find(name)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (Search(prune="either"), "take prune 'none'"),
        (Search(tp=2), "take tp 1"),
        (Search(solver="greedy", form="pair"), "take solver 'core'"),
        (Search(value="paper"), "take another value model"),
        (Search(form="pair"), "makes no 'low-rank' decisions"),
    ],
    ids=str,
)
def test_searches_that_groups_cannot_have(search: Search, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        PALU.offered(search)


def test_what_it_makes_and_needs() -> None:
    made = ("grouped-low-rank",)
    assert PALU.offered(Search()) == PALU.offered(Search(form="grouped-low-rank")) == made
    assert PALU.all_kinds == made and not METHODS.find("svd-llm").makes("grouped-low-rank")
    assert PALU.needs == (Statistic.INPUT_MOMENT, Statistic.GRAD_MOMENT)
    assert METHODS.find("palu:allocation=uniform").needs == (Statistic.INPUT_MOMENT,)


def test_components_that_were_kept_or_sent_give_the_same_decomposition() -> None:
    weight_MN, _, moments = sample()
    made = PALU.for_heads(8).decompose(weight_MN, moments, "here")
    store = MemoryStore()
    kept_there = KeptDecompositions(
        store, "fit", PALU, lambda _: weight_MN, {"here": moments}, heads={"here": 8}
    )
    first, again = kept_there["here"], kept_there.by(PALU, {"here": 8})["here"]
    sent = TensorBytes.of({"weight": weight_MN, **moments_tensors("", {"here": moments})})
    answer = decompose_task(WeightTask("here", "palu", sent, transposed=False, heads=8))
    assert isinstance(answer, TensorBytes)
    for found in (first, again):
        assert isinstance(found, GroupedSvd) and found.groups == 2
        assert torch.equal(found.components[0], made.components[0])
    assert torch.equal(answer.tensors()["inner"], made.components[0])
    assert decompose_task(WeightTask("here", "palu", sent, transposed=False)) == (
        "how many key-value heads it makes is not known"
    )
