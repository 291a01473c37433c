"""The most gain for every size, from a few arms of equal steps: a (max,+) convolution.

An *arm* holds increments of one size, largest gain first; a plan takes the first few of each arm.
Arms join one after the other, smallest step first. With size = row * step + rest, where step is
that of the new arm, each rest is a problem of its own:

    new[row] = max over other of  old[other] + gain of the first (row - other) increments

Two facts keep the work near the number of sizes, whatever the gains are.

* The best number of increments is near that of the *greedy* plan, which takes the steepest of all
  arms that fit: at most the largest step before away. For among ``step`` increments of other arms
  some add up to a multiple of ``step`` (two of the partial sums are equal modulo ``step``), and
  swapping those against increments of the new arm loses nothing.
* The best ``other`` never falls from row to row, because the gains of an arm fall. So rows far
  apart are searched around the greedy plan, and each row between two of them only between theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray

ROUNDING = 2.0**-47
"""Of the gain of everything, for each arm: more than float64 sums and comparisons can lose"""
_CELLS = 2**16  # sizes at a time, whose arrays stay in the cache ...
_CELLS_PER_ROW = 2**11  # ... or more, to have many of them in each of the numpy calls per row
_MOST_CELLS = 2**19


@dataclass(frozen=True)
class Arm:
    """Increments of one size."""

    step: int
    """Size of each, >= 1"""
    gain: IntArray
    """[increments] >= 0, never rising; the sum over all arms stays below 2**62"""


def most_gain(arms: Sequence[Arm], capacity: int) -> FloatArray:
    """[sizes] the most that increments of total size 0, 1, ... can gain; never falling.

    The last size is ``capacity``, or that of all increments if this is less. Sums inside an arm are
    exact, sums across arms float64.
    """
    cut = [Arm(arm.step, arm.gain[: capacity // arm.step]) for arm in arms]
    cut = sorted((arm for arm in cut if len(arm.gain)), key=lambda arm: arm.step)
    most, reach, total = np.zeros(1), 1, 0
    for number, arm in enumerate(cut):
        total += arm.step * len(arm.gain)
        join = _Join(most, arm.step, _sums(arm), _greedy_sizes(cut[: number + 1]), reach)
        most = join.table(min(capacity, total) + 1)
        reach = arm.step
    return most


def _sums(arm: Arm) -> FloatArray:
    """[2 + counts] gain of the first increments; -inf at either end, for counts beyond."""
    sums = np.full(len(arm.gain) + 3, -np.inf)
    sums[1] = 0
    sums[2:-1] = np.cumsum(arm.gain)
    return sums


def _greedy_sizes(arms: Sequence[Arm]) -> IntArray:
    """[increments of the last arm] size of the greedy plan that ends with each of them."""
    gain = np.concatenate([arm.gain for arm in arms])
    step = np.repeat([arm.step for arm in arms], [len(arm.gain) for arm in arms])
    order = np.argsort(-gain / step, kind="stable")
    newest = order >= len(order) - len(arms[-1].gain)
    size: IntArray = np.cumsum(step[order])[newest]
    return size


@dataclass(frozen=True)
class _Join:
    """What the arms so far give, and the arm that joins them."""

    most: FloatArray
    """[sizes] larger sizes gain as much as the last"""
    step: int
    sums: FloatArray
    greedy: IntArray
    reach: int
    """Largest step so far, at least 1: that of a size left unused"""

    def table(self, sizes: int) -> FloatArray:
        """[sizes] the most with the new arm."""
        rows = -(-sizes // self.step)
        apart = 1 << (min(self.reach, rows) - 1).bit_length()
        cells = min(max(_CELLS, apart * _CELLS_PER_ROW), _MOST_CELLS)
        high = apart * max(1, min(cells // (apart * self.step), -(-rows // apart)))
        wide = max(1, cells // high)
        result = np.empty((rows, self.step))
        for top in range(0, rows, high):
            for side in range(0, self.step, wide):
                part = result[top : top + high, side : side + wide]
                row = np.arange(top, top + high + 1)[:, None]
                rest = np.arange(side, side + part.shape[1])
                part[:] = self._block(row, rest, apart)[: len(part)]
        return result.ravel()[:sizes]

    def _block(self, row: IntArray, rest: IntArray, apart: int) -> FloatArray:
        """[rows, rests] the most of each; the number of rows is a multiple of ``apart``, plus 1."""
        best = np.empty((len(row), len(rest)))
        other = np.empty((len(row), len(rest)), np.int64)
        best[::apart], other[::apart] = self._around_greedy(row[::apart], rest)
        while apart > 1:
            half = slice(apart // 2, None, apart)
            low, high = other[:-1:apart], other[apart::apart]
            best[half], other[half] = self._between(row[half], rest, low, high)
            apart //= 2
        return best

    def _around_greedy(self, row: IntArray, rest: IntArray) -> tuple[FloatArray, IntArray]:
        """The most of each cell, and the ``other`` that gives it: by looking at all counts near."""
        size = row * self.step + rest
        greedy = np.searchsorted(self.greedy, size, side="right")
        fewer = max(1 - self.reach, -int(greedy.max()))
        more = min(self.reach, len(self.greedy) - int(greedy.min()))
        count = greedy[..., None] + np.arange(fewer, more + 1)
        np.clip(count, 0, row[..., None], out=count)
        total = self._total(size[..., None] - self.step * count, count)
        best = total.argmax(axis=-1)[..., None]
        count = np.take_along_axis(count, best, axis=-1)[..., 0]
        return np.take_along_axis(total, best, axis=-1)[..., 0], row - count

    def _between(
        self, row: IntArray, rest: IntArray, low: IntArray, high: IntArray
    ) -> tuple[FloatArray, IntArray]:
        """The same, looking at every ``other`` from ``low`` to ``high``."""
        size, count = (low * self.step + rest).ravel(), (row - low).ravel()
        best, added = self._total(size, count), np.zeros(size.shape, np.int64)
        further = (high - low).ravel()
        cell = np.arange(len(size))
        for more in range(1, int(further.max()) + 1):
            going = np.flatnonzero(further >= more)
            cell, further = cell[going], further[going]
            size, count = size[going] + self.step, count[going] - 1
            total = self._total(size, count)
            better = np.flatnonzero(total > best[cell])
            best[cell[better]], added[cell[better]] = total[better], more
        return best.reshape(low.shape), low + added.reshape(low.shape)

    def _total(self, size: IntArray, count: IntArray) -> FloatArray:
        """Gain of ``count`` increments and of the most of the other arms within ``size``."""
        return self.most.take(size, mode="clip") + self.sums.take(count + 1, mode="clip")
