"""Lagrange multipliers for several resources and rules, by a linear program that grows.

The multipliers are the duals of the linear relaxation. Few candidates matter to it, so it is solved
over a small pool; whatever group then has a better candidate at these multipliers outside the pool
adds it, until none has. Any multipliers >= 0 give a true bound, so nothing depends on how far this
comes or on what the solver answers.
"""

from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray
from gacfx.knapsack.ilp.program import SPAN, build, fair_goal, row_units
from gacfx.knapsack.ilp.solvers import Solver
from gacfx.knapsack.ilp.table import Table

_ROUNDS = 40
_SAMPLES = 8  # of each group, for a start
_PENALTY = 1e3 * SPAN  # for a unit that is overdrawn


@dataclass(frozen=True)
class Dual:
    """Multipliers, and what every candidate loses at them."""

    price: FloatArray
    """[resources] >= 0, value per quantum"""
    link_price: FloatArray
    """[links] >= 0"""
    loss: FloatArray
    """[positions] >= 0: how far below the best of its group"""
    bound: float
    """No plan is worth more"""
    margin: float
    """More than what float64 can get wrong in one loss"""


def evaluate(table: Table, price: FloatArray, link_price: FloatArray) -> Dual:
    """The Lagrangian bound at these multipliers."""
    charge = price @ table.cost
    links = np.zeros(len(table.value))
    for multiplier, (given, then) in zip(link_price.tolist(), table.links, strict=True):
        links[given] += multiplier
        links[then] -= multiplier
    reduced = table.value - charge - links
    top = np.maximum.reduceat(reduced, table.start[:-1])
    size = np.abs(table.value).max() + np.abs(charge).max() + np.abs(links).max()
    margin = float(np.ldexp(size, -48))
    bound = float(price @ table.room) + float(top.sum()) + 2 * table.groups * margin
    return Dual(price, link_price, table.spread(top) - reduced, bound, margin)


def dual(table: Table, solver: Solver) -> Dual:
    """The multipliers with the lowest bound that were seen."""
    goal, unit = fair_goal(table)
    resources, links = range(len(table.room)), range(len(table.links))
    best = evaluate(table, np.zeros(len(resources)), np.zeros(len(links)))
    pool = _first_pool(table)
    for _ in range(_ROUNDS):
        program = build(table, pool, goal, whole=False, penalty=_PENALTY)
        answer = solver.run(program, whole=False)
        if answer.status != "optimal":
            break
        # The sign of a dual is a convention, and solvers differ in it.
        price = np.array([abs(answer.dual.get(f"r{number}", 0.0)) for number in resources])
        link_price = np.array([abs(answer.dual.get(f"l{number}", 0.0)) for number in links])
        now = evaluate(table, price * unit / row_units(table), link_price * unit)
        best = min(best, now, key=lambda found: found.bound)
        larger = np.union1d(pool, _first_of(table, now.loss))
        if len(larger) == len(pool):
            break
        pool = larger
    return best


def _first_pool(table: Table) -> IntArray:
    """The best and, for every resource, the cheapest of each group, and a few between."""
    sizes = np.diff(table.start)
    picks = [table.start[:-1] + (sizes - 1) * part // _SAMPLES for part in range(_SAMPLES + 1)]
    picks += [_first_of(table, number) for number in (-table.value, *table.cost)]
    return np.unique(np.concatenate(picks))


def _first_of(table: Table, number: FloatArray | IntArray) -> IntArray:
    """[groups] the first position of the smallest number in each group."""
    least = np.repeat(np.minimum.reduceat(number, table.start[:-1]), np.diff(table.start))
    hits = np.flatnonzero(number == least)
    return hits[np.searchsorted(hits, table.start[:-1])]
