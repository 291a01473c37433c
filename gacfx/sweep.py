"""What every budget buys: loss, its certified bound and the forecast time, from saved curves.

rows = sweep(load_curves("curves.safetensors"), 41, gpu="h200")
write_csv(rows, "frontier.csv")
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from gacfx.allocation.latency import Clock, bare
from gacfx.core.curve_file import Curves
from gacfx.core.decision import Decision
from gacfx.core.files.atomic import making, replacing
from gacfx.core.files.targets import check_file, writing
from gacfx.core.plan import Plan
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.sites import MatmulSite, Workload
from gacfx.errors import PlanError
from gacfx.hardware.profile import Profile, load_profile
from gacfx.knapsack import Problem, Solution, check
from gacfx.knapsack.frontier.plans import frontier
from gacfx.knapsack.solver import solve
from gacfx.replan import problem_of

EXACT_ROWS = 50
"""Up to so many budgets are solved one by one: milliseconds each for 60 thousand candidates."""
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """The best plan for one budget."""

    ratio: float
    """Share of the targeted weights that the budget removes, 0..1."""
    budget_params: int
    params: int
    """That the plan keeps of the targeted weights."""
    loss_nats: float
    """Estimated rise of the task loss, in the value model of the curves."""
    bound_nats: float
    """No plan within the budget loses less (certified by multipliers alone)."""
    gap_nats: float
    """``loss_nats - bound_nats``."""
    status: str
    """optimal: the search was exhausted as well; bounded: only the bound is known."""
    nats_per_million_params: float
    """What a million parameters more would save: the multiplier of the budget."""
    forecast_us: float
    """All targeted weights under the workload; rule-based."""
    dense_share: float
    """Share of the targeted weights, by number, that stay dense."""
    value_model: str
    """What the losses are."""


def sweep(
    curves: Curves,
    count: int,
    *,
    gpu: str | Profile = "h200",
    search: Search = DEFAULT_SEARCH,
    workload: Workload | None = None,
    exact: bool | None = None,
) -> tuple[Row, ...]:
    """The best plans for budgets spread evenly from the cheapest plan to the best one.

    Args:
        curves: of :func:`gacfx.core.curve_file.load_curves`.
        count: budgets, at least 2; fewer rows where the costs leave no more.
        gpu: profile for alignment and forecast.
        search: which sizes, limits and rules, and when to stop at each budget; with limits or rules
            every budget is solved.
        workload: of the forecast; prefill of 1024 tokens if None.
        exact: solve every budget by search; otherwise read plans off the frontier's hulls, with
            their certified gap. None does so for more than 50 budgets without limits and rules.

    Raises:
        PlanError: a bad count, a solver other than core, a window, or ``exact=False`` with limits
            or rules.
        InfeasibleBudget: limits that no plan keeps, whatever its budget.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise PlanError(f"count {count!r}: must be an int >= 2; two rows are the two ends")
    if search.solver != "core":
        raise PlanError(f"solver {search.solver!r}: a sweep is solved by core")
    profile = load_profile(gpu)
    problem, case = problem_of(curves, gpu=profile, search=search)
    offered = (case.offered.candidates or {}).items()
    forecast = _Forecast(curves, profile, workload or Workload())
    if exact is None:
        exact = count <= EXACT_ROWS or bool(problem.limits or problem.rules)
    rows = []
    choose = partial(solve, gap=search.gap or 0.0, time_limit=search.time_limit)
    for solution, bound, price, budget in _solutions(problem, count, exact, choose):
        taken = {
            module: found[pick].of(at)
            for (group, found), pick in zip(offered, solution.choice, strict=True)
            for at, module in enumerate(case.offered.modules(group))
        }
        loss = -solution.value
        rows.append(
            Row(
                ratio=1 - budget / curves.facts.targeted_params,
                budget_params=budget,
                params=solution.cost,
                loss_nats=loss + 0.0,  # no -0.0 in a table
                bound_nats=min(loss, -bound) + 0.0,
                gap_nats=max(0.0, loss + bound),
                status=solution.status,
                nats_per_million_params=price * MILLION,
                forecast_us=forecast.us(taken),
                dense_share=sum(each.is_dense for each in taken.values()) / len(taken),
                value_model=curves.value_model,
            )
        )
    return tuple(rows)


def forecast_us(
    curves: Curves, plan: Plan, *, gpu: str | Profile = "h200", workload: Workload | None = None
) -> float:
    """Microseconds of all targeted weights of a plan, as in the rows of a sweep; rule-based."""
    forecast = _Forecast(curves, load_profile(gpu), workload or Workload())
    decisions = {module: d for choice in plan.choices for module, d in choice.decisions.items()}
    return forecast.us(decisions)


def write_csv(rows: Sequence[Row], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write one line for each row under a header; floats with all their digits.

    Raises:
        CheckpointError: the file exists and ``overwrite`` is false, or it cannot be written.
    """
    path = Path(path)
    check_file(path, overwrite=overwrite)
    with (
        writing(path),
        making(path.parent),
        replacing(path, overwrite=overwrite) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return path


def _solutions(
    problem: Problem, count: int, exact: bool, choose: Callable[[Problem], Solution]
) -> Iterator[tuple[Solution, float, float, int]]:
    """(plan, certified bound of its value, multiplier, budget), smallest budget first."""
    if problem.limits or problem.rules:
        if not exact:
            raise PlanError("limits and rules need exact=True: the frontier knows one budget only")
        for budget in _limited_budgets(problem, count, choose):
            one = replace(problem, budget=budget)
            solution = choose(one)
            bound = check(one, solution).bound
            assert bound is not None
            yield solution, float(bound), solution.multiplier, budget
        return
    best = frontier(problem)
    for budget in _spread(int(best.cost[0]), int(best.cost[-1]), count):
        # The frontier's bound holds for the searched plan too: it is certified by multipliers.
        point = best.point_at(budget)
        found = choose(replace(problem, budget=budget)) if exact else best.plan_at(budget)
        yield found, point.bound, point.multiplier, budget


def _spread(low: int, high: int, count: int) -> list[int]:
    last = count - 1
    return sorted({low + (high - low) * number // last for number in range(count)})


def _limited_budgets(
    problem: Problem, count: int, choose: Callable[[Problem], Solution]
) -> list[int]:
    """From the smallest plan that keeps limits and rules to the most valuable one."""
    cheapest = tuple(
        replace(group, values=-group.costs.astype(np.float64)) for group in problem.groups
    )
    most = sum(int(group.costs.max()) for group in problem.groups)
    low = choose(replace(problem, groups=cheapest, budget=most)).cost
    high = choose(replace(problem, budget=most)).cost
    return _spread(low, max(low, high), count)


class _Forecast:
    """Rule-based time of all targeted weights for the decisions of a plan."""

    def __init__(self, curves: Curves, profile: Profile, workload: Workload) -> None:
        self.clock = Clock(profile, workload)
        self.sites = {weight.module: bare(weight.site) for weight in curves.facts.weights}
        self.known: dict[tuple[MatmulSite, Decision], int] = {}

    def us(self, taken: Mapping[str, Decision]) -> float:
        """Microseconds of every weight under its decision; equal shapes are asked for once."""
        return sum(self._ns(site, taken[module]) for module, site in self.sites.items()) / 1e3

    def _ns(self, site: MatmulSite, decision: Decision) -> int:
        if (site, decision) not in self.known:
            self.known[site, decision] = self.clock.ns(site, decision)
        return self.known[site, decision]
