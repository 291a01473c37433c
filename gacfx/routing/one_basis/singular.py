"""Pools of one basis: more pieces in singular order than run, for picks and masks to choose from.

    static plan     rank 64 of a weight
    widened         routed 64 of 96, 32 shared: pieces 64 .. 95 are stored too

Without a pick the model is the static one. What a choice among pieces of one basis is worth is
bounded by :mod:`.oracle` and trained by :mod:`.mask_training`; own directions for kinds of text
(:mod:`gacfx.routing.bases`) bring more.
"""

from dataclasses import replace

import torch

from gacfx.core.decision import Decision, LowRank
from gacfx.core.materialise import Factors
from gacfx.core.plan import Plan
from gacfx.core.routed import Routed
from gacfx.errors import PlanError
from gacfx.routing.pools import Pool


def widened(plan: Plan, *, pool: float = 1.5, shared: float = 0.5, block: int) -> Plan:
    """A static plan whose pairs hold further pieces, of which a prompt may choose; losses stay.

    Args:
        plan: of pairs and dense weights.
        pool: pieces that are stored, as a multiple of the rank, or infinite; at most the rank of
            the weight.
        shared: of the rank, the share that runs for every prompt.
        block: pieces that are picked together; it divides every rank.

    Raises:
        PlanError: a rank that is no multiple of the block, or shares that are none.
    """
    if pool < 1 or not 0 <= shared <= 1:
        raise PlanError(f"pool {pool} must be at least 1, and shared {shared} in 0 .. 1")
    choices = []
    for choice in plan.choices:
        decision: Decision = choice.decision
        if isinstance(decision, LowRank):
            if decision.rank % block:
                raise PlanError(
                    f"{choice.group}: rank {decision.rank} is no multiple of the block of {block}"
                )
            most = min(min(weight.rows, weight.columns) for weight in choice.weights)
            decision = _routed(decision.rank, most, pool, shared, block)
        choices.append(replace(choice, decision=decision))
    return replace(plan, choices=tuple(choices), proof=None)


def singular_factors(pool: Pool, decision: Routed, dtype: torch.dtype) -> Factors:
    """The tensors of a pool of one basis: its first pieces.

    Args:
        pool: of the weight.
        decision: with a pool of at most the rank of the weight.
        dtype: of the factors.

    Raises:
        PlanError: the pool is larger than the rank of the weight.
    """
    if decision.pool > pool.rank:
        raise PlanError(f"{pool.module}: {decision} is more than its {pool.rank} pieces")
    made = {
        name: pieces[: decision.pool].to(dtype).contiguous()
        for name, pieces in zip(("down", "up"), pool.pieces(), strict=True)
    }
    return Factors(decision, len(pool.up_MS), pool.down_SN.shape[1], made)


def _routed(rank: int, most: int, pool: float, shared: float, block: int) -> Routed:
    stored = int(min(pool * rank, most)) // block * block
    return Routed(max(stored, rank), rank, int(shared * rank) // block * block, block)
