"""A sweep: every row is the best plan of its budget, and the file says what the rows say."""

import csv
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from gacfx.core.goal import Goal
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.errors import CheckpointError, PlanError
from gacfx.knapsack import Problem, Solution
from gacfx.knapsack.frontier.plans import frontier
from gacfx.knapsack.solver import solve
from gacfx.replan import plan_from_curves, problem_of, synthetic_curves
from gacfx.sweep import Row, forecast_us, sweep, write_csv
from tests import tiny
from tests.unit import made_curves, made_structures

ONES = Search(align=1, form="pair")


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return synthetic_curves(tiny.checkpoint(tmp_path_factory.mktemp("tiny")))


def best_on_paper(budget: int) -> float:
    """The least loss of the two hand-made weights, by trying all pairs of sizes."""
    sizes = [(16 * rank, rank) for rank in (1, 2, 3)] + [(64, 8)]
    a, b = made_curves.LOSSES.values()
    return min(a[i] + b[j] for (x, i), (y, j) in product(sizes, sizes) if x + y <= budget)


def test_every_row_is_the_best_plan_on_paper() -> None:
    rows = sweep(made_curves.curves(), 7, search=ONES)
    assert [row.budget_params for row in rows] == [32, 48, 64, 80, 96, 112, 128]
    assert [row.ratio for row in rows] == [0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]
    assert [row.loss_nats for row in rows] == [best_on_paper(row.budget_params) for row in rows]
    assert [row.dense_share for row in rows] == [0, 0, 0, 0.5, 0.5, 0.5, 1]
    assert {row.status for row in rows} == {"optimal"}
    assert all(row.gap_nats < 1e-12 for row in rows)  # convex curves, whole steps
    assert rows[0].nats_per_million_params == pytest.approx(0.25 / 16 * 1e6)
    assert rows[-1].nats_per_million_params == 0


def test_with_pivots_every_row_is_the_best_plan_on_paper_too() -> None:
    sizes = [(16 * r, r) for r in (1, 2, 3)] + [(r * (16 - r), r) for r in range(1, 8)] + [(64, 8)]
    a, b = made_curves.LOSSES.values()
    rows = sweep(made_curves.curves(), 20, search=Search(align=1))
    for row in rows:
        fitting = [
            a[i] + b[j] for (x, i), (y, j) in product(sizes, sizes) if x + y <= row.budget_params
        ]
        assert row.loss_nats == pytest.approx(min(fitting), abs=1e-15)
    pairs = sweep(made_curves.curves(), 20, search=ONES)
    assert rows[0].budget_params == 2 * 15 < pairs[0].budget_params == 2 * 16


@pytest.mark.parametrize("exact", [True, False])
def test_rows_fall_and_keep_their_bounds(exact: bool, curves: Any) -> None:
    rows = sweep(curves, 20, exact=exact)
    assert len(rows) == 20
    for before, after in pairwise(rows):
        assert after.budget_params > before.budget_params
        assert after.loss_nats <= before.loss_nats and after.bound_nats <= before.bound_nats
        assert after.nats_per_million_params <= before.nats_per_million_params
    for row in rows:
        assert row.params <= row.budget_params
        assert row.bound_nats <= row.loss_nats
        assert row.gap_nats == pytest.approx(row.loss_nats - row.bound_nats, abs=1e-15)
        assert row.ratio == 1 - row.budget_params / curves.facts.targeted_params
    assert (rows[-1].loss_nats, rows[-1].dense_share) == (0, 1)


def test_a_row_is_the_plan_of_its_budget(curves: Any) -> None:
    for exact in (True, False):
        row = sweep(curves, 9, exact=exact)[4]
        outside = curves.facts.model_params - curves.facts.targeted_params
        plan = plan_from_curves(curves, goal=Goal(params=row.budget_params + outside))
        assert row.bound_nats <= plan.loss_nats * (1 + 1e-12)
        if exact:
            assert row.loss_nats == pytest.approx(plan.loss_nats, rel=1e-12)
            assert row.params == plan.kept_params
        else:
            assert plan.loss_nats <= row.loss_nats <= plan.loss_nats + row.gap_nats


def test_many_rows_come_from_the_frontier_few_from_the_search(
    curves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = sweep(curves, 50)
    monkeypatch.setattr("gacfx.sweep.solve", lambda problem: pytest.fail("searched"))
    assert len(sweep(curves, 51)) == 51
    assert {row.status for row in few} == {"optimal"}


def test_the_forecast_is_that_of_the_latency_limit(curves: Any) -> None:
    """The dense end costs what the limit calls dense, for the same workload."""
    step = "limit-latency{share=9 mode=decode batch=4 seq=512}"
    plan = plan_from_curves(curves, ratio="0.3", search=Search(limits=(step,)))
    rows = sweep(curves, 2, workload=Workload(4, 512, "decode"))
    assert rows[-1].forecast_us == (plan.limits[0].dense or 0) / 1000
    assert sweep(curves, 2)[-1].forecast_us > rows[-1].forecast_us


def test_limits_and_rules_are_kept_in_every_row(curves: Any) -> None:
    free, best = sweep(curves, 6), frontier(problem_of(curves)[0])
    tied = sweep(curves, 6, search=Search(uniform=True))
    limited = sweep(curves, 6, search=Search(limits=("limit-latency{share=1.15}",)))
    dense = free[-1].forecast_us
    assert max(row.forecast_us for row in free) > 1.15 * dense
    assert all(row.forecast_us <= 1.15 * dense for row in limited)
    for rows in (tied, limited):
        assert all(row.bound_nats <= row.loss_nats for row in rows)
        losses = [row.loss_nats for row in rows]
        assert losses == sorted(losses, reverse=True)
        points = [best.point_at(row.budget_params) for row in rows]
        assert all(-p.bound <= row.loss_nats for p, row in zip(points, rows, strict=True))
        # Otherwise the limit would change nothing.
        assert any(row.loss_nats > -p.value for p, row in zip(points, rows, strict=True))
    with pytest.raises(PlanError, match="limits and rules need exact=True"):
        sweep(curves, 6, search=Search(uniform=True), exact=False)


@pytest.mark.parametrize("limits", [(), ("limit-latency{share=9}",)], ids=str)
def test_every_budget_is_searched_as_long_as_was_asked(
    limits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def watched(problem: Problem, **stops: float) -> Solution:
        told.append(stops)
        return solve(problem, **stops)

    monkeypatch.setattr("gacfx.sweep.solve", watched)
    search = Search(align=1, limits=limits, gap=1e-9, time_limit=60)
    rows = sweep(made_curves.curves(), 3, search=search)
    assert told == [{"gap": 1e-9, "time_limit": 60}] * (
        len(rows) + 2 * len(limits)
    )  # both ends are searched for


def test_rules_do_not_stop_a_long_sweep() -> None:
    assert len(sweep(made_curves.curves(), 60, search=Search(align=1, uniform=True))) == 60


@pytest.mark.parametrize("count", [1, 0, -3, True, 2.0, "9"])
def test_a_sweep_has_at_least_two_budgets(count: Any) -> None:
    with pytest.raises(PlanError, match="must be an int >= 2"):
        sweep(made_curves.curves(), count)


def test_a_sweep_is_solved_by_core() -> None:
    with pytest.raises(PlanError, match="a sweep is solved by core"):
        sweep(made_curves.curves(), 3, search=Search(solver="dp"))


def test_the_table_reads_back(curves: Any, tmp_path: Path) -> None:
    rows = sweep(curves, 5)
    path = write_csv(rows, tmp_path / "folder" / "rows.csv")
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    header = path.read_text(encoding="utf-8").split("\n")[0]
    assert header == (
        "ratio,budget_params,params,loss_nats,bound_nats,gap_nats,status,nats_per_million_params,"
        "forecast_us,dense_share,value_model"
    )
    kinds = {name: type(getattr(rows[0], name)) for name in lines[0]}
    read = [Row(**{name: kinds[name](text) for name, text in line.items()}) for line in lines]
    assert tuple(read) == rows


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(CheckpointError, match="is a folder; name a file"):
        write_csv(sweep(made_curves.curves(), 2), tmp_path / "rows.csv")


def test_the_forecast_of_a_plan_is_that_of_its_row() -> None:
    rows = sweep(made_curves.curves(), 5, search=Search(align=1), workload=Workload(2, 64))
    for row in rows:
        plan = plan_from_curves(made_curves.curves(), ratio=repr(row.ratio), search=Search(align=1))
        time = forecast_us(made_curves.curves(), plan, workload=Workload(2, 64))
        assert (plan.kept_params, time) == (row.params, row.forecast_us)
    assert rows[0].forecast_us != rows[-1].forecast_us


@pytest.mark.parametrize("limits", [(), ("limit-latency{share=1}",)])
def test_a_sweep_of_structures_counts_their_weights(limits: tuple[str, ...]) -> None:
    known, asked = made_structures.curves(), Search(prune="both", limits=limits)
    rows = sweep(known, 6, search=asked)
    assert len(rows) == 6
    for row in rows[1:]:
        plan = plan_from_curves(known, goal=Goal(ratio=repr(max(row.ratio, 0.0))), search=asked)
        assert plan.kept_params == row.params
        assert plan.loss_nats == pytest.approx(row.loss_nats)
        assert row.forecast_us == pytest.approx(forecast_us(known, plan))
        assert row.dense_share == plan.counts["dense"] / len(plan.weights)
    assert rows[0].dense_share == 0 and rows[-1].dense_share == 1
