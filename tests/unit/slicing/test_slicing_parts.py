"""Bases, norms, sizes and rotations of slicing, each by itself."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.core import defaults
from gacfx.errors import CalibrationError, InfeasibleBudget, PlanError, UnsupportedModel
from gacfx.slicing.basis import basis_of, without_ones
from gacfx.slicing.door import READERS
from gacfx.slicing.moments import NormMoments
from gacfx.slicing.norms import read_norm
from gacfx.slicing.rotation import ROTATIONS, cost, descend, kept_directions, principal
from gacfx.slicing.sizes import largest_size, params_at

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def moment(size: int, seed: int, least: float = 0.2) -> Tensor:
    x = draw(8 * size, size, seed=seed) * torch.linspace(least, 2.0, size, dtype=F64)
    return x.T @ x / len(x)


def turned_moment(size: int, seed: int) -> Tensor:
    """Its long directions are others, and the same for every seed."""
    turn = torch.linalg.qr(draw(size, size, seed=77)).Q
    found: Tensor = turn @ moment(size, seed, 0.02) @ turn.T
    return found


def test_the_command_line_knows_every_choice() -> None:
    assert (defaults.ROTATIONS, defaults.READERS) == (ROTATIONS, READERS)


# -- bases ---------------------------------------------------------------------------------------


def test_columns_without_ones_are_orthonormal_and_of_mean_zero() -> None:
    found = without_ones(7)
    assert torch.allclose(found.T @ found, torch.eye(6, dtype=F64))
    assert found.sum(0).abs().max() < 1e-12


@pytest.mark.parametrize("centred", [False, True])
def test_what_is_written_is_read_again_with_the_same_mean_square(centred: bool) -> None:
    inside = without_ones(12) if centred else torch.eye(12, dtype=F64)
    kept = inside @ torch.linalg.qr(draw(inside.shape[1], 5)).Q
    basis = basis_of(kept, centred)
    assert basis.size == 5 + centred
    x = draw(4, 5) @ kept.T
    written = x @ basis.write_DH.T
    assert torch.allclose(written.square().mean(-1), x.square().mean(-1))
    assert torch.allclose(written @ basis.read_HD.T, x)
    assert torch.allclose(basis.projector, kept @ kept.T)
    assert not centred or written.sum(-1).abs().max() < 1e-12


# -- norms ---------------------------------------------------------------------------------------


class OnePlus(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


class Shifted(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean()


def test_norms_are_told_apart_by_what_they_compute() -> None:
    one = read_norm(OnePlus(6), "n", 6)
    assert (one.centred, one.neutral, one.shift_H) == (False, 0.0, None)
    layer = nn.LayerNorm(6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    found = read_norm(layer, "n", 6)
    assert (found.centred, found.neutral) == (True, 1.0)
    assert torch.equal(found.gain_H, layer.weight.double())
    assert found.shift_H is not None and torch.equal(found.shift_H, layer.bias.double())
    assert not read_norm(nn.RMSNorm(6), "n", 6).centred


def test_a_gain_counts_the_one_of_one_plus_weight() -> None:
    norm = OnePlus(6)
    assert torch.equal(read_norm(norm, "n", 6).gain_H, 1 + norm.weight.double())
    plain = read_norm(norm, "n", 6).neutral_(OnePlus(6))
    x = torch.randn(3, 6)
    assert torch.allclose(plain(x).square().mean(-1), torch.ones(3), atol=1e-4)


def test_a_module_that_is_no_norm_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="layers.0.norm: Shifted is no RMSNorm"):
        read_norm(Shifted(6), "layers.0.norm", 6)
    with pytest.raises(UnsupportedModel, match="alpha"):
        read_norm(Odd(), "n", 6)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(6))


# -- sizes ---------------------------------------------------------------------------------------

SHAPES = {"e": (20, 16), "w": (24, 16), "o": (16, 24), "n": (16,), "qk": (5, 5)}
ROLES = {"e": (1,), "w": (1,), "o": (0,), "n": (0,)}


def ask(**more: Any) -> Any:
    given = {"dense": 1129, "hidden": 16, "ratio": 0.25, "align": 4, **more}
    return largest_size(SHAPES, ROLES, **given)


@pytest.mark.parametrize(
    ("ratio", "align"), [*itertools.product(("0.1", "0.25", "0.6"), (1, 3, 4))]
)
def test_the_size_is_the_largest_within_the_budget(ratio: str, align: int) -> None:
    found = ask(ratio=ratio, align=align)
    assert found.params == 25 + 69 * found.hidden <= found.limit
    assert found.hidden % align == 0
    assert found.next_params is None or found.next_params > found.limit
    assert found.limit == int(1129 * (1 - float(ratio)))
    above = found.hidden + align
    assert found.next_hidden == (above if above <= 16 else None)


def test_sizes_that_the_architecture_refuses_are_left_out() -> None:
    found = ask(refuses=lambda d: "odd" if d in (12, 16) else "")
    assert (found.hidden, found.next_hidden, found.next_params) == (8, None, None)
    found = ask(ratio="0.6", align=1, refuses=lambda d: "" if d in (3, 9) else "odd")
    assert (found.hidden, found.next_hidden, found.next_params) == (3, 9, 25 + 69 * 9)
    with pytest.raises(PlanError, match="that this architecture accepts: odd"):
        ask(refuses=lambda _: "odd")
    with pytest.raises(InfeasibleBudget, match="a hidden size of 16, the smallest"):
        ask(ratio="0.6", refuses=lambda d: "" if d == 16 else "odd")


def test_a_head_that_was_the_embedding_is_counted_twice() -> None:
    dense = params_at(SHAPES, ROLES, 16) - 20 * 16
    found = ask(dense=dense, ratio="0.1", tied="e", align=1)
    assert found.untied_params == 20 * found.hidden
    assert (ask(ratio="0.1").untied_params, found.dense_params) == (0, dense)
    assert found.hidden < 12


def test_an_axis_that_shows_twice_is_squared() -> None:
    assert params_at({"w": (16, 16)}, {"w": (0, 1)}, 4) == 16


@pytest.mark.parametrize("ratio", ["x", "1", "-0.1", "nan", True, None])
def test_a_ratio_that_cannot_be(ratio: Any) -> None:
    with pytest.raises(PlanError, match="ratio"):
        ask(ratio=ratio)


@pytest.mark.parametrize("align", [0, 17, 2.0, True])
def test_an_align_that_cannot_be(align: Any) -> None:
    with pytest.raises(PlanError, match="align"):
        ask(align=align)


def test_a_budget_that_nothing_fits() -> None:
    with pytest.raises(InfeasibleBudget, match="a hidden size of 4, .* already has 301") as error:
        ask(ratio="0.9")
    assert (error.value.needed, error.value.budget) == (301, 112)


# -- rotations -----------------------------------------------------------------------------------


def test_principal_components_come_with_the_largest_first() -> None:
    found = principal(moment(6, 1))
    kept = (found.T @ moment(6, 1) @ found).diagonal()
    assert torch.all(kept[:-1] >= kept[1:] - 1e-12)
    assert torch.allclose(found.T @ found, torch.eye(6, dtype=F64))


def points(gradients: bool = True) -> dict[str, NormMoments]:
    return {
        f"n{at}": NormMoments(moment(8, at, 1.5), turned_moment(8, at) if gradients else None)
        for at in range(3)
    }


def test_a_point_that_is_longer_counts_no_more_than_the_sum_says() -> None:
    found = kept_directions(points(), 5, centred=False, rotation="pca")
    total = torch.stack([each.moment_HH for each in points().values()]).sum(0)
    best = torch.linalg.eigh(total).eigenvectors[:, 3:]
    assert torch.allclose(found @ found.T, best @ best.T)


@pytest.mark.parametrize("centred", [False, True])
def test_the_two_sided_rotation_is_orthonormal_and_cheaper(centred: bool) -> None:
    both = []
    moments = torch.stack([each.moment_HH for each in points().values()])
    gradients = torch.stack([each.gradient_HH for each in points().values()])  # type: ignore[misc]
    for rotation in ROTATIONS:
        found = kept_directions(points(), 5, centred=centred, rotation=rotation)
        assert torch.allclose(found.T @ found, torch.eye(5, dtype=F64))
        assert not centred or found.sum(0).abs().max() < 1e-12
        lost = torch.linalg.qr(found, mode="complete").Q[:, 5:]
        both.append(float(cost(moments, gradients, lost)))
    two_sided, pca = both
    assert two_sided < 0.7 * pca


def test_the_cost_is_that_of_the_projectors() -> None:
    lost = torch.linalg.qr(draw(8, 3)).Q
    away = lost @ lost.T
    c, g = moment(8, 1), moment(8, 2)
    expected = torch.trace(away @ c @ away @ g)
    assert torch.allclose(cost(c[None], g[None], lost), expected)


def test_a_descent_never_ends_above_its_start() -> None:
    c = torch.diag(torch.arange(1.0, 9.0, dtype=F64))[None]
    start = torch.eye(8, dtype=F64)[:, :2]  # the best there is
    assert float(cost(c, c, descend(c, c, start))) <= float(cost(c, c, start)) + 1e-12


def test_all_directions_can_be_kept() -> None:
    found = kept_directions(points(), 8, centred=False, rotation="two-sided")
    assert torch.allclose(found @ found.T, torch.eye(8, dtype=F64))


def test_rotations_that_cannot_be() -> None:
    with pytest.raises(PlanError, match="8 directions of 7"):
        kept_directions(points(), 8, centred=True, rotation="pca")
    with pytest.raises(PlanError, match="two-sided, pca"):
        kept_directions(points(), 4, centred=True, rotation="random")  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="needs gradients"):
        kept_directions(points(gradients=False), 4, centred=False, rotation="two-sided")
