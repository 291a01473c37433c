"""ASVD: its scale, the statistics that it is made of, and the tables of its own ranks."""

# M outputs, N inputs, T tokens

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, nan

import pytest
import torch
from torch import Tensor

from gacfx.compressors.allocate import allocate
from gacfx.compressors.asvd import ASVD, stable_rank
from gacfx.compressors.lowrank import WeightedSvd, channel_scale
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs
from gacfx.compressors.strs import SHARES, params, ranks_of
from gacfx.core.statistics import Moments
from gacfx.errors import CalibrationError, DecompositionFailed, InfeasibleBudget, PipelineError

SHAPES = {"a.q_proj": (12, 20), "b.q_proj": (20, 12), "a.down_proj": (16, 16)}
WHOLE = sum(rows * columns for rows, columns in SHAPES.values())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Moments, Tensor]:
    """Weight, moments and inputs of very different channels."""
    weight_MN, x_TN = draw(rows, columns, seed=seed), draw(60, columns, seed=seed + 1)
    x_TN = x_TN * torch.logspace(-2, 2, columns, dtype=torch.float64)
    return weight_MN, Moments.from_samples(weight_MN, x_TN, draw(60, rows, seed=seed + 2)), x_TN


def truncated(found: WeightedSvd, rank: int) -> Tensor:
    up_MR, down_RN = found.pair(rank)
    return up_MR @ down_RN


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("scale", ["abs-mean", "abs-max"])
def test_its_factors_are_the_svd_of_the_scaled_weight(
    shape: tuple[int, int], alpha: float, scale: str
) -> None:
    weight_MN, moments, x_TN = sample(*shape)
    size_N = x_TN.abs().mean(0) if scale == "abs-mean" else x_TN.abs().amax(0)
    scale_N = size_N**alpha
    u, s, vh = torch.linalg.svd(weight_MN * scale_N, full_matrices=False)
    method = replace(ASVD, alpha=alpha, scale=scale)
    found = method.decompose(weight_MN, moments)
    for rank in (1, 5, 12):
        wanted = (u[:, :rank] * s[:rank]) @ vh[:rank] / scale_N
        torch.testing.assert_close(truncated(found, rank), wanted, rtol=1e-7, atol=1e-9)
        error = float(((weight_MN - truncated(found, rank)) * scale_N).square().sum())
        assert error == pytest.approx(float(s[rank:].square().sum()), rel=1e-6, abs=1e-9)


def test_alpha_zero_is_plain_svd_whatever_the_channels_are() -> None:
    weight_MN, moments, _ = sample(12, 20)
    moments.input_abs_mean[3] = 0.0
    plain = METHODS["svd"].decompose(weight_MN, moments)
    found = METHODS.find("asvd:alpha=0").decompose(weight_MN, moments)
    assert isinstance(plain, WeightedSvd) and isinstance(found, WeightedSvd)
    torch.testing.assert_close(truncated(found, 4), truncated(plain, 4))


def test_dead_channels_have_a_floor_at_every_alpha_and_none_living_is_no_scale() -> None:
    size_N = torch.tensor([4.0, 0.0, 1.0, 9.0])
    for alpha in (0.25, 0.5, 1.0):
        found = channel_scale(size_N, alpha)
        assert found[1] == pytest.approx(1e-3 * 4**alpha)
        torch.testing.assert_close(found[[0, 2, 3]], size_N[[0, 2, 3]] ** alpha)
    assert torch.equal(channel_scale(torch.zeros(3)), torch.ones(3))


@pytest.mark.parametrize("scale", ["abs-mean", "abs-max"])
def test_a_dead_channel_leaves_factors_finite_and_zero_activations_are_a_reason(scale: str) -> None:
    weight_MN, _, x_TN = sample(12, 20)
    method, grads = replace(ASVD, scale=scale), draw(60, 12)
    x_TN[:, :4] = 0
    found = method.decompose(weight_MN, Moments.from_samples(weight_MN, x_TN, grads))
    torch.testing.assert_close(truncated(found, 12), weight_MN, rtol=1e-6, atol=1e-8)
    assert found.factors(5, torch.float16).finite
    with pytest.raises(DecompositionFailed, match="no calibration token reached"):
        method.decompose(weight_MN, Moments.from_samples(weight_MN, x_TN * 0, grads))


def test_fewer_tokens_than_the_rank() -> None:
    weight_MN = draw(12, 20)
    for tokens in (1, 3):
        moments = Moments.from_samples(weight_MN, draw(tokens, 20), draw(tokens, 12))
        found = ASVD.decompose(weight_MN, moments)
        torch.testing.assert_close(truncated(found, 12), weight_MN)


def test_statistics_without_the_largest_inputs_are_refused_plainly() -> None:
    weight_MN, moments, _ = sample(12, 20)
    old = replace(moments, input_abs_max=None)
    assert ASVD.decompose(weight_MN, old).components
    with pytest.raises(CalibrationError, match="did not gather the largest inputs; calibrate ag"):
        METHODS.find("asvd:scale=abs-max").decompose(weight_MN, old)
    broken = replace(moments, input_abs_max=torch.full((20,), nan))
    with pytest.raises(DecompositionFailed, match="NaN or infinite calibration statistics"):
        ASVD.decompose(weight_MN, broken)


# -- its own ranks --------------------------------------------------------------------------------


Losses = Callable[[str, int], float]


def inputs(losses: Losses, ratio: float = 0.3, without: tuple[str, ...] = ()) -> AllocationInputs:
    """What a study would give, with made-up losses."""
    known = {
        name: ASVD.decompose(*sample(*shape)[:2], name)
        for name, shape in SHAPES.items()
        if name not in without
    }

    def measure(ranks: Mapping[str, int], tokens: int | None = None) -> float:
        assert tokens == 2048 and len(ranks) == 1
        ((name, rank),) = ranks.items()
        return losses(name, rank)

    return AllocationInputs(known, measure, int(WHOLE * (1 - ratio)))


def test_the_table_holds_the_loss_with_one_weight_replaced() -> None:
    asked: list[tuple[str, int]] = []

    def losses(name: str, rank: int) -> float:
        asked.append((name, rank))
        return 1 / rank + (5 if name == "a.q_proj" else 0)

    steps: list[tuple[int, int]] = []
    given = replace(inputs(losses), progress=lambda *step: steps.append(step))
    found = ASVD.allocate(SHAPES, 0.3, given)
    assert asked == [(name, rank) for name, shape in SHAPES.items() for rank in ranks_of(*shape)]
    assert found["a.q_proj"] is None  # nothing hurts as much
    assert params(SHAPES, found) <= given.limit_params
    assert steps == [(0, 18), (6, 18), (12, 18), (18, 18)]


def test_a_table_that_is_remembered_is_not_measured() -> None:
    kept: dict[str, Sequence[float]] = {}

    def remember(name: str, make: Callable[[], Sequence[float]]) -> Sequence[float]:
        if name not in kept:
            kept[name] = make()
        return kept[name]

    first = ASVD.allocate(SHAPES, 0.3, replace(inputs(lambda *_: 1.0), remember=remember))
    assert {*kept} == {*SHAPES}

    def never(_name: str, _rank: int) -> float:
        raise AssertionError

    assert ASVD.allocate(SHAPES, 0.3, replace(inputs(never), remember=remember)) == first


@pytest.mark.parametrize("bad", [inf, nan])
def test_a_weight_without_a_finite_loss_stays_dense(bad: float) -> None:
    found = ASVD.allocate(
        SHAPES, 0.2, inputs(lambda name, rank: bad if name == "a.q_proj" else 1 / rank, 0.2)
    )
    assert found["a.q_proj"] is None and any(found.values())


def test_a_weight_that_has_no_decomposition_stays_dense_and_others_make_up_for_it() -> None:
    given = inputs(lambda _, rank: 1 / rank, 0.2, without=("b.q_proj",))
    found = ASVD.allocate(SHAPES, 0.2, given)
    assert found["b.q_proj"] is None and params(SHAPES, found) <= given.limit_params


@pytest.mark.parametrize("allocation", ["strs", "stable-rank"])
def test_ratios_at_the_ends(allocation: str) -> None:
    method = replace(ASVD, allocation=allocation)
    assert method.allocate(SHAPES, 0, inputs(lambda *_: 1.0, 0)) == dict.fromkeys(SHAPES)
    with pytest.raises(InfeasibleBudget, match="allocation=uniform"):
        method.allocate(SHAPES, 0.99, inputs(lambda *_: 1.0, 0.99))
    with pytest.raises(PipelineError, match="need a model"):
        method.allocate(SHAPES, 0.3)


def test_uniform_ranks_need_nothing() -> None:
    method = replace(ASVD, allocation="uniform")
    assert method.allocate(SHAPES, 0.3) == allocate(SHAPES, 0.3)


def test_stable_ranks_are_those_of_the_singular_values() -> None:
    for shape in SHAPES.values():
        weight_MN, moments, _ = sample(*shape)
        s = torch.linalg.svdvals(weight_MN)
        wanted = float(s.square().sum() / s[0] ** 2)
        assert stable_rank(ASVD.decompose(weight_MN, moments)) == pytest.approx(wanted)


def test_the_cheap_table_compresses_what_has_a_large_stable_rank() -> None:
    """As published: the sensitivity is -(stable rank)^1/2, least where the rank is largest."""
    known = inputs(lambda *_: 1.0, 0.2)
    flat = known.decompositions["a.down_proj"]
    assert isinstance(flat, WeightedSvd)
    made = {**known.decompositions, "a.down_proj": replace(flat, weight_MN=torch.eye(16))}
    found = replace(ASVD, allocation="stable-rank").allocate(
        SHAPES, 0.2, replace(known, decompositions=made)
    )
    rank = found["a.down_proj"]
    others = [found["a.q_proj"], found["b.q_proj"]]
    assert rank == ranks_of(16, 16)[0] and None in others
    assert len(SHARES) == 6
