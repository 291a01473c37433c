"""Table 2 at real shapes: every strategy, its budget, and who keeps most."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import solver, views
from benchmarks.paper.printed import TABLE2
from gacfx.compressors.proportional import proportional_ranks

SMALL = {"a": (96, 64), "b": (128, 128), "c": (352, 128), "d": (64, 128)}


def test_the_shapes_are_those_of_llama_3_8b() -> None:
    known = solver.shapes()
    assert len(known) == 224
    assert sum(rows * columns for rows, columns in known.values()) == 6_979_321_856
    value = solver.scores(known, 3)
    assert value == solver.scores(known, 3) != solver.scores(known, 4)
    assert min(value.values()) > 0


@pytest.mark.parametrize("align", [8, 16])
def test_every_strategy_says_what_it_keeps(align: int) -> None:
    found: dict[str, Any] = {
        name: solver.row(SMALL, align, "0.2", name, seeds=4, repeats=1)
        for name in solver.STRATEGIES
    }
    assert found["unconstrained"].importance == pytest.approx(1)
    assert found["unconstrained"].aligned < 1
    for name in ("round-nearest", "greedy", "dp", "exact, window", "exact"):
        assert found[name].aligned == 1
    for name in ("unconstrained", "greedy", "dp", "exact, window", "exact", "any rank"):
        assert found[name].over_budget == 0 and found[name].over_most == 0
        assert 0 <= found[name].unspent < 1
    assert found["dp"].importance == pytest.approx(found["exact, window"].importance)
    assert found["greedy"].importance_most <= found["exact"].importance_most + 1e-9
    assert found["dp"].importance <= found["exact"].importance + 1e-9
    assert found["exact"].importance <= found["any rank"].importance + 1e-9
    assert all(each.milliseconds >= 0 for each in found.values())


def test_a_window_stands_around_the_free_rank() -> None:
    value = dict.fromkeys(SMALL, 1.0)
    free = proportional_ranks(SMALL, value, "0.2")
    near = solver.problem(SMALL, value, free, 8, window=3)
    everything = solver.problem(SMALL, value, free, 8)
    for group, whole in zip(near.groups, everything.groups, strict=True):
        rows, columns = SMALL[group.name]
        rank = free.ranks[group.name]
        assert len(group.labels) == 3 and {*group.labels} < {*whole.labels}
        assert min(abs(int(label) - rank) for label in group.labels) < 8
        assert max(int(label) for label in whole.labels) * (rows + columns) <= rows * columns


def test_importance_over_all_is_that_of_score_times_rank() -> None:
    value = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.5}
    free = proportional_ranks(SMALL, value, "0.2")
    ranks, budget, _ = solver.solved(SMALL, value, "0.2", 8, "exact")
    worth = solver.kept(value, free.ranks)
    found = solver.judged(SMALL, value, ranks, budget, 8, worth)
    assert found.importance == pytest.approx(sum(value[n] * r for n, r in ranks.items()) / worth)
    params = sum(rank * sum(SMALL[name]) for name, rank in ranks.items())
    assert found.over_params == params - budget <= 0
    over = solver.judged(SMALL, value, {**ranks, "a": 1000}, budget, 8, worth)
    assert over.over_params > 0


def test_rounding_may_exceed_the_budget_and_that_is_said() -> None:
    rows = [
        solver.row({"a": (128, 128), "b": (128, 128)}, 16, ratio, "round-nearest", 12, 1)
        for ratio in ("0.2", "0.25", "0.3")
    ]
    over = [row for row in rows if row.over_budget]
    assert over and all(0 < row.over_most < 1 for row in over)
    assert all(row.over_budget <= row.draws == 12 for row in rows)


def test_the_command_writes_rows_beside_the_printed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(solver, "shapes", lambda: SMALL)
    out = tmp_path / "solver.json"
    assert solver.main(["--seeds", "2", "--repeats", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert "SYNTHETIC" in found["what"]
    assert len(found["rows"]) == 4 * len(solver.STRATEGIES)
    assert len(found["printed"]["rows"]) == len(TABLE2) == 12
    said = capsys.readouterr().out
    assert "[1.064]" in said and "[189.5]" in said and "[50.9%]" in said
    assert views.solver(found["rows"]).markdown() in said
    with pytest.raises(SystemExit):
        solver.main(["--seeds", "0"])
