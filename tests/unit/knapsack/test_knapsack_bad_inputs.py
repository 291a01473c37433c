"""Every kind of bad or strange input: what is refused and with which words, and what is legal.

The numbers are those of the list that the planner was written against. Each kind stands here once
with its message; the tests of each module go further into the corners.

     1  a budget below the cheapest plan          9  a value that falls while the cost rises
     2  a ratio that is no share                 10  a rank above break-even
     3  no candidate left                        11  a rank that the weight does not have
     4  NaN and infinity                         12  a budget above the dearest plan
     5  costs that are no exact whole numbers    13  nothing to choose
     6  values too far apart, or too small       14  no common step of the costs
     7  names twice, candidates in no order      15  a solver that fails, hangs or lies
     8  values zero, negative or constant        16  two budgets that exclude each other
"""

import math
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gacfx.allocation.doubtful import CandidateWarning, warn_of_costly, warn_of_rising
from gacfx.allocation.infeasible import explain
from gacfx.allocation.offers import Offers
from gacfx.allocation.problem import Axis
from gacfx.api import check_request
from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.goal import Goal
from gacfx.core.offered import Candidates
from gacfx.core.plan import Budget
from gacfx.core.search import Bound
from gacfx.errors import GacError, InfeasibleBudget, PlanError
from gacfx.knapsack import Group, PrecisionWarning, Problem, check, kept_budget, solve, solve_ilp
from gacfx.knapsack.ilp import solvers as ilp_solvers
from gacfx.knapsack.ilp.core_programs import solve_whole
from gacfx.knapsack.ilp.solvers import Solver
from gacfx.knapsack.ilp.table import tabulate
from gacfx.knapsack.limits import Implies, Limit, SameLabel
from gacfx.knapsack.one_budget import core
from tests.trials.extremes import EXTREMES

COSTS, VALUES = [8, 16, 24], [-0.5, -0.2, -0.1]
SMALL = Problem.from_groups([(COSTS, VALUES), ([4, 6], [-1.0, 0.0])], 30)
SAME = SameLabel(("q_proj", "k"))
RATIOS: list[tuple[Any, str]] = [
    (20, "20: the share removed must be below 1; 20 means 2000 %, write 0.2 for 20 %"),
    ("20%", "ratio '20%': not a number; write 0.2 for 20 %"),
    (1.0, "must be below 1"),
    (-0.1, "cannot be negative"),
    (True, "ratio is a bool; give the share removed, such as 0.2"),
    (math.nan, "ratio 'nan': not a number"),
    (math.inf, "ratio 'inf': not a number"),
]


def pairs(*ranks: int | None) -> Candidates:
    """Pairs of these ranks; None is the dense weight."""
    return tuple(DENSE if rank is None else LowRank(rank) for rank in ranks)


def curve(rows: int = 64, columns: int = 48) -> Curve:
    """A weight whose break-even rank is 27."""
    tail = 1.0 - np.arange(min(rows, columns) + 1) / min(rows, columns)
    return Curve("layers.0.q_proj", rows, columns, tail, "fisher")


def one(costs: Any, values: Any = None, name: str = "q_proj") -> Group:
    return Group(name, costs, np.zeros(len(costs)) if values is None else values)


def labelled(name: str, *labels: int | str) -> Group:
    return Group(name, np.arange(len(labels)), np.zeros(len(labels)), labels)


def both(most: int, budget: int) -> Problem:
    """Cost and latency of every plan add up to 8."""
    costs = np.array([0, 2, 4])
    groups = tuple(Group(name, costs, np.array([0.0, 1.0, 3.0])) for name in "qk")
    return Problem(groups, budget, (Limit("latency", most, dict.fromkeys("qk", 4 - costs)),))


def check_goal(ratio: Any) -> None:
    check_request("svd", Goal(ratio))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "1 budget below the minima: shortfall": (
        lambda: solve(Problem.from_groups([(COSTS, VALUES), ([4, 6], [-1.0, 0.0])], 10)),
        "the cheapest plan costs 12, which is 2 over the budget of 10; allow at least 12",
    ),
    "1 the same of groups of one size": (
        lambda: solve(Problem((one([5, 6]), one([5, 9], name="k")), 9, (), (SAME,))),
        "the cheapest plan costs 10, which is 1 over the budget of 9; allow at least 10",
    ),
    **{f"2 kept_budget of {r!r}": (partial(kept_budget, 100, r), said) for r, said in RATIOS},
    **{f"2 goal of {r!r}": (partial(check_goal, r), said) for r, said in RATIOS},
    "2 two goals at once": (
        lambda: Goal(ratio=0.2, params="6.5G"),
        "one of ratio, params and nbytes; ratio and params was given",
    ),
    "2 a fraction of a parameter": (lambda: Goal(params=1.5), "params 1.5: give a whole number"),  # type: ignore[arg-type]
    "3 nothing offered": (
        lambda: one([]),
        "group 'q_proj': no candidate left; check what filtered its candidates "
        r"\(alignment, coupling, tensor parallelism\), or leave the group out",
    ),
    "3 nothing in common after coupling": (
        lambda: solve(
            Problem(
                (labelled("k_proj", 8, 16), labelled("v_proj", 24, "dense")),
                9,
                (),
                (SameLabel(("k_proj", "v_proj")),),
            )
        ),
        "groups 'k_proj', 'v_proj' must take one label, but have none in common; give them the "
        "same candidates, or leave one out of the rule",
    ),
    "3 nothing after tensor parallelism and a bound": (
        lambda: Offers(
            align=8, tp=4, kinds=("low-rank",), bounds=(Bound("*.q_proj", 1, 40),)
        ).candidates(curve()),
        r"layers.0.q_proj: no candidate is left: no rank in steps of 32 \(align 8, tp 4\) is below "
        r"break-even, and \*.q_proj=1:40 leaves out the dense weight, of rank 48",
    ),
    "3 nothing between two bounds": (
        lambda: Offers(align=8, kinds=("low-rank",), bounds=(Bound("*", 9, 15),)).candidates(
            curve()
        ),
        r"no rank from 8 to 24 in steps of 8 is in \*=9:15",
    ),
    "4 NaN": (lambda: one(COSTS, [0.0, math.nan, 1.0]), "'q_proj': value of candidate 1 is nan"),
    "4 infinity": (lambda: one(COSTS, [0.0, 1.0, -math.inf]), "value of candidate 2 is -inf"),
    "4 NaN as a cost": (lambda: one([1.0, math.nan]), "cost nan of candidate 1 is not a whole"),
    "5 negative": (lambda: one([8, -16]), "group 'q_proj': cost -16 of candidate 1 < 0"),
    "5 not whole": (lambda: one([8.0, 16.5]), "cost 16.5 of candidate 1 is not a whole number"),
    "5 float from 2**53 on": (
        lambda: one([1.0, 2.0**53]),
        r"cost 9007199254740992.0 of candidate 1 is not a whole number below 2\*\*53; use integers",
    ),
    "5 an integer of 2**62": (lambda: one([2**62]), r"is not below 2\*\*62; use a unit"),
    "5 beyond int64": (lambda: one([2**70]), r"costs must be whole numbers below 2\*\*62"),
    "5 sum of 2**62": (
        lambda: Problem.from_groups([([2**61], [0.0])] * 2, 9),
        r"costs: the largest of every group sum to 2\*\*62 or more; use a unit",
    ),
    "5 sum of 2**62 under a limit": (
        lambda: Limit("latency", 9, {"q": np.array([2**61]), "k": np.array([2**61])}),
        r"limit 'latency': costs sum to 2\*\*62 or more",
    ),
    "5 unsigned": (
        lambda: one(np.array([8, 16], np.uint32)),
        "costs are unsigned integers, whose differences wrap around; use int64",
    ),
    "5 bool": (lambda: one(np.array([True, False])), "costs hold a bool; give numbers"),
    "5 a budget that is no integer": (lambda: Problem((), 1.5), "budget 1.5: must be an int"),  # type: ignore[arg-type]
    "6 beyond 1e200": (lambda: one(COSTS, [0.0, 1.0, 1e201]), "beyond 1e200; scale the values"),
    "6 subnormal": (
        lambda: one(COSTS, [0.0, 5e-324, 1e-310]),
        "group 'q_proj': no value is further from 0 than 1e-310, which float64 cannot count with",
    ),
    "7 group names": (
        lambda: Problem((one(COSTS), one(COSTS)), 9),
        "group 'q_proj': the name is used twice; names must differ",
    ),
    "7 labels": (lambda: labelled("q", 8, 8), "group 'q': label 8 stands for two candidates"),
    "7 limits": (
        lambda: Problem((), 9, (Limit("latency", 1, {}), Limit("latency", 2, {}))),
        "limit 'latency': the name is used twice",
    ),
    "11 rank 0": (
        lambda: Axis.make(curve(), pairs(0, 8, None)),
        "layers.0.q_proj: rank 0 is outside 1 .. 48; look at the pass that lists them",
    ),
    "11 above min(m, n)": (lambda: Axis.make(curve(), pairs(8, 49)), "rank 49 is outside 1 .. 48"),
    "11 no size at all": (lambda: Axis.make(curve(), ()), "layers.0.q_proj: no candidate is left"),
    "16 two budgets": (
        lambda: solve(both(most=3, budget=4)),
        "the budget of 4 and the limit 'latency' of 3 can each be kept, but not together: within "
        "the budget 'latency' needs 4, which is 1 more; raise that limit or the budget",
    ),
    "16 the limit alone": (
        lambda: solve(Problem((one([8]),), 99, (Limit("kv", 1, {"q_proj": np.array([2])}),))),
        "costs 2, which is 1 over the limit 'kv' of 1; allow at least 2",
    ),
    "16 two limits and a budget": (
        lambda: solve_ilp(
            Problem(
                both(3, 4).groups,
                4,
                (*both(3, 4).limits, Limit("kv", 9, {"q": np.array([1, 1, 1])})),
            )
        ),
        r"the budget 4, limit 'latency' \(3\), limit 'kv' \(9\) together, though .* each limit can "
        "be kept alone; a budget of 6 would do",
    ),
    "16 rules": (
        lambda: solve(Problem((labelled("q", 8, 16),), 9, (), (Implies("q", (8, 16), "q", ()),))),
        "no budget would help: the limits and rules exclude each other",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_a_message_that_helps(name: str) -> None:
    refused, message = REFUSED[name]
    with pytest.raises(GacError, match=message):
        refused()


def test_every_item_has_its_place() -> None:
    here = {int(name.split()[0]) for name in REFUSED}
    here |= {int(name.split("_")[2]) for name in globals() if name.startswith("test_item_")}
    assert here == set(range(1, 17))


def test_item_1_says_the_largest_ratio_that_can_be_reached() -> None:
    """Through the door: in parameters of the model, and as the share that may be asked for."""
    problem = Problem.from_groups([([10, 50], [-1.0, 0.0])] * 2, 15)
    with pytest.raises(InfeasibleBudget) as refused:
        solve(problem)
    assert (refused.value.needed, refused.value.budget) == (20, 15)
    asked = Budget("0.85", "targeted", targeted_params=100, model_params=140, limit_params=15)
    said = explain(refused.value, problem, asked)
    assert "leaves 15 parameters, but the smallest plan needs 20: 5 too few" in str(said)
    assert "The largest reachable ratio is 0.8000" in str(said)
    assert solve(Problem(problem.groups, kept_budget(100, "0.8000"))).cost == 20


def test_item_6_values_too_far_apart_warn_and_say_how_much_is_lost() -> None:
    pairs = [([0, 6], [0, 1e20]), ([0, 6], [0, 0.9e20]), ([0, 1], [0, 1e-3])]
    problem = Problem.from_groups(pairs, 10)
    with pytest.warns(PrecisionWarning, match="1 groups have values too small to tell apart"):
        solution = solve(problem)
    check(problem, solution).require()
    assert solution.rounding_bound > 1e-3
    assert solution.value >= 1e20


@pytest.mark.parametrize("scale", [1e-300, 1e-304, 1e190])
def test_item_6_the_scale_of_all_values_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 50, 5), rng.integers(-9, 9, 5)) for _ in range(6)]
    plain = solve(Problem.from_groups(pairs, 150))
    problem = Problem.from_groups([(costs, scale * values) for costs, values in pairs], 150)
    scaled = solve(problem)
    check(problem, scaled).require()
    assert scaled.value == pytest.approx(scale * plain.value, rel=1e-12)


def test_item_6_sums_that_cancel_to_almost_nothing_are_worth_nothing() -> None:
    """Two groups of one label; float64 has only a few numbers as small as their sums."""
    groups = (
        Group("k", np.array([1, 2]), np.array([1.6e-304, 0.0]), (8, "dense")),
        Group("v", np.array([1, 2]), np.array([-1.6e-304 + 1e-319, 0.0]), (8, "dense")),
    )
    problem = Problem(groups, 4, (), (SameLabel(("k", "v")),))
    solution = solve(problem)
    check(problem, solution).require()
    assert solution.choice in ((0, 0), (1, 1))
    assert 0 < solution.rounding_bound < 1e-305


def test_item_7_candidates_in_any_order_and_equal_costs_keep_the_best() -> None:
    tidy, mixed = ([8, 16, 24], [-0.5, -0.2, -0.1]), ([24, 8, 16, 8], [-0.1, -0.5, -0.2, -0.9])
    one_way = solve(Problem.from_groups([tidy, tidy], 32))
    other = solve(Problem.from_groups([mixed, mixed], 32))
    assert one_way.value == other.value == -0.4
    assert (one_way.choice, other.choice) == ((1, 1), (2, 2))
    cheapest = solve(Problem.from_groups([mixed], 9))
    assert (cheapest.choice, cheapest.value) == ((1,), -0.5)


@pytest.mark.parametrize("values", [[0.0] * 3, [-7.5] * 3, [-3.0, -2.0, -1.0], [0.0, 1.0, 2.0]])
def test_item_8_zero_constant_and_negative_values_are_legal(values: list[float]) -> None:
    problem = Problem.from_groups([(COSTS, values)] * 3, 50)
    solution = solve(problem)
    check(problem, solution).require()
    assert solution.status == "optimal"
    if len({*values}) == 1:
        assert solution.choice == (0, 0, 0), "of equals the cheapest"


def test_item_9_a_value_that_falls_is_never_taken() -> None:
    problem = Problem.from_groups([(COSTS, [5.0, 4.0, 3.0]), (COSTS, [1.0, 0.5, 2.0])], 99)
    solution = solve(problem)
    check(problem, solution).require()
    assert solution.choice == (0, 2)


def test_item_9_a_loss_that_rises_with_the_rank_is_warned_of() -> None:
    bumpy = np.array([3.0, 2.0, 1.0, 1.5, 0.5] + [0.0] * 44)
    rising = Curve("q_proj", 64, 48, bumpy, "fisher")
    with pytest.warns(CandidateWarning, match=r"1 weights have a loss .* q_proj from rank 2 to 3"):
        warn_of_rising({"q_proj": rising}, {"q_proj": pairs(1, 2, 3, 4, None)})
    warn_of_rising({"q_proj": rising}, {"q_proj": pairs(1, 2, 4, None)})  # no warning
    # Of each form by itself: those that are offered in the other one are no neighbours.
    mixed: Candidates = (LowRank(1), LowRank(2), Pivot(3), Pivot(4), DENSE)
    warn_of_rising({"q_proj": rising}, {"q_proj": mixed})  # no warning


def test_item_10_a_rank_above_break_even_is_not_offered_and_not_taken() -> None:
    assert curve().break_even == 27
    offered = Offers(align=8, kinds=("low-rank",)).candidates(curve())[0]
    assert offered == pairs(8, 16, 24, None)
    axis = Axis.make(curve(), pairs(24, 32, 40, None))
    assert axis.first.costs.tolist() == [24 * 112, 32 * 112, 40 * 112, 64 * 48]
    for budget in (3000, 3100, 5000):
        group = axis.group(curve())
        picked = solve(Problem((group,), budget)).choice[0]
        assert group.labels[picked] == (24 if budget < 64 * 48 else "dense")


def test_item_10_a_rank_above_break_even_is_warned_of() -> None:
    with pytest.warns(CandidateWarning, match=r"rank 40 of q_proj \(break-even 27\); .* never"):
        warn_of_costly({"q_proj": curve()}, {"q_proj": pairs(24, 32, 40, None)})
    warn_of_costly({"q_proj": curve()}, {"q_proj": pairs(24, None)})  # no warning
    warn_of_costly({"q_proj": curve()}, {"q_proj": pairs(24, 32)})  # without dense it can be wanted
    warn_of_costly(
        {"q_proj": curve()}, {"q_proj": (Pivot(40), Pivot(47), DENSE)}
    )  # all are smaller


def test_item_12_a_budget_above_the_maximum_takes_the_best_and_shows_the_slack() -> None:
    problem = Problem(SMALL.groups, 10**9)
    solution = solve(problem)
    check(problem, solution).require()
    assert (solution.choice, solution.cost, solution.multiplier) == ((2, 1), 30, 0.0)
    assert problem.budget - solution.cost == 10**9 - 30
    assert solution.usable_budget == 10**9, "in steps of 2 from the cheapest plan, 12"


def test_item_13_nothing_to_choose_is_legal() -> None:
    for problem in (
        Problem((), 0),
        Problem((), 7, (Limit("latency", 0, {}),)),
        Problem.from_groups([([3], [math.pi]), ([0], [-1.0])], 3),
        Problem.from_groups([([3], [0.0])], 2**61),
    ):
        solution = solve(problem)
        check(problem, solution).require()
        assert solution.choice == (0,) * len(problem.groups)
        assert (solution.status, solution.gap) == ("optimal", 0.0)


@pytest.mark.filterwarnings("ignore::gacfx.knapsack.PrecisionWarning")
@pytest.mark.parametrize("name", EXTREMES)
def test_item_14_extremes_end_within_memory(name: str) -> None:
    """Twenty thousand candidates of each kind here; ``make test-long`` takes a million."""
    problem = EXTREMES[name](20_000)
    tracemalloc.start()
    solution = solve(problem, time_limit=1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 * 2**20
    check(problem, solution).require()


def test_item_14_the_guard_on_work_ends_what_cannot_be_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core, "_MOST_STEPS", 100_000)
    problem = EXTREMES["no_common_step_hard"](2_000)
    solution = solve(problem)
    check(problem, solution).require()
    assert (solution.status, solution.stats["quantum"]) == ("bounded", 1)
    assert 0 < solution.gap < 1e-5 * solution.value


def lying(answer: str) -> Solver:
    """CBC as a script that writes ``answer`` where it was told to."""
    code = f"import sys; open(sys.argv[-1], 'w').write({answer!r})"
    return Solver("cbc", (sys.executable, "-S", "-c", code), math.inf)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("Optimal - objective value 1\n0 x2 1 0\n1 x4 1 0\n", None),
        ("Stopped on time - objective value 1\n0 x2 1 0\n1 x4 1 0\n", None),
        ("Optimal - objective value 1\n0 x1 1 0\n1 x2 1 0\n", "without exactly one candidate"),
        ("Optimal - objective value 1\n0 x2 1 0\n", "without exactly one candidate per group"),
        ("Not Solved - objective value 1\n0 x2 1 0\n1 x4 1 0\n", r"no plan \(status nothing\)"),
        ("Unbounded - objective value 1\n", r"no plan \(status nothing\)"),
    ],
)
def test_item_15_what_a_solver_says_is_checked(answer: str, message: str | None) -> None:
    """Candidates are numbered through the groups: x0 to x2, x3 and x4."""
    table = tabulate(SMALL)
    if message is None:
        found = solve_whole(table, lying(answer))
        assert found.claimed == answer.startswith("Optimal")
        return
    with pytest.raises(PlanError, match=message):
        solve_whole(table, lying(answer))


def test_item_15_a_plan_over_the_budget_is_refused_whatever_its_status() -> None:
    table = tabulate(Problem(SMALL.groups, 28))
    answer = "Optimal - objective value 1\n0 x2 1 0\n1 x4 1 0\n"
    with pytest.raises(PlanError, match="cbc returned a plan 2 over the budget; raise time_limit"):
        solve_whole(table, lying(answer))


def test_item_15_a_solver_that_hangs_is_killed_and_one_that_dies_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ilp_solvers, "GRACE_SECONDS", 0.1)
    hangs = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
    with pytest.raises(PlanError, match=r"no plan \(status nothing\); raise time_limit"):
        solve_whole(tabulate(SMALL), Solver("cbc", hangs, time.perf_counter() + 0.1))
    dies = (sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(PlanError, match="cbc ended with -9: ; try the other solver"):
        solve_whole(tabulate(SMALL), Solver("cbc", dies, math.inf))


def test_item_16_says_the_smallest_limit_that_would_do() -> None:
    with pytest.raises(InfeasibleBudget) as refused:
        solve(both(most=3, budget=4))
    assert (refused.value.needed, refused.value.budget) == (4, 3)
    assert solve(both(most=4, budget=4)).cost == 4
