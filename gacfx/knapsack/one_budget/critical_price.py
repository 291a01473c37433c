"""The critical price of some runs of candidates: where the best candidates use up the room.

Between two candidates of a run lies a chord, and the chords alone are a fractional knapsack with a
critical slope. The candidates above the chords at that slope tell on which side the answer lies,
until none is above a chord. Each round drops the candidates that are out of the bracket or below
their chord, so the work is linear in practice, also for curves that are not concave, such as those
of a weight that may stay dense. Hulls are never built.
"""

from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray, run_ends


@dataclass(frozen=True)
class Runs:
    """Candidates of some groups, each run by rising cost; its last is worth most."""

    ends: IntArray
    """[runs + 1] where the runs begin, and the end"""
    cost: IntArray
    value: FloatArray

    def cut(self, run: int, last: int) -> "Runs":
        """The same without the candidates of ``run`` after ``last``."""
        begin, end = last + 1, int(self.ends[run + 1])
        gone = slice(begin, end)
        ends = self.ends.copy()
        ends[run + 1 :] -= end - begin
        return Runs(ends, np.delete(self.cost, gone), np.delete(self.value, gone))

    def inner(self) -> tuple[IntArray, IntArray]:
        """The candidates that are neither first nor last of their run, and the run of each."""
        owner = np.repeat(np.arange(len(self.ends) - 1), self.ends[1:] - self.ends[:-1])
        inside = np.ones(len(self.cost), np.bool_)
        inside[self.ends[:-1]] = inside[self.ends[1:] - 1] = False
        return np.flatnonzero(inside), owner[inside]


def cross(runs: Runs, room: int) -> tuple[float, IntArray, IntArray]:
    """The critical price, and a cheap and a rich one of the best candidates of each run at it.

    The cheap ones cost at most ``room`` together, the rich ones cost more; of the candidates of all
    runs the first and the last do so, too.

    Terminates: a round that does not return moves an end of the critical run to one of its inner
    candidates, because the chords alone would be cut exactly at that run.
    """
    cheap, rich = runs.ends[:-1], runs.ends[1:] - 1
    inner, owner = runs.inner()
    while True:
        width = runs.cost[rich] - runs.cost[cheap]
        rise = np.maximum(runs.value[rich] - runs.value[cheap], 0.0)
        slope = np.divide(rise, width, out=np.zeros(len(width)), where=width > 0)
        price = _where_used_up(slope, width, room - int(runs.cost[cheap].sum()))
        height = runs.value[inner] - runs.value[cheap][owner]
        above = height > slope[owner] * (runs.cost[inner] - runs.cost[cheap][owner])
        inner, owner = inner[above], owner[above]
        first = np.where(slope > price, rich, cheap)
        last = np.where(slope < price, cheap, rich)
        if not len(inner):
            return price, first, last
        _take_inner(runs, price, (inner, owner), first, last)
        if int(runs.cost[first].sum()) > room:
            rich = first
        elif int(runs.cost[last].sum()) <= room:
            cheap = last
        else:
            return price, first, last
        inside = (inner > cheap[owner]) & (inner < rich[owner])
        inner, owner = inner[inside], owner[inside]


def _where_used_up(slope: FloatArray, width: IntArray, room: int) -> float:
    order = np.argsort(-slope)  # the order of equal slopes does not change the answer
    used = np.cumsum(width[order])
    return float(slope[order[np.searchsorted(used, room, side="right")]])


def _take_inner(
    runs: Runs, price: float, inside: tuple[IntArray, IntArray], first: IntArray, last: IntArray
) -> None:
    """Put inner candidates that beat both ends at ``price`` into ``first`` and ``last``."""
    inner, owner = inside
    reduced = runs.value[inner] - price * runs.cost[inner]
    ends = np.maximum(
        runs.value[first] - price * runs.cost[first], runs.value[last] - price * runs.cost[last]
    )
    cuts = run_ends(owner)
    peak = np.maximum.reduceat(reduced, cuts[:-1])
    hits = np.flatnonzero(reduced == np.repeat(peak, cuts[1:] - cuts[:-1]))
    edge = np.searchsorted(hits, cuts)
    run = owner[cuts[:-1]]
    wins = peak > ends[run]
    first[run[wins]] = inner[hits[edge[:-1]]][wins]
    last[run[wins]] = inner[hits[edge[1:] - 1]][wins]
