"""Own directions of kinds of text: the best there are, what they lose, and the pool of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.core.decision import LowRank, break_even
from gacfx.core.routed import Routed, own_blocks
from gacfx.routing.bases import (
    OWN_GRADIENTS,
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
from gacfx.routing.pools import Directions, PieceMoments
from tests.unit.routing_study.samples import SHAPES, piece_moments, sampled


def lost(seen: PieceMoments, write_SK: Tensor, read_SK: Tensor, shared: int) -> float:
    """Nats without what is outside of the shared pieces and of some directions."""
    outside_SS = torch.eye(len(seen.energy_SS)).double()
    outside_SS[:shared] = 0
    outside_SS -= write_SK @ read_SK.T
    terms_SS = (outside_SS @ seen.energy_SS @ outside_SS.T) * seen.grads_SS
    return float(terms_SS.sum())


def own(kinds: Sequence[PieceMoments], kind: int, shared: int, weight: float = 1.0) -> Directions:
    return [*own_directions(kinds, shared, weight)][kind]


@pytest.mark.parametrize("shared", [0, 1, 4, 9, 10])
def test_own_directions_are_a_projection_outside_of_what_is_shared(shared: int) -> None:
    for found in own_directions(piece_moments(3, 10), shared):
        assert found.read_SK.shape == found.write_SK.shape == (10, 10 - shared)
        one_RR = torch.eye(10 - shared).double()
        torch.testing.assert_close(found.read_SK.T @ found.write_SK, one_RR)
        assert not found.read_SK[:shared].any() and not found.write_SK[:shared].any()


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_of_that_rank_loses_less(shared: int, count: int) -> None:
    kinds = piece_moments(2, 10)
    for at, seen in enumerate(kinds):
        best = own(kinds, at, shared).first(count)
        least = lost(seen, best.write_SK, best.read_SK, shared)
        for scale in (1e-3, 1e-2, 0.1, 1.0):
            for _ in range(20):
                noise_2SK = torch.randn(2, 10 - shared, count).double() * scale
                write_SK, read_SK = best.write_SK.clone(), best.read_SK.clone()
                write_SK[shared:] += noise_2SK[0]
                read_SK[shared:] += noise_2SK[1]
                assert lost(seen, write_SK, read_SK, shared) >= least * (1 - 1e-9)
        assert float(seen.along(best).nats()[count]) == 0


def test_gradients_of_all_kinds_count_beside_its_own() -> None:
    kinds = piece_moments(3, 8)
    mean_SS = torch.stack([each.grads_SS for each in kinds]).mean(0)
    for weight in (0.0, OWN_GRADIENTS, 1.0):
        mixed = [
            replace(each, grads_SS=weight * each.grads_SS + (1 - weight) * mean_SS)
            for each in kinds
        ]
        for at in range(3):
            found, want = own(kinds, at, 2, weight), own(mixed, at, 2)
            for found_SK, want_SK in zip(
                (found.read_SK, found.write_SK), (want.read_SK, want.write_SK), strict=True
            ):
                torch.testing.assert_close(found_SK.abs(), want_SK.abs())
    default = next(own_directions(kinds, 2)).read_SK
    torch.testing.assert_close(default, own(kinds, 0, 2, OWN_GRADIENTS).read_SK)


def test_what_no_gradient_sees_comes_last() -> None:
    one, other = piece_moments(2, 8)
    grads_SS = one.grads_SS.clone()
    grads_SS[5:], grads_SS[:, 5:] = 0, 0
    seen = replace(one, grads_SS=grads_SS)
    found = own([seen, other], 0, 0)
    assert bool(found.read_SK.isfinite().all()) and bool(found.write_SK.isfinite().all())
    nats = seen.along(found).nats()
    assert float(nats[5]) < 1e-4 * float(nats[0]) < float(nats[4])
    dead = replace(one, grads_SS=torch.zeros(8, 8).double())
    for each in own_directions([dead, dead], 2):
        assert bool(each.read_SK.isfinite().all()) and bool(each.write_SK.isfinite().all())


def test_what_the_prefix_loses() -> None:
    held = piece_moments(3, 7)
    found = prefix_losses(held)
    grads_SS = torch.stack([each.grads_SS for each in held]).mean(0)
    want = [
        sum(float((e.energy_SS * grads_SS)[count:, count:].sum()) / 3 for e in held)
        for count in range(8)
    ]
    np.testing.assert_allclose(found, want, atol=1e-12 * want[0])
    assert found.shape == (8,) and found.min() >= 0


@pytest.mark.parametrize("shared", [0, 2, 7])
def test_own_directions_are_charged_on_other_text(shared: int) -> None:
    fit, held = piece_moments(3, 7), piece_moments(3, 7)
    found = own_losses(fit, held, shared)
    grads_SS = torch.stack([each.grads_SS for each in held]).mean(0)
    want = []
    for count in range(8 - shared):
        each = [directions.first(count) for directions in own_directions(fit, shared)]
        pairs = zip([replace(e, grads_SS=grads_SS) for e in held], each, strict=True)
        want.append(sum(lost(seen, d.write_SK, d.read_SK, shared) for seen, d in pairs) / 3)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-9 * want[0])


def test_on_the_same_text_own_directions_lose_no_more_than_the_prefix() -> None:
    """With its own gradients alone, on which each kind is charged."""
    held = piece_moments(3, 12)
    for at, seen in enumerate(held):
        for shared in (0, 4, 8):
            nats = seen.along(own(held, at, shared)).nats()
            assert bool((nats <= seen.nats()[shared:] * (1 + 1e-9)).all())


@pytest.mark.parametrize(("rank", "block"), [(64, 8), (64, 16), (10, 4), (3, 4), (100, 1)])
def test_shared_levels_are_multiples_of_the_block(rank: int, block: int) -> None:
    found = shared_levels(rank, block)
    assert list(found) == sorted({*found}) and found[0] == 0
    assert all(each % block == 0 and each < rank for each in found)
    assert len(found) <= len(SHARED_LEVELS)


def test_every_candidate_has_the_loss_of_its_directions() -> None:
    rows, columns, block = 24, 40, 2
    fit, held = piece_moments(2, 24), piece_moments(2, 24)
    found = pool_losses(fit, held, rows, columns, block)
    top = break_even(rows, columns)
    static = prefix_losses(held)
    pairs = {each: loss for each, loss in found.items() if isinstance(each, LowRank)}
    assert pairs == {LowRank(k): static[k] for k in range(2, top + 1, 2)}
    pools = {each: loss for each, loss in found.items() if isinstance(each, Routed)}
    assert len(pools) + len(pairs) == len(found)
    assert {each.shared for each in pools} == {s for s in shared_levels(24, 2) if s + 2 <= top}
    for each, loss in pools.items():
        assert each.problem(rows, columns) == "" and each.active <= top
        assert each == pool_of(each.active, each.shared, block, 2)
        assert each.pool == each.active + 2 * (each.active - each.shared)
        assert loss == own_losses(fit, held, each.shared)[each.active - each.shared]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [0, 2])
def test_the_pool_holds_the_prefix_and_the_projection_of_each_kind(
    shape: tuple[int, int], shared: int
) -> None:
    made, kinds = sampled(*shape, kinds=3), 3
    pool, parts = made.pool(), made.seen()
    decision = pool_of(4, shared, 2, kinds)
    factors = pool_factors(pool, parts, decision, torch.float64)
    assert (factors.decision, factors.rows, factors.columns) == (decision, *shape)

    def product(kind: int) -> Tensor:
        blocks = own_blocks(decision, kinds, kind)
        ranks = [at * decision.block + i for at in blocks for i in range(decision.block)]
        return factors.tensors["up"][ranks].T @ factors.tensors["down"][ranks]

    pair = pair_factors(pool, 4, torch.float64)
    static_MN = pair.tensors["up"] @ pair.tensors["down"]
    torch.testing.assert_close(product(0), static_MN)
    torch.testing.assert_close(static_MN, pool.up_MS[:, :4] @ pool.down_SN[:4])
    first_MN = pool.up_MS[:, :shared] @ pool.down_SN[:shared]
    for kind, directions in enumerate(own_directions(parts, shared)):
        best = directions.first(4 - shared)
        want_MN = first_MN + pool.up_MS @ best.write_SK @ best.read_SK.T @ pool.down_SN
        torch.testing.assert_close(product(kind + 1), want_MN)
        losses = [made.nats(kind, made.weight_MN - product(at)) for at in range(kinds + 1)]
        assert losses[kind + 1] == min(losses)  # of its own text, its own directions lose least


def test_factors_have_the_type_that_was_asked_for() -> None:
    made = sampled(10, 14)
    factors = pool_factors(made.pool(), made.seen(), pool_of(4, 2, 2, 2), torch.bfloat16)
    assert {each.dtype for each in factors.tensors.values()} == {torch.bfloat16}
    assert pair_factors(made.pool(), 4, torch.float16).tensors["up"].dtype == torch.float16


def test_pairs_alone_cost_what_they_cost_beside_pools() -> None:
    fit, held = piece_moments(3, 12), piece_moments(3, 12)
    both = pool_losses(fit, held, 40, 12, 2)
    pairs = pool_losses(fit, held, 40, 12, 2, ())
    assert pairs == {each: loss for each, loss in both.items() if isinstance(each, LowRank)}
    assert pairs and len(both) > len(pairs)
