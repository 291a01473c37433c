"""Losses and orders of a closing weight against refits and eliminations that compute all anew."""

# M outputs, N inputs, U units, C columns of a unit, H query heads of a key-value head

from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.compressors.curves import OutputWeight
from gacfx.compressors.pruning import elimination
from gacfx.compressors.pruning.closing import (
    Closing,
    fixed_columns,
    head_columns,
    unit_columns,
)
from gacfx.compressors.pruning.elimination import Elimination, order_heads, order_units
from gacfx.compressors.pruning.left import narrowed
from gacfx.core.statistics import Moments
from gacfx.core.structures import Positions
from gacfx.errors import CalibrationError, DecompositionFailed
from tests.unit.compressors.pruning.made_weights import Made, kept, made

OUTPUTS = list(OutputWeight)


def grad_of(one: Made, output: OutputWeight) -> Tensor:
    identity = torch.eye(len(one.weight_MN), dtype=torch.float64)
    moment_MM = one.grads_TM.T @ one.grads_TM / len(one.grads_TM)
    return {
        OutputWeight.MOMENT: moment_MM,
        OutputWeight.MEAN: moment_MM.diagonal().mean() * identity,
        OutputWeight.IDENTITY: identity,
    }[output]


def error_loss(one: Made, error_MN: Tensor, output: OutputWeight) -> float:
    """1/2 tr(G E A E^T)."""
    out_TM = one.inputs_TN @ error_MN.T
    return 0.5 * float(((out_TM @ grad_of(one, output)) * out_TM).sum()) / len(out_TM)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("shape", [(9, 14), (14, 9)], ids=str)
def test_loss_of_a_set_is_that_of_its_refit(shape: tuple[int, int], output: OutputWeight) -> None:
    one = made(*shape)
    closing = Closing.of(one.weight_MN, one.moments, output)
    for count in (1, 4, 8):
        kept_K = kept(shape[1], count, seed=count)
        error_MN = one.weight_MN.clone()
        error_MN[:, kept_K] -= narrowed(one.weight_MN, one.moments, kept_K)[0]
        want = error_loss(one, error_MN, output)
        assert closing.loss_of(kept_K) == pytest.approx(want, rel=1e-5)
    assert closing.loss_of(range(shape[1])) == 0
    assert closing.loss_of([]) == pytest.approx(error_loss(one, one.weight_MN, output), rel=1e-6)


def naive(closing: Closing, columns_UC: Tensor) -> list[int]:
    """Every removal priced anew, from nothing."""
    left, gone = list(range(len(columns_UC))), list[int]()
    while left:
        losses = []
        for unit in left:
            stays = torch.ones(len(closing.input_NN), dtype=torch.bool)
            stays[columns_UC[[*gone, unit]].flatten()] = False
            losses.append(closing.loss_of(stays.nonzero()[:, 0]))
        gone.append(left.pop(int(np.argmin(losses))))
    return gone[::-1]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("waiting", [1, 5, 96])
@pytest.mark.parametrize(("units", "size", "fixed"), [(24, 1, 0), (20, 1, 3), (7, 3, 2), (4, 5, 0)])
def test_order_of_units_is_that_of_a_naive_elimination(
    monkeypatch: pytest.MonkeyPatch,
    units: int,
    size: int,
    fixed: int,
    waiting: int,
    output: OutputWeight,
) -> None:
    monkeypatch.setattr(elimination, "WAITING", waiting)
    one = made(6, units * size + fixed, seed=units)
    closing = Closing.of(one.weight_MN, one.moments, output)
    columns_UC = kept(units * size + fixed, units * size)[torch.randperm(units * size)]
    columns_UC = columns_UC.reshape(units, size)
    assert order_units(closing, columns_UC).tolist() == naive(closing, columns_UC)


@pytest.mark.parametrize(("units", "size", "fixed"), [(24, 1, 0), (20, 1, 3), (7, 3, 2)])
def test_prices_add_up_to_the_width_curve_and_to_the_losses(
    monkeypatch: pytest.MonkeyPatch, units: int, size: int, fixed: int
) -> None:
    monkeypatch.setattr(elimination, "WAITING", 4)
    one = made(6, units * size + fixed, seed=units)
    closing = Closing.of(one.weight_MN, one.moments)
    columns_UC = kept(units * size + fixed, units * size).reshape(units, size)
    order = order_units(closing, columns_UC)
    curve = closing.width_curve(columns_UC[order])
    fixed_F = fixed_columns(columns_UC, units * size + fixed)
    left, total = Elimination(closing, columns_UC), 0.0
    for count in range(units, -1, -1):
        stays = torch.cat([fixed_F, columns_UC[order[:count]].flatten()])
        want = closing.loss_of(stays)
        assert float(curve[count]) == pytest.approx(want, rel=1e-6, abs=1e-9)
        assert total == pytest.approx(want, rel=1e-6, abs=1e-9)
        if count:
            price = left.prices()[order[count - 1]]
            assert price == left.prices().min()
            total += float(price)
            left.remove([int(order[count - 1])])
            assert left.prices()[order[count - 1]] == inf
    assert (curve.diff() <= 0).all()


def test_heads_go_in_rounds() -> None:
    one = made(6, 24)
    closing = Closing.of(one.weight_MN, one.moments)
    columns_UHC = torch.randperm(24).reshape(4, 3, 2)
    order_UH = order_heads(closing, columns_UHC)
    assert [sorted(row) for row in order_UH.tolist()] == [[0, 1, 2]] * 4
    gone: list[tuple[int, int]] = []
    for count in range(3):
        waits = list(range(4))
        while waits:
            options = [(u, h) for u in waits for h in range(3) if (u, h) not in gone]
            losses = []
            for option in options:
                stays = torch.ones(24, dtype=torch.bool)
                for unit, head in [*gone, option]:
                    stays[columns_UHC[unit, head]] = False
                losses.append(closing.loss_of(stays.nonzero()[:, 0]))
            gone.append(options[int(np.argmin(losses))])
            waits.remove(gone[-1][0])
            assert int(order_UH[gone[-1][0], 2 - count]) == gone[-1][1]


def test_dead_and_duplicate_channels_go_first() -> None:
    one = made(6, 12)
    inputs_TN = one.inputs_TN.clone()
    inputs_TN[:, 2], inputs_TN[:, 7] = 0, inputs_TN[:, 3]
    one = Made(one.weight_MN, inputs_TN, one.grads_TM)
    closing = Closing.of(one.weight_MN, one.moments)
    order = order_units(closing, torch.arange(12)[:, None])
    gone = set(order[-2:].tolist())
    assert 2 in gone and gone & {3, 7} and not {3, 7} <= gone
    curve = closing.width_curve(order[:, None])
    assert float(curve[10]) < 1e-6 * float(curve[0]) < float(curve[9])


def test_more_channels_than_tokens() -> None:
    one = made(6, 40, tokens=12)
    closing = Closing.of(one.weight_MN, one.moments)
    order = order_units(closing, torch.arange(40)[:, None])
    curve = closing.width_curve(order[:, None])
    assert float(curve[12]) < 1e-4 * float(curve[0])
    for count in (0, 5, 20, 39):
        want = closing.loss_of(order[:count])
        assert float(curve[count]) == pytest.approx(want, rel=1e-4, abs=1e-9 * float(curve[0]))


def test_columns_of_units_and_heads() -> None:
    positions = Positions(
        np.array([1, 1, -1, 0, 0, 1, 1, 0, 0]), np.array([1, 0, -1, 0, 1, 0, 1, 1, 0])
    )
    assert unit_columns(positions).tolist() == [[3, 4, 7, 8], [0, 1, 5, 6]]
    assert head_columns(positions).tolist() == [[[3, 8], [4, 7]], [[1, 5], [0, 6]]]
    with pytest.raises(ValueError, match=r"units have \[1, 2\] columns"):
        unit_columns(Positions(np.array([0, 0, 1]), np.array([0, 0, 0])))
    with pytest.raises(ValueError, match="share no column"):
        head_columns(Positions(np.array([0, 1]), np.array([0, -1])))


def test_what_cannot_be_priced_is_a_reason() -> None:
    one = made(6, 9)
    columns_UC = torch.arange(9)[:, None]
    bad = one.moments
    bad.projected_moment[1, 2] = torch.nan
    with pytest.raises(DecompositionFailed, match=r"a\.b: NaN or infinite calibration"):
        Closing.of(one.weight_MN, bad, module="a.b")
    with pytest.raises(DecompositionFailed, match="NaN or infinite weight"):
        Closing.of(one.weight_MN * torch.nan, one.moments)
    with pytest.raises(CalibrationError, match="not gathered"):
        Closing.of(one.weight_MN, replace(one.moments, long_moment=None))
    with pytest.raises(ValueError, match="moments"):
        Closing.of(one.weight_MN.T, one.moments)
    huge = Closing.of(one.weight_MN * 1e200, one.moments, module="a.b")
    for fails in (
        lambda: order_units(huge, columns_UC),
        lambda: huge.width_curve(columns_UC),
        lambda: huge.loss_of([1]),
    ):
        with pytest.raises(DecompositionFailed, match=r"a\.b: .* not finite"):
            fails()


def test_wide_units_are_priced_alike_on_several_threads() -> None:
    """Units of 192 columns, three heads of 64: LU of such a batch fails in MKL on two threads."""
    random = torch.Generator().manual_seed(5)
    inputs_TN = torch.randn(1200, 576, generator=random, dtype=torch.float64)
    weight_MN = torch.randn(64, 576, generator=random, dtype=torch.float64)
    grads_TM = torch.randn(1200, 64, generator=random, dtype=torch.float64)
    moments = Moments.from_samples(weight_MN, inputs_TN, grads_TM, both_sides=True)
    closing = Closing.of(weight_MN, moments, OutputWeight.MOMENT)
    columns_UC, threads = torch.arange(576).reshape(3, 192), torch.get_num_threads()
    prices = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            prices.append(Elimination(closing, columns_UC).prices())
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(prices[0], prices[1], rtol=1e-9, atol=0.0)
