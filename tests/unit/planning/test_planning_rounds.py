"""Rounds: bets on a share of the distance, proofs, and the relaxation as proof."""

import math

import numpy as np

from gacfx.planning import Problem
from gacfx.planning.core_dp import Work
from gacfx.planning.core_problem import build
from gacfx.planning.fixing import Near, near
from gacfx.planning.lattice import flatten
from gacfx.planning.relaxation import Relaxed, relax
from gacfx.planning.rounds import Rounds, _steps


def rounds_of(problem: Problem, steps: int = 10**8) -> Rounds:
    flat = flatten(problem)
    relaxed = relax(flat)
    found = near(flat, relaxed)
    return Rounds(
        flat, relaxed, found, 0.0, Work(steps, math.inf), relaxed.chosen, upper=found.slack
    )


def large(seed: int) -> Problem:
    """More than a thousand candidates near the bound, so that bets are taken."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, 150)
    pairs = []
    for _ in range(40):
        step = int(rng.choice([5, 8, 18]))
        tail = rng.lognormal() * (1 - (rank / 300) ** 0.3)
        pairs.append((np.append(step * rank, step * 150), np.append(-step * tail, 0.0)))
    return Problem.from_groups(pairs, 40 * 800)


def test_bets_end_in_a_proof() -> None:
    rounds = rounds_of(large(0))
    rounds.run()
    assert rounds.proven
    assert rounds.gain <= rounds.upper
    assert rounds.flat.cost[rounds.chosen].sum() <= rounds.flat.room
    # The proof needs fewer candidates than the first plan left open.
    assert rounds.core_candidates < len(rounds.near.position)


def test_without_work_nothing_is_claimed() -> None:
    rounds = rounds_of(large(0), steps=0)
    rounds.run()
    assert not rounds.proven
    assert rounds.upper == rounds.near.slack


def test_a_plan_that_meets_the_bound_needs_no_search() -> None:
    rounds = rounds_of(Problem.from_groups([([0, 4], [0, 4]), ([0, 6], [0, 6])], 6))
    rounds.run()
    assert rounds.proven
    assert (rounds.rounding, rounds.work.steps_left) == (0.0, 10**8)


def test_a_worse_plan_is_not_taken() -> None:
    rounds = rounds_of(Problem.from_groups([([0, 4], [0, 4]), ([0, 6], [0, 6])], 6))
    before = rounds.chosen.tolist()
    rounds._take({0: 0, 1: 2})
    assert rounds.chosen.tolist() == before


def test_a_floor_far_above_a_tiny_core_does_not_overflow() -> None:
    flat = flatten(Problem.from_groups([([0, 1], [0, 2.0**-997])], 1))
    relaxed = Relaxed(0.0, flat.start[:-1], 1)
    core = build(
        flat, relaxed, Near(np.arange(2), np.zeros(2, np.int64), np.zeros(2), 1, 0), "near"
    )
    assert core is not None
    assert _steps(core, 2.0**-997) == core.levels[0].gain.max()
    assert 0 <= 2.0**60 - _steps(core, 1e150) < core.unit
