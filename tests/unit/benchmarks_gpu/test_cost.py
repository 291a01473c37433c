"""The table of costs, and how a check fails."""

import json
from pathlib import Path

from benchmarks import cost, record
from benchmarks.gpu.llama.random_checkpoint import SHAPES, read_sizes

ROOT = Path(__file__).parents[3]


def test_the_page_has_the_table_of_the_results() -> None:
    found = json.loads((record.RESULTS / "cost.json").read_text())
    table = cost.show([cost.Row(**row) for row in found["rows"]])
    assert table in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def test_the_results_are_those_of_this_arithmetic() -> None:
    found = json.loads((record.RESULTS / "cost.json").read_text())
    sizes, machine = read_sizes(SHAPES["llama-3-8b"]), cost.MACHINES[1]
    rows = [row for row in found["rows"] if row["model"] == "llama-3-8b"]
    assert cost.Row(**rows[1]) == cost.row_of("llama-3-8b", sizes, machine)


def test_a_check_is_off_in_both_directions() -> None:
    assert cost.Check("", "", 1.4, 1.0).good and cost.Check("", "", 1.0, 1.4).good
    assert not cost.Check("", "", 1.6, 1.0).good and not cost.Check("", "", 1.0, 1.6).good


def test_what_does_not_fit_says_so() -> None:
    sizes, laptop = read_sizes(SHAPES["llama-3.1-405b"]), cost.MACHINES[0]
    row = cost.row_of("405b", sizes, laptop)
    assert not row.fits and "does not fit" in cost.show([row])


def test_durations() -> None:
    given = (0.04, 9.5, 119, 121, 7300, 2e5)
    told = ["0.04 s", "9.5 s", "119 s", "2 min", "2 h", "2 days"]
    assert [cost.duration(each) for each in given] == told
