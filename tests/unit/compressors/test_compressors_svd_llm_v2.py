"""SVD-LLM v2: shares by losses within a type, a closed budget, and what it cannot do."""

# M outputs, N inputs, T tokens

import random
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import inf, nan

import pytest
import torch
from torch import Tensor

from gacfx.compressors.allocate import upstream_rank
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs, Decomposition
from gacfx.compressors.strs import params
from gacfx.compressors.svd_llm_v2 import (
    LEAST_LOSS,
    MOST,
    SVD_LLM_V2,
    closed,
    shares_of,
    truncation_loss,
)
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed, InfeasibleBudget, PipelineError, PlanError

SHAPES = {
    **{f"layers.{layer}.q_proj": (24, 24) for layer in range(4)},
    **{f"layers.{layer}.down_proj": (24, 60) for layer in range(4)},
}
WHOLE = sum(rows * columns for rows, columns in SHAPES.values())


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decompositions(scale: float = 1.0, tokens: int = 80) -> dict[str, Decomposition]:
    """Of weights whose spectra differ, all inputs times ``scale``."""
    found = dict[str, Decomposition]()
    for seed, (name, (rows, columns)) in enumerate(SHAPES.items()):
        decay = torch.arange(1, columns + 1, dtype=torch.float64) ** -(0.3 * (seed % 4))
        weight_MN = draw(rows, columns, seed=seed) * decay * (1 + seed)
        x_TN, g_TM = draw(tokens, columns, seed=seed + 20), draw(tokens, rows, seed=seed + 40)
        moments = Moments.from_samples(weight_MN, x_TN * scale, g_TM)
        found[name] = SVD_LLM_V2.decompose(weight_MN, moments, name)
    return found


def never(ranks: Mapping[str, int], tokens: int | None = None) -> float:
    raise AssertionError(ranks, tokens)


def limit_of(ratio: float) -> int:
    return int(WHOLE * (1 - Fraction(str(ratio))))


def own(ratio: float, scale: float = 1.0, **more: int) -> dict[str, int | None]:
    given = AllocationInputs(decompositions(scale, **more), never, limit_of(ratio))
    return SVD_LLM_V2.allocate(SHAPES, ratio, given)


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
def test_the_budget_is_kept_and_no_rank_more_would_fit(ratio: float) -> None:
    found, limit = own(ratio), limit_of(ratio)
    left = limit - params(SHAPES, found)
    growing = [
        sum(SHAPES[name])
        for name, rank in found.items()
        if rank is not None and (rank + 1) * sum(SHAPES[name]) < SHAPES[name][0] * SHAPES[name][1]
    ]
    assert left >= 0 and growing and left < min(growing)
    assert all(rank is None or rank >= 1 for rank in found.values())


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 37.0, 1e6])
def test_the_unit_of_the_inputs_changes_nothing(scale: float) -> None:
    assert own(0.3, scale) == own(0.3)


def test_more_goes_where_the_loss_is_smaller_and_only_within_a_type() -> None:
    losses = dict(zip(SHAPES, [4.0, 2.0, 1.0, 0.5, 80.0, 90.0, 100.0, 110.0], strict=True))
    found = shares_of(SHAPES, losses, 0.4, 1.0)
    for leaf in ("q_proj", "down_proj"):
        shares = [share for name, share in found.items() if name.endswith(leaf)]
        assert sum(shares) == pytest.approx(4 * 0.4)
    q, down = [found[name] for name in SHAPES][:4], [found[name] for name in SHAPES][4:]
    assert q == sorted(q) and q[0] < q[-1] and down == sorted(down, reverse=True)
    # The formula itself: in proportion to 1 / ln(1 + L / mean).
    mean = sum([4.0, 2.0, 1.0, 0.5]) / 4
    weights = [1 / torch.tensor(1 + loss / mean).log().item() for loss in (4.0, 2.0, 1.0, 0.5)]
    wanted = [4 * 0.4 * weight / sum(weights) for weight in weights]
    assert q == pytest.approx(wanted, rel=1e-6)


def test_a_larger_shift_brings_shares_closer_to_equal_ones() -> None:
    losses = dict(zip(SHAPES, [8.0, 4.0, 2.0, 1.0] * 2, strict=True))
    spreads = []
    for shift in (1.0, 2.718, 100.0, 1e12):
        found = [*shares_of(SHAPES, losses, 0.3, shift).values()]
        spreads.append(max(found) - min(found))
        assert sum(found[:4]) == pytest.approx(1.2)
    assert spreads == sorted(spreads, reverse=True) and spreads[-1] < 1e-9
    method = METHODS.find("svd-llm-v2:shift=1e12")
    given = AllocationInputs(decompositions(), never, limit_of(0.3))
    ranks = method.allocate(SHAPES, 0.3, given)
    even = {name: upstream_rank(*shape, 0.3) for name, shape in SHAPES.items()}
    assert all(0 <= (ranks[name] or 0) - (even[name] or 0) <= 1 for name in SHAPES)


@pytest.mark.parametrize("shift", ["0.9", "-1", "0"])
def test_a_shift_below_one_has_no_logarithm(shift: str) -> None:
    with pytest.raises(PipelineError, match="is below 1; it has: shift=2.72"):
        METHODS.find(f"svd-llm-v2:shift={shift}")


def test_shares_are_bounded_and_what_they_cannot_take_the_others_do() -> None:
    draws = random.Random(0)
    for _ in range(200):
        losses = {name: 10 ** draws.uniform(-8, 8) for name in SHAPES}
        share = draws.uniform(0.01, MOST)
        found = shares_of(SHAPES, losses, share)
        assert all(0 <= each <= MOST for each in found.values())
        for leaf in ("q_proj", "down_proj"):
            part = [each for name, each in found.items() if name.endswith(leaf)]
            assert sum(part) == pytest.approx(4 * share, rel=1e-9)


@pytest.mark.parametrize("bad", [inf, nan])
def test_a_loss_that_is_no_number_counts_as_the_largest(bad: float) -> None:
    losses = dict.fromkeys(SHAPES, 1.0)
    losses["layers.0.q_proj"], losses["layers.1.q_proj"] = bad, 3.0
    found = shares_of(SHAPES, losses, 0.3)
    assert found["layers.0.q_proj"] == found["layers.1.q_proj"] < found["layers.2.q_proj"]


def test_weights_without_loss_lose_most_and_all_alike_if_none_has_any() -> None:
    nothing = dict.fromkeys(SHAPES, 0.0)
    assert shares_of(SHAPES, nothing, 0.3) == pytest.approx(dict.fromkeys(SHAPES, 0.3))
    found = shares_of(SHAPES, {**nothing, "layers.0.q_proj": 1.0}, 0.9)
    assert found["layers.1.q_proj"] == MOST > found["layers.0.q_proj"] > LEAST_LOSS


def test_the_loss_is_the_tail_of_the_scaled_singular_values() -> None:
    weight_MN, x_TN = draw(12, 20, seed=0), draw(90, 20, seed=1)
    moments = Moments.from_samples(weight_MN, x_TN, draw(90, 12, seed=2))
    found = SVD_LLM_V2.decompose(weight_MN, moments)
    rank = upstream_rank(12, 20, 0.3)
    assert rank is not None
    s = torch.linalg.svdvals(x_TN @ weight_MN.T)
    wanted = float(s[rank:].square().sum()) / 90 / 2
    assert truncation_loss(found, 12, 20, Fraction(3, 10)) == pytest.approx(wanted, rel=1e-6)


def test_its_factors_are_those_of_svd_llm() -> None:
    weight_MN = draw(12, 20, seed=0)
    moments = Moments.from_samples(weight_MN, draw(50, 20, seed=1), draw(50, 12, seed=2))
    pairs = [
        METHODS.find(name).decompose(weight_MN, moments).pair(4)
        for name in ("svd-llm", "svd-llm-v2")
    ]
    assert all(torch.equal(*both) for both in zip(*pairs, strict=True))


@pytest.mark.parametrize("tokens", [1, 5])
def test_fewer_tokens_than_the_rank_and_singular_moments(tokens: int) -> None:
    found = own(0.3, tokens=tokens)
    assert params(SHAPES, found) <= limit_of(0.3)


def test_indefinite_moments_are_raised_and_nan_is_a_reason() -> None:
    weight_MN = draw(12, 20, seed=0)
    moments = Moments.from_samples(weight_MN, draw(50, 20, seed=1), draw(50, 12, seed=2))
    below = moments.projected_moment - 0.5 * float(moments.projected_moment.norm()) * torch.eye(12)
    assert float(torch.linalg.eigvalsh(below)[0]) < 0
    found = SVD_LLM_V2.decompose(weight_MN, replace(moments, projected_moment=below))
    assert found.factors(6).finite
    assert truncation_loss(found, 12, 20, Fraction(3, 10)) >= 0
    below = moments.side_moment - 0.5 * float(moments.side_moment.norm()) * torch.eye(12)
    found = METHODS["gfwsvd"].decompose(weight_MN, replace(moments, side_moment=below))  # type: ignore[assignment]
    assert found.factors(12).finite
    moments.projected_moment[0, 0] = nan
    with pytest.raises(DecompositionFailed, match="NaN or infinite"):
        SVD_LLM_V2.decompose(weight_MN, moments)


def test_ratios_at_the_ends() -> None:
    assert own(0) == dict.fromkeys(SHAPES)
    with pytest.raises(InfeasibleBudget, match="removes at most 95%") as caught:
        own(0.99)
    assert caught.value.needed > caught.value.budget
    given = AllocationInputs(decompositions(), never, limit_of(0.5))
    with pytest.raises(PipelineError, match="need a model"):
        SVD_LLM_V2.allocate(SHAPES, 0.5)
    with pytest.raises(PlanError, match="not a share"):
        SVD_LLM_V2.allocate(SHAPES, 1.5, given)


def test_what_cannot_be_decomposed_stays_dense_and_others_make_up_for_it() -> None:
    known = decompositions()
    del known["layers.0.q_proj"]
    limit = limit_of(0.3)
    found = SVD_LLM_V2.allocate(SHAPES, 0.3, AllocationInputs(known, never, limit))
    assert found["layers.0.q_proj"] is None
    assert limit - 84 < params(SHAPES, found) <= limit
    # Losses and shares are those of what the others lose, not of the ratio that was asked for.
    able = {name: shape for name, shape in SHAPES.items() if name in known}
    share = Fraction(WHOLE - limit, sum(rows * columns for rows, columns in able.values()))
    losses = {name: truncation_loss(known[name], *able[name], share) for name in able}
    assert found == closed(SHAPES, shares_of(able, losses, float(share)), limit)
    with pytest.raises(InfeasibleBudget):
        SVD_LLM_V2.allocate(SHAPES, 0.3, AllocationInputs({}, never, limit))


def test_small_weights_have_at_least_rank_one_and_never_cost_more_than_dense() -> None:
    shapes = {"a.x": (3, 40), "b.x": (30, 30), "c.x": (1, 9), "d.x": (2, 2)}
    whole = sum(rows * columns for rows, columns in shapes.values())
    shares = {"a.x": 0.9, "b.x": 0.2, "c.x": 0.5, "d.x": 0.5}
    for limit in range(120, whole + 1, 7):
        found = closed(shapes, shares, limit)
        assert params(shapes, found) <= limit
        assert found["c.x"] is found["d.x"] is None
        assert (found["a.x"] or 0) >= 1
    with pytest.raises(InfeasibleBudget, match="rank 1 of every weight") as caught:
        closed(shapes, shares, 100)
    assert caught.value.needed == 43 + 60 + 9 + 4
