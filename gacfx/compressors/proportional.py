"""Ranks in proportion to importance: what a method takes that thinks of no alignment.

GAC-v2 says only that a higher score keeps a larger dimension. Here

    d_i = c (s_i / geometric mean of s)^tau dmax_i,   within  dmin_i .. dmax_i

with dmax the break-even rank, at which the factors have as many parameters as the weight, dmin a
twentieth of it, tau 1/2, and c by bisection so that the parameters meet the budget. The whole part
is kept, and units that are left over go to the largest fractional parts. A straight line in the
ranks, as the papers' objective is, has no such middle: all but one weight would lie at a bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import exp, fsum, isfinite, log

from gacfx.errors import InfeasibleBudget, PlanError

TAU = 0.5
LEAST = 0.05
"""Of the break-even rank, what every weight keeps."""
HALVINGS = 100
"""Of the interval that c lies in: beyond what a float tells apart."""


@dataclass(frozen=True, slots=True)
class Proportional:
    """Ranks of all weights under one budget."""

    ranks: Mapping[str, int]
    """At least 1, at most the break-even rank."""
    budget: int
    """Parameters that were allowed."""
    params: int
    """Of the factors at these ranks; at most the budget."""
    at_most: int
    """Weights at the whole part of their break-even rank."""
    at_least: int
    """Weights at their lower bound."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight [M, N] whose rank costs M + N parameters each."""

    name: str
    rows: int
    columns: int
    share: float
    """(s / geometric mean)^tau."""

    @property
    def unit(self) -> int:
        """Parameters of one rank."""
        return self.rows + self.columns

    @property
    def most(self) -> float:
        """The break-even rank."""
        return self.rows * self.columns / self.unit

    @property
    def least(self) -> float:
        """The lower bound; a rank is at least 1."""
        return max(LEAST * self.most, 1.0)

    @property
    def cap(self) -> int:
        """The largest whole rank that costs no more than the weight."""
        return self.rows * self.columns // self.unit

    def at(self, c: float) -> float:
        """d of a scale c."""
        return min(max(c * self.share * self.most, self.least), self.most)


def proportional_ranks(
    shapes: Mapping[str, tuple[int, int]],
    scores: Mapping[str, float],
    ratio: float | str,
    *,
    tau: float = TAU,
) -> Proportional:
    """Rank of every weight, by its importance.

    Args:
        shapes: module -> (rows, columns), at least 2 and 2.
        scores: module -> importance, above 0.
        ratio: share of all parameters to remove, 0..1; decimal text or a float that prints as the
            decimal meant.
        tau: exponent of importance; 0 gives the same share to all.

    Raises:
        PlanError: no weights, a score that is 0 or no number, a ratio outside 0..1.
        InfeasibleBudget: the lower bounds cost more than the budget.
    """
    whole = sum(rows * columns for rows, columns in shapes.values())
    budget = int(whole * (1 - removed_share(ratio)))
    weights = _weights(shapes, scores, tau)
    least = sum(int(each.least) * each.unit for each in weights)
    if budget < least:
        raise InfeasibleBudget(
            f"ratio {ratio}: {budget:,} parameters may remain, and the smallest ranks have "
            f"{least:,}; remove less",
            needed=least,
            budget=budget,
        )
    scale = _scale(weights, budget)
    wanted = [each.at(scale) for each in weights]
    ranks = _whole(weights, wanted, budget)
    return Proportional(
        ranks={each.name: rank for each, rank in zip(weights, ranks, strict=True)},
        budget=budget,
        params=sum(rank * each.unit for each, rank in zip(weights, ranks, strict=True)),
        at_most=sum(rank == each.cap for each, rank in zip(weights, ranks, strict=True)),
        at_least=sum(rank <= each.least for each, rank in zip(weights, ranks, strict=True)),
    )


def removed_share(ratio: float | str) -> Fraction:
    """The ratio as the decimal that it prints as.

    Raises:
        PlanError: no number between 0 and 1, or one of them.
    """
    try:
        found = Fraction(str(ratio))
    except (ValueError, ZeroDivisionError) as error:
        raise PlanError(f"ratio {ratio}: not a number such as 0.2") from error
    if not 0 < found < 1:
        raise PlanError(f"ratio {ratio}: is no share between 0 and 1")
    return found


def _weights(
    shapes: Mapping[str, tuple[int, int]], scores: Mapping[str, float], tau: float
) -> list[_Weight]:
    if not shapes:
        raise PlanError("there are no weights to give ranks to; name a model that has some")
    for name in shapes:
        score = scores.get(name)
        if score is None or not (isfinite(score) and score > 0):
            raise PlanError(f"{name}: importance {score} says nothing; leave the weight out")
        if min(shapes[name]) < 2:
            raise PlanError(f"{name}: a weight {list(shapes[name])} has no rank to choose")
    mean = fsum(log(scores[name]) for name in shapes) / len(shapes)
    return [
        _Weight(name, rows, columns, exp(tau * (log(scores[name]) - mean)))
        for name, (rows, columns) in shapes.items()
    ]


def _scale(weights: Sequence[_Weight], budget: int) -> float:
    """The largest c whose ranks cost no more than the budget."""

    def cost(c: float) -> float:
        return fsum(each.at(c) * each.unit for each in weights)

    low = log(min(each.least / (each.share * each.most) for each in weights))
    high = log(max(1 / each.share for each in weights))
    if cost(exp(high)) <= budget:
        return exp(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(exp(middle)) <= budget else (low, middle)
    return exp(low)


def _whole(weights: Sequence[_Weight], wanted: Sequence[float], budget: int) -> list[int]:
    """Whole ranks within the budget, which leave less than any weight could use."""
    ranks = [min(int(d), each.cap) for d, each in zip(wanted, weights, strict=True)]
    left = budget - sum(rank * each.unit for rank, each in zip(ranks, weights, strict=True))
    # Equal parts in the order of the weights: the same ranks every time.
    order = sorted(range(len(weights)), key=lambda at: -(wanted[at] - int(wanted[at])))
    given = True
    while given:
        given = False
        for at in order:
            if ranks[at] < weights[at].cap and weights[at].unit <= left:
                ranks[at] += 1
                left -= weights[at].unit
                given = True
    return ranks
