"""Palu's own ranks: latents in proportion to the Fisher information of their weights.

    R_l = T F_l / sum F       F_l = mean over the weight of (E (dL/dW)^2)^1/2

R_l are the latents of weight l for each token, which its groups share equally (``fisher_uniform``
of the paper's code), and no more than saves parameters. T is what the budget has room for: a weight
of G groups keeps R_l (M / G + N) parameters. Ranks of groups are then rounded to the nearest
multiple that was asked for, as published; what that spends too much comes back from the weights
that were rounded up most, and what it leaves goes to the others in turn, those that were rounded
down most first.

E (dL/dW)^2 is taken as G_ii A_jj, the product of two diagonals that calibration gathers anyway
(K-FAC, Martens and Grosse 2015: inputs and output gradients independent, labels sampled from the
model), so that F is mean (G_ii)^1/2 x mean (A_jj)^1/2 and needs no gradients of weights. Ranks that
differ between the groups of a weight (``fisher``) are not made: they would be no batched product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.protocol import AllocationInputs, Decomposition
from gacfx.errors import InfeasibleBudget

if TYPE_CHECKING:
    from gacfx.compressors.palu import Palu

ALLOCATIONS = {
    "fisher-uniform": "latents in proportion to mean (G_ii A_jj)^1/2 of each weight",
    "uniform": "the same latents for each weight",
}
"""How ranks are chosen -> the same in words."""

Shapes = Mapping[str, tuple[int, int]]


@dataclass
class _Share:
    """A weight while ranks are shared out."""

    module: str
    price: int
    """Parameters of one rank of each of its groups."""
    dense: int
    """Parameters of the weight."""
    exact: float
    """Rank of each group in exact proportion."""
    step: int
    rank: int = 0
    """Of each group; above :attr:`most` the weight stays dense."""

    @property
    def most(self) -> int:
        """Largest rank that saves parameters; 0 where none does."""
        return (self.dense - 1) // self.price // self.step * self.step

    @property
    def params(self) -> int:
        """That it keeps."""
        return self.dense if self.rank > self.most else self.rank * self.price

    @property
    def over(self) -> float:
        """By how much its rank was rounded up."""
        return self.rank - self.exact

    def set_nearest(self) -> None:
        """Round to the nearest multiple, at least one of them."""
        nearest = int(self.exact / self.step + 0.5) * self.step
        self.rank = min(max(nearest, self.step), self.most + self.step)


def own_ranks(
    method: "Palu", shapes: Shapes, ratio: float | str, inputs: AllocationInputs
) -> dict[str, int | None]:
    """Module -> rank of all groups together, or None to keep it dense; within the budget.

    Args:
        method: with its settings.
        shapes: module -> (rows, columns).
        ratio: share to remove, 0..1.
        inputs: with decompositions in groups.

    Raises:
        PlanError: a ratio that is no share.
        InfeasibleBudget: the smallest ranks are more than may remain.
    """
    wanted_rank(1, 1, ratio)  # a share, or an error
    groups, shares, scores = dict[str, int](), list[_Share](), list[float]()
    for module, (rows, columns) in shapes.items():
        if module in inputs.decompositions:
            found = inputs.decompositions[module]
            groups[module] = count = _groups(found)
            price = rows + count * columns
            shares.append(_Share(module, price, rows * columns, 0.0, method.multiple))
            uniform = method.allocation == "uniform"
            scores.append((1.0 if uniform else fisher(found)) / count)
    alone = sum(shapes[m][0] * shapes[m][1] for m in shapes if m not in groups)
    fill(shares, scores, inputs.limit_params - alone)
    ranks = {s.module: None if s.rank > s.most else s.rank * groups[s.module] for s in shares}
    return {module: ranks.get(module) for module in shapes}


def fisher(found: Decomposition) -> float:
    """mean (G_ii)^1/2 x mean (A_jj)^1/2 of a weight of no more outputs than inputs."""
    moments = found.moments
    grads = moments.side_moment.diagonal().clamp_min(0).sqrt().mean()
    return float(grads * moments.input_square_mean.clamp_min(0).sqrt().mean())


def _groups(found: Decomposition) -> int:
    method: Palu = found.method  # type: ignore[assignment]
    return method.groups


def fill(shares: list[_Share], scores: list[float], limit: int) -> None:
    """Give every weight its rank, within a limit of parameters.

    Args:
        shares: of all weights; changed.
        scores: above 0, that ranks of groups are in proportion to.
        limit: of all of them together.

    Raises:
        InfeasibleBudget: the smallest ranks are more than that.
    """
    _set_exact(shares, scores, limit)
    for share in shares:
        share.set_nearest()
    left = limit - sum(share.params for share in shares)
    while left < 0:
        able = [share for share in shares if share.rank > share.step and share.most]
        if not able:
            raise InfeasibleBudget(
                f"rank {shares[0].step if shares else 0} of every group is {-left:,} parameters "
                "more than may remain; remove less",
                needed=limit - left,
                budget=limit,
            )
        left += _saved(max(able, key=lambda share: share.over))
    order, grown = sorted(shares, key=lambda share: share.over), True
    while grown:
        grown = False
        for share in order:
            if share.rank <= share.most and (more := _price_of_next(share)) <= left:
                left, grown = left - more, True
                share.rank += share.step


def _set_exact(shares: list[_Share], scores: list[float], limit: int) -> None:
    """Ranks in proportion to scores, as large as the limit has room for; what would be more than
    the dense weight leaves its room to others."""
    full = set[int]()
    while len(full) < len(shares):
        room = limit - sum(shares[at].dense for at in full)
        free = [at for at in range(len(shares)) if at not in full]
        scale = max(room, 0) / sum(scores[at] * shares[at].price for at in free)
        for at in free:
            shares[at].exact = scale * scores[at]
        over = {at for at in free if shares[at].exact * shares[at].price >= shares[at].dense}
        full |= over
        if not over:
            break


def _price_of_next(share: _Share) -> int:
    """Parameters of the next larger rank, or of the dense weight, beyond those of this one."""
    return min((share.rank + share.step) * share.price, share.dense) - share.params


def _saved(share: _Share) -> int:
    """Parameters that the next smaller rank saves, which the weight gets."""
    before = share.params
    share.rank -= share.step
    return before - share.params
