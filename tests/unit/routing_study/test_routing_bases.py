"""Own directions of kinds of text: the best there are, what they lose, and the pool of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.core.decision import LowRank, break_even
from gacfx.core.routed import Routed, own_blocks
from gacfx.routing.bases import (
    SHARED_LEVELS,
    own_directions,
    own_losses,
    pair_factors,
    pool_factors,
    pool_losses,
    pool_of,
    prefix_losses,
    shared_levels,
)
from tests.unit.routing_study.samples import SHAPES, sampled


def energies(count: int, size: int) -> Tensor:
    root = torch.randn(count, size, size).double() * torch.linspace(2, 0.1, size).double()
    return root.transpose(1, 2) @ root


def kept(energy_SS: Tensor, directions_SK: Tensor) -> float:
    return float((directions_SK.T @ energy_SS @ directions_SK).trace())


@pytest.mark.parametrize("shared", [0, 1, 4, 9, 10])
def test_own_directions_are_orthonormal_and_outside_of_what_is_shared(shared: int) -> None:
    found_SR = own_directions(energies(1, 10)[0], shared)
    assert found_SR.shape == (10, 10 - shared)
    torch.testing.assert_close(found_SR.T @ found_SR, torch.eye(10 - shared).double())
    assert not found_SR[:shared].any()


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_other_directions_keep_more(shared: int, count: int) -> None:
    energy_SS = energies(1, 10)[0]
    best = kept(energy_SS, own_directions(energy_SS, shared)[:, :count])
    for _ in range(50):
        other_SK = torch.zeros(10, count).double()
        other_SK[shared:] = torch.linalg.qr(torch.randn(10 - shared, count).double())[0]
        assert kept(energy_SS, other_SK) <= best * (1 + 1e-12)
    values = torch.linalg.eigvalsh(energy_SS[shared:, shared:])
    assert best == pytest.approx(float(values[-count:].sum()))


def test_what_the_prefix_loses() -> None:
    held_CSS = energies(3, 7)
    found = prefix_losses(held_CSS)
    want = [sum(float(e.diagonal()[count:].sum()) / 3 for e in held_CSS) for count in range(8)]
    np.testing.assert_allclose(found, want, atol=1e-12 * want[0])
    assert found.shape == (8,) and found.min() >= 0


@pytest.mark.parametrize("shared", [0, 2, 7])
def test_own_directions_are_charged_on_other_text(shared: int) -> None:
    fit_CSS, held_CSS = energies(3, 7), energies(3, 7)
    found = own_losses(fit_CSS, held_CSS, shared)
    want = []
    for count in range(8 - shared):
        lost = 0.0
        for fit_SS, held_SS in zip(fit_CSS, held_CSS, strict=True):
            own_SK = own_directions(fit_SS, shared)[:, :count]
            first_SK = torch.eye(7).double()[:, :shared]
            basis_SK = torch.cat([first_SK, own_SK], 1)
            outside_SS = torch.eye(7).double() - basis_SK @ basis_SK.T
            lost += float((outside_SS @ held_SS @ outside_SS).trace()) / 3
        want.append(lost)
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)


def test_on_the_same_text_own_directions_lose_no_more_than_the_prefix() -> None:
    held_CSS = energies(3, 12)
    static = prefix_losses(held_CSS)
    for shared in (0, 4, 8):
        assert bool((own_losses(held_CSS, held_CSS, shared) <= static[shared:] + 1e-9).all())


@pytest.mark.parametrize(("rank", "block"), [(64, 8), (64, 16), (10, 4), (3, 4), (100, 1)])
def test_shared_levels_are_multiples_of_the_block(rank: int, block: int) -> None:
    found = shared_levels(rank, block)
    assert list(found) == sorted({*found}) and found[0] == 0
    assert all(each % block == 0 and each < rank for each in found)
    assert len(found) <= len(SHARED_LEVELS)


def test_every_candidate_has_the_loss_of_its_directions() -> None:
    rows, columns, block = 24, 40, 2
    fit_CSS, held_CSS = energies(2, 24), energies(2, 24)
    found = pool_losses(fit_CSS, held_CSS, rows, columns, block)
    top = break_even(rows, columns)
    static = prefix_losses(held_CSS)
    pairs = {each: loss for each, loss in found.items() if isinstance(each, LowRank)}
    assert pairs == {LowRank(k): static[k] for k in range(2, top + 1, 2)}
    pools = {each: loss for each, loss in found.items() if isinstance(each, Routed)}
    assert len(pools) + len(pairs) == len(found)
    assert {each.shared for each in pools} == {s for s in shared_levels(24, 2) if s + 2 <= top}
    for each, loss in pools.items():
        assert each.problem(rows, columns) == "" and each.active <= top
        assert each == pool_of(each.active, each.shared, block, 2)
        assert each.pool == each.active + 2 * (each.active - each.shared)
        assert loss == own_losses(fit_CSS, held_CSS, each.shared)[each.active - each.shared]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [0, 2])
def test_the_pool_holds_the_prefix_and_the_projection_of_each_kind(
    shape: tuple[int, int], shared: int
) -> None:
    made, kinds = sampled(*shape, kinds=3), 3
    pool, parts = made.pool(), made.energies()
    decision = pool_of(4, shared, 2, kinds)
    factors = pool_factors(pool, [*parts], decision, torch.float64)
    assert (factors.decision, factors.rows, factors.columns) == (decision, *shape)

    def product(kind: int) -> Tensor:
        blocks = own_blocks(decision, kinds, kind)
        ranks = [at * decision.block + i for at in blocks for i in range(decision.block)]
        return factors.tensors["up"][ranks].T @ factors.tensors["down"][ranks]

    pair = pair_factors(pool, 4, torch.float64)
    static_MN = pair.tensors["up"] @ pair.tensors["down"]
    torch.testing.assert_close(product(0), static_MN)
    torch.testing.assert_close(static_MN, pool.up_MS[:, :4] @ pool.down_SN[:4])
    for kind in range(1, kinds + 1):
        own_SK = own_directions(parts[kind - 1], shared)[:, : 4 - shared]
        first_MN = pool.up_MS[:, :shared] @ pool.down_SN[:shared]
        want_MN = first_MN + pool.up_MS @ own_SK @ own_SK.T @ pool.down_SN
        torch.testing.assert_close(product(kind), want_MN)
        others = [lost(pool.down_SN, made.inputs_CTN[kind - 1], own_SK, shared)]
        others += [
            lost(pool.down_SN, made.inputs_CTN[kind - 1], other_SK, shared)
            for other in range(kinds)
            for other_SK in [own_directions(parts[other], shared)[:, : 4 - shared]]
        ]
        assert min(others) == others[0]  # of its own text, its own directions lose least


def lost(down_SN: Tensor, inputs_TN: Tensor, own_SK: Tensor, shared: int) -> float:
    """Half the mean square of z outside of what is kept, of samples."""
    z_TS = inputs_TN @ down_SN.T
    z_TS[:, :shared] = 0
    rest_TS = z_TS - z_TS @ own_SK @ own_SK.T
    return float(rest_TS.square().sum(1).mean()) / 2


def test_factors_have_the_type_that_was_asked_for() -> None:
    made = sampled(10, 14)
    factors = pool_factors(made.pool(), [*made.energies()], pool_of(4, 2, 2, 2), torch.bfloat16)
    assert {each.dtype for each in factors.tensors.values()} == {torch.bfloat16}
    assert pair_factors(made.pool(), 4, torch.float16).tensors["up"].dtype == torch.float16


def test_pairs_alone_cost_what_they_cost_beside_pools() -> None:
    fit_CSS, held_CSS = energies(3, 12), energies(3, 12)
    both = pool_losses(fit_CSS, held_CSS, 40, 12, 2)
    pairs = pool_losses(fit_CSS, held_CSS, 40, 12, 2, ())
    assert pairs == {each: loss for each, loss in both.items() if isinstance(each, LowRank)}
    assert pairs and len(both) > len(pairs)
