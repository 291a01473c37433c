"""Search a core of a few candidates in plain Python, which ends before numpy has set anything up.

The same dynamic program as in ``core_dp``, with one price for all bounds and nothing to stop it
halfway: what turns out not to be small after all is left to that one.
"""

import math
from itertools import pairwise
from typing import TypeVar

from gacfx.knapsack.grid import TOP
from gacfx.knapsack.one_budget.core_dp import Found
from gacfx.knapsack.one_budget.fixing import Near
from gacfx.knapsack.one_budget.items import Opened
from gacfx.knapsack.work import Work

Number = TypeVar("Number", int, float)

_FEW_CANDIDATES = 50
_FEW_STEPS = 1000

Candidate = tuple[float, int, float, int]
"""Gain less price times cost, cost, gain, and index in ``Near``"""
Way = tuple[int, "Way"] | None
"""The last candidate of an unfinished plan, and those before it"""
State = tuple[int, float, Way]
"""What an unfinished plan leaves, what it gains, and how it came about"""


def search_small(
    near: Near, core: Opened, floor: float, tolerance: float, work: Work
) -> Found | None:
    """What ``core_dp.search`` finds, or None for a core that is not small.

    Args:
        near: whence the candidates came.
        core: the open groups.
        floor: grid steps; plans that gain no more are of no interest.
        tolerance: grid steps by which later finds must beat earlier ones; 0 finds the best.
        work: guards, updated.
    """
    if len(core.kept) > _FEW_CANDIDATES:
        return None
    unit = core.grid.unit
    price = math.ldexp(near.multiplier, core.grid.exponent)
    groups = _groups(core, price)
    savings = [max(0, *(-cost for _, cost, _, _ in group)) for group in groups]
    reach = abs(near.left) + sum(max(abs(cost) for _, cost, _, _ in group) for group in groups)
    dust = math.ldexp(len(groups) + 8.0, -52) * (TOP + price * reach)
    tops = _after([group[0][0] for group in groups])
    states: list[State] = [(near.left, 0.0, None)]
    best: Way = None
    steps = 0
    for group, top, saving in zip(groups, tops, _after(savings), strict=True):
        need = floor + unit - top - dust  # of a child at this price
        children: list[State] = []
        for left, gained, way in states:
            least = need - gained - price * left
            for reduced, cost, gain, pick in group:
                if reduced < least:
                    break
                if left - cost >= -saving:
                    children.append((left - cost, gained + gain, (pick, way)))
        steps += len(states) + len(children)
        if steps > _FEW_STEPS:
            return None
        states = _undominated(children)
        work.max_states = max(work.max_states, len(states))
        legal = [state for state in states if state[0] >= 0]
        # The last one gains most. Groups that are still open stay with the relaxed plan in it.
        if legal and legal[-1][1] > floor:
            best, floor = legal[-1][2], legal[-1][1] + tolerance
    work.steps_left -= steps
    return Found(floor, True, _picks(best))


def _groups(core: Opened, price: float) -> list[list[Candidate]]:
    """The candidates of each group, best at ``price`` first; groups of the widest steps first."""
    items = core.items
    reduced = (items.gain - price * items.cost).tolist()
    numbers = items.cost.tolist(), items.gain.tolist(), core.kept.tolist()
    every = list(zip(reduced, *numbers, strict=True))
    groups = [every[begin:end] for begin, end in pairwise(items.ends.tolist())]
    groups.sort(key=lambda group: -max(abs(cost) for _, cost, _, _ in group))
    for group in groups:
        group.sort(reverse=True)
    return groups


def _after(numbers: list[Number]) -> list[Number]:
    """For each number the sum of those after it."""
    total, found = numbers[0] - numbers[0], []
    for number in reversed(numbers):
        found.append(total)
        total += number
    return found[::-1]


def _undominated(states: list[State]) -> list[State]:
    """States by falling rest, each gaining more than all that leave as much or more."""
    states.sort(key=lambda state: (-state[0], -state[1]))
    kept, most = [], -math.inf
    for state in states:
        if state[1] > most:
            kept.append(state)
            most = state[1]
    return kept


def _picks(way: Way) -> list[int]:
    picks = []
    while way is not None:
        pick, way = way
        picks.append(pick)
    return picks
