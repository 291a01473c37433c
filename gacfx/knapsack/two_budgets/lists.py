"""Lists of what some groups can decide together, and how two lists become one.

An entry of a list is one candidate for each of its groups. The list holds all entries that lose at
most a limit together, by rising loss, so that the pairs of entries from two lists that stay within
the limit are found without looking at the others. All pairs of lists are joined at once. Of entries
that cost the same only the best stays, and what other prices than the dual's prove hopeless goes.
"""

from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.one_budget.pairing import Joined
from gacfx.knapsack.order import ends_of

_WORTH_CUTTING = 2000  # entries; fewer are joined as fast as tested
_MOST_CUTS = 4
_LEAST_TAKEN = 0.1  # of the entries; a cut that takes less takes more time than it saves
_SAMPLE = 256  # entries that tell which cuts are of use
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
"""Odd numbers without a pattern: the golden ratio, and primes of xxHash"""


@dataclass(frozen=True)
class Cuts:
    """Prices, and what entries may lose at them in a plan that is worth finding."""

    price: FloatArray
    """[cuts, 2] grid steps per unit of cost"""
    spare: FloatArray
    """[cuts] the most that the entries of such a plan lose together"""


@dataclass(frozen=True)
class Lists:
    """Entries of all lists, one list after the other."""

    ends: IntArray
    """[lists + 1]"""
    cost: IntArray
    """[2, entries] above the chosen plan"""
    gain: FloatArray
    """[entries] grid steps above the chosen plan; whole numbers"""
    loss: FloatArray
    """[entries] grid steps lost at the dual prices; rising inside each list"""
    top: FloatArray
    """[cuts, lists] the most that an entry is worth at the prices of each cut"""

    @property
    def count(self) -> int:
        return len(self.ends) - 1

    @property
    def sizes(self) -> IntArray:
        return self.ends[1:] - self.ends[:-1]


@dataclass(frozen=True)
class _Pairs:
    """Entries of two lists, to become entries of one; ``second`` -1: nothing to add."""

    first: IntArray
    second: IntArray
    target: IntArray
    """The list that will hold them"""

    def take(self, keep: IntArray) -> "_Pairs":
        return _Pairs(self.first[keep], self.second[keep], self.target[keep])


def halved(lists: Lists, limit: float, cuts: Cuts, most: int) -> tuple[Lists, Joined, int] | None:
    """Neighbours joined: the lists become half as many, or the next power of two.

    Comes with where the entries came from, and how many there were before any was dropped. None if
    these are more than ``most``. No entry may lose more than ``limit`` alone.
    """
    slots = 1 << ((lists.count - 1).bit_length() - 1)
    edges = np.arange(slots + 1) * lists.count // slots
    left = edges[:-1]
    right = np.where(edges[1:] - left == 2, left + 1, -1)
    pairs = _within(lists, left, right, limit, most)
    if pairs is None:
        return None
    looked_at = len(pairs.first)
    # The last entry stands for nothing: it is what ``second`` -1 adds.
    costs = np.append(lists.cost, np.zeros((2, 1), np.int64), axis=1)
    gains, losses = np.append(lists.gain, 0.0), np.append(lists.loss, 0.0)
    top = lists.top[:, left] + np.where(right >= 0, lists.top[:, right], 0.0)
    cost = costs[:, pairs.first] + costs[:, pairs.second]
    gain = gains[pairs.first] + gains[pairs.second]
    if looked_at > _WORTH_CUTTING:
        keep = _hopeful(cost, gain, pairs.target, top, cuts)
        pairs, cost, gain = pairs.take(keep), cost[:, keep], gain[keep]
    keep = _best_of_equals(pairs.target, cost, gain)
    pairs = pairs.take(keep)
    loss = losses[pairs.first] + losses[pairs.second]
    order = _rising(pairs.target * (4 * limit) + loss)
    pairs, keep = pairs.take(order), keep[order]
    ends = ends_of(np.bincount(pairs.target, minlength=slots))
    found = Lists(ends, cost[:, keep], gain[keep], loss[order], top)
    return found, Joined(pairs.first, pairs.second), looked_at


def _within(
    lists: Lists, left: IntArray, right: IntArray, limit: float, most: int
) -> _Pairs | None:
    """The pairs of entries that lose at most ``limit`` together; None if more than ``most``."""
    sizes = lists.sizes[left]
    begins = ends_of(sizes)
    first = np.repeat(lists.ends[left] - begins[:-1], sizes) + np.arange(begins[-1])
    target = np.repeat(np.arange(len(left)), sizes)
    partner = right[target]
    # One search for all lists: each gets a range of its own. What rounding adds does no harm.
    lifted = np.repeat(np.arange(lists.count) * (4 * limit), lists.sizes) + lists.loss
    wanted = partner * (4 * limit) + (limit * (1 + 2.0**-30) - lists.loss[first])
    begin = lists.ends[partner]
    times = np.searchsorted(lifted, wanted, side="right") - begin
    times[partner < 0] = 1
    total = int(times.sum())
    if total > most:
        return None
    before = np.cumsum(times) - times
    second = np.arange(total) + np.repeat(np.where(partner < 0, 0, begin) - before, times)
    second[np.repeat(partner < 0, times)] = -1
    return _Pairs(np.repeat(first, times), second, np.repeat(target, times))


def _hopeful(
    cost: IntArray, gain: FloatArray, target: IntArray, top: FloatArray, cuts: Cuts
) -> IntArray:
    """The entries that lose no more than the cuts allow, as far as testing pays."""
    least = top - cuts.spare[:, None]
    good = np.ones(len(gain), np.bool_)
    for cut in _useful(cost, gain, target, least, cuts):
        first, second = cuts.price[cut].tolist()
        worth = gain - first * cost[0]
        worth -= second * cost[1]
        good &= worth >= least[cut][target]
    return np.flatnonzero(good)


def _useful(
    cost: IntArray, gain: FloatArray, target: IntArray, least: FloatArray, cuts: Cuts
) -> list[int]:
    """A few cuts that each take a share of a sample of entries that the others leave."""
    sample = np.arange(0, len(gain), max(1, len(gain) // _SAMPLE))
    worth = gain[sample] - cuts.price @ cost[:, sample]
    hopeless = worth < least[:, target[sample]]
    found: list[int] = []
    while len(found) < _MOST_CUTS and hopeless.shape[1]:
        hits = np.count_nonzero(hopeless, axis=1)
        best = int(hits.argmax())
        if hits[best] < _LEAST_TAKEN * hopeless.shape[1]:
            break
        found.append(best)
        hopeless = hopeless[:, ~hopeless[best]]
    return found


def _best_of_equals(target: IntArray, cost: IntArray, gain: FloatArray) -> IntArray:
    """One entry of each list and cost: the first one of those that gain most."""
    columns = target.view(np.uint64), cost[0].view(np.uint64), cost[1].view(np.uint64)
    key = columns[0] * _MIXERS[0]
    key += columns[1] * _MIXERS[1]
    key += columns[2] * _MIXERS[2]
    order = np.argsort(key)
    ranked = key[order]
    same = np.flatnonzero(ranked[1:] == ranked[:-1])
    # Equal costs have equal keys; where others have them by chance, a few equals stay.
    for column in columns:
        same = same[column[order[same]] == column[order[same + 1]]]
    fresh = np.ones(len(order), np.bool_)
    fresh[same + 1] = False
    begins = np.flatnonzero(fresh)
    best = np.maximum.reduceat(gain[order], begins)
    run = np.cumsum(fresh) - 1
    # Which of equals comes first in ``order`` may differ between machines; the least index not.
    found: IntArray = np.minimum.reduceat(
        np.where(gain[order] == best[run], order, len(order)), begins
    )
    return found


def _rising(numbers: FloatArray) -> IntArray:
    """The order of the numbers; equals stay as they are."""
    order = np.argsort(numbers)
    ranked = numbers[order]
    if (ranked[1:] == ranked[:-1]).any():
        order = np.argsort(numbers, kind="stable")
    return order
