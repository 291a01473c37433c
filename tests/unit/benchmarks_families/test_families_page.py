"""The page of families: of the results, with every type, and what stops it."""

import json
from typing import Any

from benchmarks import record
from benchmarks.families.models import families
from benchmarks.families.page import GRADES, PAGE, kinds, page, stops, types, unnamed, verdict


def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((record.RESULTS / "families.json").read_text())
    return found


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(results())


def test_every_type_has_its_row() -> None:
    rows = results()["families"]
    assert [row["name"] for row in rows] == list(families())
    assert all(verdict(row) in GRADES for row in rows)


def test_whoever_does_not_go_the_whole_road_says_why() -> None:
    short = [row for row in results()["families"] if row["causal"] and verdict(row) != "whole road"]
    silent = [row["name"] for row in short if not (step := stops(row)) or not step["error"]]
    assert silent == []


def test_reasons_for_not_pruning_lose_names_of_weights_and_keep_operators() -> None:
    assert unnamed("q_proj: its weight is used 2 times") == "its weight is used 2 times"
    assert unnamed("the number of heads is fixed: opaque aten.cat.default").endswith(
        "aten.cat.default"
    )
    assert unnamed("its heads are also those of model.layers.0.a.q") == (
        "its heads are also those of another weight"
    )


def test_reasons_are_folded_by_kind() -> None:
    def row(name: str, weight: str) -> dict[str, Any]:
        error = f"CalibrationError: {weight} of {name}: 3 rows"
        step = {"name": "compress", "outcome": "refused", "error": error, "seconds": 1.0}
        built = {"name": "build", "outcome": "passed", "error": "", "seconds": 1.0, "facts": {}}
        steps = [built, {**step, "facts": {}}]
        return {"name": name, "class": name, "causal": True, "seconds": 2.0, "steps": steps}

    rows = [row("one", "model.layers.0.q"), row("two", "model.layers.1.q")]
    lines = kinds(rows).splitlines()[2:]
    assert len(lines) == 1 and lines[0].startswith("|     2 | one, two |")
    assert len(types(rows).splitlines()) == 4
