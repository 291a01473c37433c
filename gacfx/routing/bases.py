"""Own directions for kinds of text: what each kind loses, and the pool that holds them all.

A pool begins with the ``active`` pieces that serve any text, in the order of the method: the static
layer. The first ``shared`` of them run for every prompt. Behind them stand ``active - shared`` own
directions of each kind of text: the largest eigenvectors of what that text does in the pieces that
are not shared. What a choice is worth is charged on text that it has not seen.
"""

# C kinds of text, S pieces of a weight

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gacfx.core.decision import Decision, LowRank, break_even
from gacfx.core.materialise import Factors
from gacfx.core.routed import Routed
from gacfx.routing.pools import Pool

SHARED_LEVELS = (0.0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
"""Shares of the rank of a weight that are tried as its shared part. Each costs an eigenproblem for
each kind of text; between them the loss changes by a few percent."""


def own_directions(energy_SS: Tensor, shared: int) -> Tensor:
    """Directions of one text outside the shared pieces, best first: orthonormal [S, S - shared].

    Args:
        energy_SS: E[z z^T] / 2 of that text.
        shared: pieces that are left out.
    """
    rest_RR = torch.linalg.eigh(energy_SS[shared:, shared:]).eigenvectors.flip(1)
    return torch.cat([rest_RR.new_zeros(shared, rest_RR.shape[1]), rest_RR])


def own_losses(fit_CSS: Tensor, held_CSS: Tensor, shared: int) -> NDArray[np.float64]:
    """[S - shared + 1]: nats lost per token with so many own directions, mean of the texts.

    Args:
        fit_CSS: E[z z^T] / 2 of each kind of text, of which directions are made.
        held_CSS: the same of other text, on which they are charged.
        shared: pieces that run always.
    """
    lost = np.zeros(fit_CSS.shape[1] - shared + 1)
    for fit_SS, held_SS in zip(fit_CSS, held_CSS, strict=True):
        own_SR = own_directions(fit_SS, shared)
        kept_R = (own_SR * (held_SS @ own_SR)).sum(0)
        whole = held_SS.diagonal()[shared:].sum()
        lost += (whole - torch.cat([whole.new_zeros(1), kept_R.cumsum(0)])).clamp_min(0).numpy()
    return lost / len(fit_CSS)


def prefix_losses(held_CSS: Tensor) -> NDArray[np.float64]:
    """[S + 1]: nats lost per token with the first pieces alone, mean of the texts."""
    energy_S = held_CSS.mean(0).diagonal()
    found: NDArray[np.float64] = (energy_S.sum() - energy_S.cumsum(0)).clamp_min(0).numpy()
    return np.concatenate([[float(energy_S.sum())], found])


def shared_levels(
    rank: int, block: int, levels: Sequence[float] = SHARED_LEVELS
) -> tuple[int, ...]:
    """The shared ranks that are tried, rising, multiples of the block."""
    return tuple(sorted({int(level * rank) // block * block for level in levels}))


def pool_losses(
    fit_CSS: Tensor,
    held_CSS: Tensor,
    rows: int,
    columns: int,
    block: int,
    levels: Sequence[float] = SHARED_LEVELS,
) -> dict[Decision, float]:
    """What each candidate of a weight costs, nats per token: pairs, and pools with own directions.

    Args:
        fit_CSS: E[z z^T] / 2 of each kind of text, of which directions are made.
        held_CSS: the same of other text, on which they are charged.
        rows: outputs of the weight.
        columns: its inputs.
        block: every size is a multiple of it.
        levels: shares of the rank that are tried as shared part; empty for pairs alone.
    """
    clusters, rank = fit_CSS.shape[:2]
    top = min(break_even(rows, columns), rank)
    static = prefix_losses(held_CSS)
    found: dict[Decision, float] = {
        LowRank(active): float(static[active]) for active in range(block, top + 1, block)
    }
    for shared in shared_levels(rank, block, levels):
        if shared + block > top:
            continue
        losses = own_losses(fit_CSS, held_CSS, shared)
        for active in range(shared + block, top + 1, block):
            made = pool_of(active, shared, block, clusters)
            found[made] = float(losses[active - shared])
    return found


def pool_of(active: int, shared: int, block: int, clusters: int) -> Routed:
    """The pool that holds the static prefix and the own ranks of each kind of text."""
    return Routed(active + clusters * (active - shared), active, shared, block)


def pool_factors(
    pool: Pool, energies: Sequence[Tensor], decision: Routed, dtype: torch.dtype
) -> Factors:
    """The tensors of a pool with own directions.

    Args:
        pool: of the weight.
        energies: E[z z^T] / 2 of each kind of text, [S, S].
        decision: made by :func:`pool_of`.
        dtype: of the factors.
    """
    parts = list(_parts(pool, energies, decision))
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
    pool: Pool, energies: Sequence[Tensor], decision: Routed
) -> Iterator[tuple[Tensor, Tensor]]:
    down_SN, up_SM = pool.pieces()
    yield down_SN[: decision.active], up_SM[: decision.active]
    own = decision.active - decision.shared
    for energy_SS in energies if own else ():
        yield pool.pieces(own_directions(energy_SS, decision.shared)[:, :own])
