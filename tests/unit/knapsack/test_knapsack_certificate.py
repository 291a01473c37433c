"""The checker: exact numbers for honest solutions, a reason for every tampered one."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.knapsack import Problem, Solution, check, solve
from gacfx.knapsack.certificate import rules as certificate_rules
from gacfx.knapsack.certificate.candidates import candidates_of
from gacfx.knapsack.certificate.rules import Link, Worth, best_total
from gacfx.knapsack.limits import Implies, Label, Limit, Rule, SameLabel
from gacfx.knapsack.problem import Group
from tests.trials.problems import more_values

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


def test_a_plan_one_unit_over_the_budget_is_illegal_and_one_that_just_fits_is_not() -> None:
    # Costs 32: everything else of the solution is true, so nothing but the budget can refuse it.
    assert check(PROBLEM, HONEST).cost == 32
    fits, over = (replace(PROBLEM, budget=budget) for budget in (32, 31))
    assert check(fits, HONEST).feasible and not check(fits, HONEST).faults
    found = check(over, HONEST)
    assert not found.feasible
    assert "costs 32, 1 over the budget" in found.faults


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


def exact_bound(problem: Problem, solution: Solution) -> Fraction | None:
    """The Lagrangian bound of a problem without rules, with every candidate in exact fractions."""
    prices = [Fraction(price) for price in (solution.multiplier, *solution.limit_multipliers)]
    usable = candidates_of(problem).usable_budget(problem.budget)
    rooms = [usable, *(limit.most for limit in problem.limits)]
    total = sum((price * room for price, room in zip(prices, rooms, strict=True)), Fraction(0))
    room = usable - sum(int(group.costs.min()) for group in problem.groups)
    for group in problem.groups:
        count = len(group.costs)
        rows = [group.costs, *(x.costs.get(group.name, [0] * count) for x in problem.limits)]
        reduced = [
            Fraction(float(group.values[j]))
            - sum(price * int(row[j]) for price, row in zip(prices, rows, strict=True))
            for j in range(count)
            if int(group.costs[j]) <= int(group.costs.min()) + room
        ]
        if not reduced:
            return None
        total += max(reduced)
    return total


@pytest.mark.parametrize("limits", [0, 1, 2])
def test_what_float64_excludes_changes_no_bound(limits: int) -> None:
    rng = np.random.default_rng(limits)
    kept = offered = 0
    for number in range(400):
        unit = int(rng.choice([1, 7, 10**6, 2**54 + 1]))
        groups, rows = [], {}
        for name in "abc":
            costs = rng.integers(0, 30, 12) * unit
            groups.append(Group(name, costs, more_values(rng, number, costs)))
            rows[name] = rng.integers(0, 30, 12) * unit
        named = list(rows)[: int(rng.integers(0, 4))]
        extra = tuple(
            Limit(f"l{n}", 40 * unit, {name: rows[name] for name in named}) for n in range(limits)
        )
        problem = Problem(tuple(groups), 50 * unit, extra)
        # Prices at which two candidates of a group are worth the same but for rounding, and others.
        cheap, dear = groups[0].costs.argmin(), groups[0].costs.argmax()
        rise = abs(float(groups[0].values[dear]) - float(groups[0].values[cheap]))
        price = rise / max(1, int(groups[0].costs[dear] - groups[0].costs[cheap]))
        prices = [price * scale for scale in (1.0, 0.0, 1e9)[: 1 + limits]]
        solution = replace(HONEST, multiplier=prices[0], limit_multipliers=tuple(prices[1:]))
        assert check(problem, solution).bound == exact_bound(problem, solution)
        found = candidates_of(problem)
        fits = found.fitting(found.usable_budget(problem.budget))
        kept += int(found.maybe_best(prices, fits).sum())
        offered += int(fits.sum())
    assert kept < offered / 2


def test_candidates_that_float64_puts_in_the_wrong_order_are_compared_exactly() -> None:
    price, costs = 1.75, [0, 2**53 + 3]
    values = [1.75 * 2**53 + 2, 3.5 * 2**53 + 8]
    assert values[1] - price * float(costs[1]) < values[0]
    best = Fraction(values[1]) - Fraction(price) * costs[1]
    assert best > Fraction(values[0])
    problem = Problem.from_groups([(costs, values)], 2**54)
    certificate = check(problem, replace(solve(problem), multiplier=price))
    assert certificate.bound == Fraction(price) * (2**53 + 3) + best


def test_single_candidates_have_no_lattice() -> None:
    problem = Problem.from_groups([([3], [1.0]), ([4], [np.pi])], 100)
    assert check(problem, solve(problem)).valid


# -- limits and rules ------------------------------------------------------------------------------

KV = Limit("kv", 5, {"q": np.array([1, 2, 4]), "k": np.array([0, 2, 3])})
Q = Group("q", np.array([2, 4, 6]), np.array([-3.0, -1.0, 0.0]), (8, 16, "dense"))
K = Group("k", np.array([1, 3, 5]), np.array([-2.0, -1.5, 0.0]), (8, 16, "dense"))
DENSE_TOO = Implies("q", ("dense",), "k", ("dense",))
SAME = SameLabel(("q", "k"))


def limited(*rules: Rule, budget: int = 9) -> Problem:
    return Problem((Q, K), budget, (KV,), rules)


def claim(choice: tuple[int, int], mu: tuple[float, ...] = (0.25,)) -> Solution:
    """A bounded solution of ``limited`` with this plan, every number of it right."""
    picks = list(zip((Q, K), choice, strict=True))
    value = sum(float(group.values[index]) for group, index in picks)
    cost = sum(int(group.costs[index]) for group, index in picks)
    usable = 3 + (9 - 3) // 2 * 2
    return Solution(choice, cost, value, 0.0, -value, "bounded", 0.5, usable, 0.0, {}, mu)


def test_limits_are_part_of_the_exact_bound() -> None:
    certificate = check(limited(), claim((1, 1)))
    certificate.require()
    best_q = max(v - 0.5 * c - 0.25 * x for v, c, x in ((-3, 2, 1), (-1, 4, 2), (0, 6, 4)))
    best_k = max(v - 0.5 * c - 0.25 * x for v, c, x in ((-2, 1, 0), (-1.5, 3, 2), (0, 5, 3)))
    assert certificate.bound == Fraction(0.5 * 9 + 0.25 * 5 + best_q + best_k)


@pytest.mark.parametrize(
    ("rules", "solution", "message"),
    [
        ((), claim((2, 1)), "kv: 6, 1 over the limit"),
        ((DENSE_TOO,), claim((2, 0)), "breaks Implies(group='q', labels=('dense',)"),
        ((SAME,), claim((1, 0)), "breaks SameLabel(groups=('q', 'k'))"),
        ((), claim((1, 1), ()), "0 limit multipliers for 1 limits"),
        ((), claim((1, 1), (0.1, 0.1)), "2 limit multipliers for 1 limits"),
        ((), claim((1, 1), (-0.1,)), "multiplier -0.1 is not a number >= 0"),
        ((), claim((1, 1), (float("nan"),)), "multiplier nan is not"),
        ((), claim((1, 1), (float("inf"),)), "multiplier inf is not"),
        ((), replace(claim((1, 1)), bound=-2.6), "bound -2.6 is below the value -2.5"),
    ],
)
def test_tampering_with_limits_and_rules_is_named(
    rules: tuple[Rule, ...], solution: Solution, message: str
) -> None:
    certificate = check(limited(*rules), solution)
    assert not certificate.valid
    assert [fault for fault in certificate.faults if message in fault]
    illegal = "over the limit" in message or "breaks" in message
    assert certificate.feasible != illegal
    if illegal:
        with pytest.raises(PlanError, match="nothing to certify"):
            _ = certificate.certified_gap


def test_rules_that_are_kept_are_no_fault() -> None:
    both = Implies("q", (16,), "k", (8, 16))
    assert check(limited(DENSE_TOO, both), claim((1, 1))).valid
    assert check(limited(SAME), claim((1, 1))).valid
    unlabelled = tuple(replace(group, labels=()) for group in (Q, K))
    by_index = Problem(unlabelled, 9, (KV,), (Implies("q", (1,), "k", (1,)),))
    assert check(by_index, claim((1, 1))).valid
    assert not check(by_index, claim((1, 0))).valid


def test_rules_lower_the_bound() -> None:
    # At 0.625 per unit of cost q is worth (-4.25, -3.5, -3.75), k (-2.625, -3.375, -3.125).
    solution = replace(claim((1, 1), (0.0,)), multiplier=0.625)
    wants = Implies("q", (16,), "k", (16, "dense"))
    free, implied, same = (check(limited(*r), solution).bound for r in ((), (wants,), (SAME,)))
    assert free == Fraction(0.625 * 9 - 3.5 - 2.625)
    assert implied == Fraction(0.625 * 9 - 3.75 - 2.625)
    assert same == Fraction(0.625 * 9 - 3.75 - 3.125)


def test_an_impossible_problem_has_no_bound() -> None:
    none = Problem((Q, K), 4, (), (Implies("q", Q.labels, "k", ("dense",)),))
    certificate = check(none, replace(claim((0, 0), ()), usable_budget=3))
    assert not certificate.feasible
    assert certificate.bound is None
    assert "no plan keeps the budget and the rules" in certificate.faults


def random_rules(rng: np.random.Generator, classes: int) -> tuple[list[Worth], list[Link]]:
    worth: list[Worth] = [
        {label: int(rng.integers(-20, 20)) for label in range(int(rng.integers(1, 5)))}
        for _ in range(classes)
    ]

    def some() -> frozenset[Label]:
        return frozenset(rng.permutation(5)[: int(rng.integers(0, 5))].tolist())

    count = int(rng.integers(0, 2 * classes))
    ends = rng.integers(0, classes, (count, 2)).tolist()
    return worth, [Link(given, some(), then, some()) for given, then in ends]


def best_by_force(worth: Sequence[Worth], rules: Sequence[Link]) -> int | None:
    totals = []
    for picks in itertools.product(*worth):
        if not any(rule.breaks(dict(enumerate(picks))) for rule in rules):
            totals.append(sum(known[label] for known, label in zip(worth, picks, strict=True)))
    return max(totals, default=None)


def test_branching_equals_brute_force() -> None:
    rng = np.random.default_rng(7)
    impossible = 0
    for _ in range(400):
        worth, rules = random_rules(rng, int(rng.integers(1, 6)))
        best = best_by_force(worth, rules)
        impossible += best is None
        assert best_total(worth, rules) == best
    assert 10 < impossible < 200


def test_giving_up_early_never_reports_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_rules, "_MOST_BRANCHES", 2)
    rng = np.random.default_rng(8)
    higher = 0
    for _ in range(400):
        worth, rules = random_rules(rng, int(rng.integers(1, 6)))
        best, found = best_by_force(worth, rules), best_total(worth, rules)
        assert best is None or (found is not None and found >= best)
        higher += found != best
    assert higher > 10


def test_one_group_that_decides_for_a_thousand_is_quick() -> None:
    worth: list[Worth] = [{0: 0, 1: 40}]
    worth += [{0: number, 1: 0} for number in range(1000)]
    rules = [Link(0, frozenset({1}), number, frozenset({1})) for number in range(1, 1001)]
    assert best_total(worth, rules) == sum(range(1000))
