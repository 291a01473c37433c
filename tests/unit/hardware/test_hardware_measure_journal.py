import json
from pathlib import Path

import pytest

from gacfx.hardware.measure.journal import FILE, Journal, key, read


def journal_with(folder: Path, *items: dict[str, object]) -> None:
    journal = Journal(folder, resume=False)
    journal.write("run", dry=True)
    for item in items:
        journal.write("item", part="p", item=item, result={})
    journal.close()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    journal_with(tmp_path, {"m": 1}, {"m": 2})
    records = list(read(tmp_path))
    assert [record["kind"] for record in records] == ["run", "item", "item"]
    assert {record["run"] for record in records} == {1}


def test_a_second_run_needs_leave_to_go_on(tmp_path: Path) -> None:
    journal_with(tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        Journal(tmp_path, resume=False)


def test_resuming_counts_runs_and_knows_what_is_done(tmp_path: Path) -> None:
    journal_with(tmp_path, {"m": 1})
    journal = Journal(tmp_path, resume=True)
    journal.write("item", part="p", item={"m": 2}, error="too large")
    journal.close()
    third = Journal(tmp_path, resume=True)
    assert third.run == 3
    assert third.done() == {key("p", {"m": 1})}  # what failed is tried again
    third.close()


def test_the_order_of_fields_is_no_difference() -> None:
    assert key("p", {"m": 1, "n": 2}) == key("p", {"n": 2, "m": 1})
    assert key("p", {"m": 1}) != key("q", {"m": 1})


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    journal_with(tmp_path, {"m": 1}, {"m": 2})
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    assert len(list(read(tmp_path))) == 2
    journal = Journal(tmp_path, resume=True)
    journal.write("item", part="p", item={"m": 3}, result={})
    journal.close()
    assert [r["item"]["m"] for r in read(tmp_path) if r["kind"] == "item"] == [1, 3]


@pytest.mark.parametrize("line", ["{", "[1]", '{"kind": "item"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    journal_with(tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=f"{FILE}:2"):
        list(read(tmp_path))


def test_nan_never_reaches_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resume=False)
    with pytest.raises(ValueError, match="JSON"):
        journal.write("item", part="p", item={}, result={"us": float("nan")})
    journal.close()
    assert all(json.loads(line) for line in (tmp_path / FILE).read_text().splitlines())
