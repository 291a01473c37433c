"""Own directions for kinds of text: what each kind loses, and the pool that holds them all.

A pool begins with the ``active`` pieces that serve any text, in the order of the method: the static
layer. The first ``shared`` of them run for every prompt. Behind them stand ``active - shared`` own
directions of each kind of text: what that text loses least with, of the pieces that are not shared,
by its own inputs and its own gradients. What a choice is worth is charged on text that it has not
seen.
"""

# C kinds of text, S pieces of a weight, R of them that are not shared

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gacfx.core.decision import Decision, LowRank, break_even
from gacfx.core.materialise import Factors
from gacfx.core.routed import Routed
from gacfx.routing.pools import Directions, PieceMoments, Pool

SHARED_LEVELS = (0.0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
"""Shares of the rank of a weight that are tried as its shared part. Each costs an eigenproblem for
each kind of text; between them the loss changes by a few percent."""
OWN_GRADIENTS = 0.5
"""How much a kind's own gradient moment counts in its directions, beside that of all kinds: one
kind has few tokens, and its loss is not quite Kronecker-factored (``python -m
benchmarks.parse.quality --own-gradients 0 1``)."""
_RIDGE = 1e-6
"""Of the mean gradient moment: directions that no gradient sees are left for last."""


def own_directions(
    kinds: Sequence[PieceMoments], shared: int, own: float = OWN_GRADIENTS
) -> Iterator[Directions]:
    """Directions of each kind outside the shared pieces, best first: [S, S - shared] each.

    The first K of them lose least of all projections to rank K in the Kronecker-factored model of
    the loss of that text.

    Args:
        kinds: what each kind of text does in the pieces.
        shared: pieces that are left out.
        own: how much its own gradients count, 0 to 1.
    """
    all_SS = torch.stack([each.grads_SS for each in kinds]).mean(0)
    for each in kinds:
        grads_RR = torch.lerp(all_SS, each.grads_SS, own)[shared:, shared:]
        ridge = _RIDGE * grads_RR.diagonal().mean().clamp_min(_RIDGE)
        root_RR = torch.linalg.cholesky(
            grads_RR + ridge * torch.eye(len(grads_RR)).to(grads_RR), upper=True
        )
        energy_RR = root_RR @ each.energy_SS[shared:, shared:] @ root_RR.T
        turn_RR = torch.linalg.eigh(energy_RR).eigenvectors.flip(1)
        none = turn_RR.new_zeros(shared, len(turn_RR))
        yield Directions(
            torch.cat([none, root_RR.T @ turn_RR]),
            torch.cat([none, torch.linalg.solve_triangular(root_RR, turn_RR, upper=True)]),
        )


def own_losses(
    fit: Sequence[PieceMoments], held: Sequence[PieceMoments], shared: int
) -> NDArray[np.float64]:
    """[S - shared + 1]: nats lost per token with so many own directions, mean of the kinds.

    Args:
        fit: what each kind of text does, of which directions are made.
        held: the same of other text, on which they are charged.
        shared: pieces that run always.
    """
    found = [
        other.along(directions).nats()
        for other, directions in zip(_charged(held), own_directions(fit, shared), strict=True)
    ]
    mean: NDArray[np.float64] = torch.stack(found).mean(0).numpy()
    return mean


def prefix_losses(held: Sequence[PieceMoments]) -> NDArray[np.float64]:
    """[S + 1]: nats lost per token with the first pieces alone, mean of the kinds."""
    found = [each.nats() for each in _charged(held)]
    mean: NDArray[np.float64] = torch.stack(found).mean(0).numpy()
    return mean


def _charged(held: Sequence[PieceMoments]) -> list[PieceMoments]:
    """The kinds under the gradients of all of them.

    Those of one kind on its held-back text alone are of few tokens, and the sizes that look best by
    them are worse on other text.
    """
    all_SS = torch.stack([each.grads_SS for each in held]).mean(0)
    return [replace(each, grads_SS=all_SS) for each in held]


def shared_levels(
    rank: int, block: int, levels: Sequence[float] = SHARED_LEVELS
) -> tuple[int, ...]:
    """The shared ranks that are tried, rising, multiples of the block."""
    return tuple(sorted({int(level * rank) // block * block for level in levels}))


def pool_losses(
    fit: Sequence[PieceMoments],
    held: Sequence[PieceMoments],
    rows: int,
    columns: int,
    block: int,
    levels: Sequence[float] = SHARED_LEVELS,
) -> dict[Decision, float]:
    """What each candidate of a weight costs, nats per token: pairs, and pools with own directions.

    Args:
        fit: what each kind of text does, of which directions are made.
        held: the same of other text, on which they are charged.
        rows: outputs of the weight.
        columns: its inputs.
        block: every size is a multiple of it.
        levels: shares of the rank that are tried as shared part; empty for pairs alone.
    """
    rank = len(fit[0].energy_SS)
    top = min(break_even(rows, columns), rank)
    static = prefix_losses(held)
    found: dict[Decision, float] = {
        LowRank(active): float(static[active]) for active in range(block, top + 1, block)
    }
    for shared in shared_levels(rank, block, levels):
        if shared + block > top:
            continue
        losses = own_losses(fit, held, shared)
        for active in range(shared + block, top + 1, block):
            made = pool_of(active, shared, block, len(fit))
            found[made] = float(losses[active - shared])
    return found


def pool_of(active: int, shared: int, block: int, clusters: int) -> Routed:
    """The pool that holds the static prefix and the own ranks of each kind of text."""
    return Routed(active + clusters * (active - shared), active, shared, block)


def pool_factors(
    pool: Pool,
    kinds: Sequence[PieceMoments],
    decision: Routed,
    dtype: torch.dtype,
    own: float = OWN_GRADIENTS,
) -> Factors:
    """The tensors of a pool with own directions.

    Args:
        pool: of the weight.
        kinds: what each kind of text does in the pieces.
        decision: made by :func:`pool_of`.
        dtype: of the factors.
        own: how much its own gradients count for a kind, 0 to 1.
    """
    parts = list(_parts(pool, kinds, decision, own))
    made = {
        name: torch.cat([part[at] for part in parts]).to(dtype).contiguous()
        for at, name in enumerate(("down", "up"))
    }
    return Factors(decision, len(pool.up_MS), pool.down_SN.shape[1], made)


def pair_factors(pool: Pool, rank: int, dtype: torch.dtype) -> Factors:
    """The static pair of a weight: its first pieces."""
    down_SN, up_SM = pool.pieces()
    return Factors.pair(
        down_SN[:rank].to(dtype).contiguous(), up_SM[:rank].T.to(dtype).contiguous()
    )


def _parts(
    pool: Pool, kinds: Sequence[PieceMoments], decision: Routed, own: float
) -> Iterator[tuple[Tensor, Tensor]]:
    down_SN, up_SM = pool.pieces()
    yield down_SN[: decision.active], up_SM[: decision.active]
    count = decision.active - decision.shared
    for directions in own_directions(kinds, decision.shared, own) if count else ():
        yield pool.pieces(directions.first(count))
