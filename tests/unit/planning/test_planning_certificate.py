"""The checker: exact numbers for honest solutions, a reason for every tampered one."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.planning import Problem, Solution, check, solve

PAIRS = [([0, 8, 16], [-0.9, -0.3, 0.0]), ([8, 16, 24], [-0.5, -0.2, -0.1])]
PROBLEM = Problem.from_groups(PAIRS, 33)
HONEST = solve(PROBLEM)


def test_an_honest_solution_is_certified_exactly() -> None:
    certificate = check(PROBLEM, HONEST)
    certificate.require()
    assert certificate.valid
    assert certificate.value == sum(
        Fraction(float(group.values[index]))
        for group, index in zip(PROBLEM.groups, HONEST.choice, strict=True)
    )
    multiplier = Fraction(HONEST.multiplier)
    best = sum(
        max(Fraction(v) - multiplier * c for c, v in zip(costs, values, strict=True))
        for costs, values in PAIRS
    )
    assert certificate.bound == multiplier * 32 + best
    assert 0 <= certificate.certified_gap == certificate.bound - certificate.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": (0,)}, "1 choices for 2 groups"),
        ({"choice": (0, 3)}, "group 'group1': choice 3 is not one of its 3"),
        ({"choice": (0, -1)}, "choice -1 is not"),
        ({"choice": (0, True)}, "choice True is not"),
        ({"choice": (2, 2)}, "costs 40, 7 over the budget"),
        ({"cost": 1}, "claims to cost 1"),
        ({"value": 0.0}, "claims to be worth 0.0"),
        ({"value": float("nan")}, "claims to be worth nan"),
        ({"multiplier": -1.0}, "multiplier -1.0 is not a number >= 0"),
        ({"multiplier": float("inf")}, "multiplier inf"),
        ({"multiplier": float("nan")}, "multiplier nan"),
        ({"usable_budget": 40}, "claims a usable budget of 40, it is 32"),
        ({"bound": -9.0}, "bound -9.0 is below the value"),
        ({"gap": -1.0}, "gap -1.0 is not a number >= 0"),
        ({"gap": 5.0}, "status optimal with a gap of 5.0"),
        ({"status": "perfect", "gap": 0.0}, "status 'perfect'"),
    ],
)
def test_tampering_is_named(change: dict[str, object], message: str) -> None:
    certificate = check(PROBLEM, replace(HONEST, **change))  # type: ignore[arg-type]
    assert not certificate.valid
    assert any(message in fault for fault in certificate.faults)
    with pytest.raises(PlanError, match="fails its check"):
        certificate.require()


def test_an_illegal_plan_has_no_gap() -> None:
    over = check(PROBLEM, replace(HONEST, choice=(2, 2)))
    assert not over.feasible
    with pytest.raises(PlanError, match="nothing to certify: costs 40"):
        _ = over.certified_gap


def test_any_multiplier_bounds_the_optimum() -> None:
    for multiplier in (0.0, 1e-3, HONEST.multiplier, 0.5, 1e9):
        certificate = check(PROBLEM, replace(HONEST, multiplier=multiplier))
        assert certificate.certified_gap >= 0


def test_a_worse_plan_gets_a_wider_gap() -> None:
    worse = Solution(
        choice=(0, 0),
        cost=8,
        value=-1.4,
        bound=0.0,
        gap=1.4,
        status="bounded",
        multiplier=HONEST.multiplier,
        usable_budget=32,
        rounding_bound=0.0,
        stats={},
    )
    certificate = check(PROBLEM, worse)
    assert certificate.valid
    assert certificate.certified_gap > check(PROBLEM, HONEST).certified_gap


def test_candidates_that_cannot_fit_do_not_loosen_the_bound() -> None:
    problem = Problem.from_groups([([0, 1, 100], [0, 1, 1000]), ([0, 1], [0, 1])], 2)
    certificate = check(problem, solve(problem))
    assert certificate.certified_gap == 0


def test_tiny_and_mixed_values_stay_exact() -> None:
    problem = Problem.from_groups([([0, 1], [0.0, 1e-300]), ([0, 1], [-1e100, 0.1])], 1)
    certificate = check(problem, solve(problem))
    assert certificate.valid
    assert certificate.value == Fraction(0.1)


def test_single_candidates_have_no_lattice() -> None:
    problem = Problem.from_groups([([3], [1.0]), ([4], [np.pi])], 100)
    assert check(problem, solve(problem)).valid
