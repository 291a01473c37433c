"""Claims that contradict each other, and bounds that one exchange of candidates refutes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gacfx.knapsack import Group, Implies, Limit, Problem, SameLabel, Solution, check, solve
from gacfx.knapsack.certificate.claims import claim_faults

PAIRS = [([0, 8, 16], [-0.9, -0.3, 0.0]), ([8, 16, 24], [-0.5, -0.2, -0.1])]
PROBLEM = Problem.from_groups(PAIRS, 33)
HONEST = solve(PROBLEM)
FAR = HONEST.value + 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounding_bound": math.nan}, "rounding bound nan is not a number >= 0"),
        ({"rounding_bound": math.inf}, "rounding bound inf is not"),
        ({"rounding_bound": -1.0}, "rounding bound -1.0 is not"),
        ({"bound": math.nan}, "bound nan is below the value"),
        ({"bound": math.inf}, "bound inf is below the value"),
        ({"value": -math.inf}, "is below the value -inf"),
        ({"bound": FAR}, f"is not what bound {FAR!r} and value"),
        ({"bound": FAR, "gap": 1.0}, "status optimal with a gap of 1.0"),
        ({"bound": FAR, "gap": 0.5, "status": "bounded"}, "gap 0.5 is not what bound"),
    ],
)
def test_contradictions_are_named(change: dict[str, float], message: str) -> None:
    faults = claim_faults(replace(HONEST, **change))  # type: ignore[arg-type]
    assert any(message in fault for fault in faults)


def test_honest_claims_have_no_fault() -> None:
    assert claim_faults(HONEST) == []
    assert claim_faults(replace(HONEST, bound=FAR, gap=1.0, status="bounded")) == []
    assert claim_faults(replace(HONEST, bound=math.nextafter(HONEST.bound, math.inf))) == []


def called_best(problem: Problem, choice: tuple[int, ...], most: float = 0.0) -> Solution:
    """A legal plan that claims to be within ``most`` of the best."""
    picks = list(zip(problem.groups, choice, strict=True))
    value = math.fsum(float(group.values[index]) for group, index in picks)
    honest = solve(problem)
    return replace(
        honest,
        choice=choice,
        cost=sum(int(group.costs[index]) for group, index in picks),
        value=value,
        bound=value + most,
        gap=most,
        rounding_bound=0.0,
        status="bounded" if most else "optimal",
    )


def test_a_worse_plan_is_not_the_best() -> None:
    certificate = check(PROBLEM, called_best(PROBLEM, (0, 1)))
    assert certificate.feasible
    assert certificate.faults == (
        "bound -1.1 is too low: group 'group0' could take candidate 2 instead of 0, for 0.9 more",
    )
    assert check(PROBLEM, called_best(PROBLEM, (0, 1), most=0.5)).faults
    assert check(PROBLEM, called_best(PROBLEM, (0, 1), most=0.95)).valid


Q = Group("q", np.array([0, 1, 2]), np.array([0.0, 1.0, 3.0]), (8, 16, "dense"))
K = Group("k", np.array([0, 1, 2]), np.array([0.0, 2.0, 2.5]), (8, 16, "dense"))


def test_an_exchange_must_keep_the_limits_and_leave_rules_alone() -> None:
    loose, tight = (Limit("kv", most, {"q": np.array([0, 3, 5])}) for most in (4, 2))
    for limit, refuted in ((loose, True), (tight, False)):
        problem = Problem((Q, K), 4, (limit,))
        assert check(problem, called_best(problem, (0, 2))).valid != refuted
    for rule in (SameLabel(("q", "k")), Implies("q", (8,), "k", ("dense",))):
        problem = Problem((Q, K), 3, (), (rule,))
        assert check(problem, called_best(problem, (0, 0) if "Same" in str(rule) else (0, 2))).valid
