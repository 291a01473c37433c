"""The upper concave hull of every group at once: at which price does each candidate come in?

A line that falls onto the points of a group touches only its hull. The hull is found from above:
the chord between the cheapest and the richest point is split at the point farthest above it, and
so on, for all groups together. Points on a chord belong to the hull too, so curves that are
straight but for rounding keep all their candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.knapsack.arrays import FloatArray, IntArray, run_ends
from gacfx.knapsack.frontier.rising import Rising

_DUST = 2.0**-48  # of the largest gain of a group


def dust(points: Rising) -> FloatArray:
    """[groups] grid steps: a point this near to a chord lies on it."""
    return points.top.astype(np.float64) * _DUST + 2.0  # two for the rounding to the grid


def entry_rates(points: Rising) -> FloatArray:
    """[points] gain per unit of cost at which each point enters, never rising in a group.

    The first point of a group has inf, and points below the hull have -1.
    """
    steps = points.steps
    rate = np.full(len(points.cost), np.inf)
    rate[steps] = _slope(points, steps - 1, steps)
    bent = np.zeros(points.groups, np.bool_)
    bent[points.owner[steps[rate[steps] > rate[steps - 1]]]] = True
    chords, inner = _whole_groups(points, np.flatnonzero(bent))
    while len(chords.left):
        chords, inner = _settle(points, chords, inner, rate)
    return rate


@dataclass(frozen=True)
class _Chords:
    """[chords] lines between two points of a group."""

    left: IntArray
    right: IntArray
    low: FloatArray
    high: FloatArray
    """Slopes of the chords to the right and to the left: rounding must not change their order"""


@dataclass(frozen=True)
class _Inner:
    """Points strictly between the ends of their chord, ascending."""

    point: IntArray
    chord: IntArray


def _slope(points: Rising, left: IntArray, right: IntArray) -> FloatArray:
    """Gain per unit of cost from each point in ``left`` to that in ``right``."""
    width = points.cost[right] - points.cost[left]
    slope: FloatArray = (points.gain[right] - points.gain[left]) / width
    return slope


def _whole_groups(points: Rising, groups: IntArray) -> tuple[_Chords, _Inner]:
    """One chord over each of ``groups``."""
    left, right = points.start[groups], points.start[groups + 1] - 1
    below, above = np.zeros(len(groups)), np.full(len(groups), np.inf)
    size = right - left - 1
    before = np.cumsum(size) - size
    point = np.repeat(left + 1 - before, size) + np.arange(int(size.sum()))
    inner = _Inner(point, np.repeat(np.arange(len(groups)), size))
    return _Chords(left, right, below, above), inner


def _settle(
    points: Rising, chords: _Chords, inner: _Inner, rate: FloatArray
) -> tuple[_Chords, _Inner]:
    """Write the rates of the points on each chord into ``rate``.

    Chords with points above them come back in two halves, with the points beside the summit.
    """
    slope = np.clip(_slope(points, chords.left, chords.right), chords.low, chords.high)
    rate[chords.right] = slope  # if this chord is split, its right half will write it again
    point, chord = inner.point, inner.chord
    foot = chords.left[chord]
    height = (points.gain[point] - points.gain[foot]).astype(np.float64)
    height -= slope[chord] * (points.cost[point] - points.cost[foot])
    peak, summit = _summits(len(slope), inner, height)
    near = dust(points)[points.owner[chords.left]]
    split = peak > near
    rate[point] = np.where(~split[chord] & (height >= -near[chord]), slope[chord], -1.0)
    turn = np.cumsum(split) - 1
    half = 2 * turn[chord] + (point > summit[chord])
    rest = split[chord] & (point != summit[chord])
    return _halves(chords, slope, summit, split), _Inner(point[rest], half[rest])


def _summits(chords: int, inner: _Inner, height: FloatArray) -> tuple[FloatArray, IntArray]:
    """[chords] the largest height above each chord (-inf: no points), and the first point there."""
    peak, summit = np.full(chords, -np.inf), np.zeros(chords, np.int64)
    if len(height):
        runs = run_ends(inner.chord)
        largest = np.maximum.reduceat(height, runs[:-1])
        hits = np.flatnonzero(height == np.repeat(largest, np.diff(runs)))
        peak[inner.chord[runs[:-1]]] = largest
        summit[inner.chord[runs[:-1]]] = inner.point[hits[np.searchsorted(hits, runs[:-1])]]
    return peak, summit


def _halves(
    chords: _Chords, slope: FloatArray, summit: IntArray, split: NDArray[np.bool_]
) -> _Chords:
    """Two chords, over the summit, for each that is to be ``split``."""
    return _Chords(
        left=np.stack([chords.left, summit], axis=1)[split].ravel(),
        right=np.stack([summit, chords.right], axis=1)[split].ravel(),
        low=np.stack([slope, chords.low], axis=1)[split].ravel(),
        high=np.stack([chords.high, slope], axis=1)[split].ravel(),
    )
