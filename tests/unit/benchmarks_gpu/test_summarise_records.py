from pathlib import Path

import pytest

from benchmarks.gpu.summary.records import Records, SummaryError, load
from gacfx.hardware.measure.journal import FILE
from tests.unit.benchmarks_gpu.synthetic import (
    Record,
    ceilings,
    gemm_case,
    gemm_result,
    item,
    machine,
    run,
    times,
    write,
)

CASE = gemm_case(8, 8, 8)
FIELDS = {"op": "gemm", "rule": "K.low", "case": CASE}


def loaded(folder: Path, *records: Record) -> Records:
    return load(write(folder / "here", records))


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    found = load(write(tmp_path / "somewhere", machine()))
    assert (found.name, found.device, found.day) == ("somewhere", "NVIDIA H200", "2000-01-01")
    assert found.torch == "2.11.0+synthetic" and not found.dry
    assert {entry.part for entry in found.entries} == {
        *("ceilings", "dispatch", "end-to-end", "figures", "decompose")
    }


def test_the_newest_result_of_an_item_counts(tmp_path: Path) -> None:
    old, new = gemm_result(CASE), gemm_result(CASE) | {"floor_us": 77.0}
    found = loaded(
        *(tmp_path, run(1), item("dispatch", FIELDS, 1, result=old)),
        *(run(2), item("dispatch", FIELDS, 2, result=new)),
    )
    (entry,) = found.entries
    assert entry.run == 2 and entry.number("floor_us") == 77.0


def test_an_error_that_later_succeeded_is_gone(tmp_path: Path) -> None:
    found = loaded(
        *(tmp_path, run(1), item("dispatch", FIELDS, 1, error="RuntimeError: no")),
        *(run(2), item("dispatch", FIELDS, 2, result=gemm_result(CASE))),
    )
    assert found.errors() == [] and len(found.results("dispatch")) == 1


def test_a_result_outlives_a_later_error(tmp_path: Path) -> None:
    found = loaded(
        *(tmp_path, run(1), item("dispatch", FIELDS, 1, result=gemm_result(CASE))),
        *(run(2), item("dispatch", FIELDS, 2, error="RuntimeError: no")),
    )
    assert found.errors() == []


def test_the_last_error_is_shown(tmp_path: Path) -> None:
    found = loaded(
        *(tmp_path, run(1), item("dispatch", FIELDS, 1, error="first")),
        *(run(2), item("dispatch", FIELDS, 2, error="second")),
    )
    (entry,) = found.errors()
    assert entry.error == "second"


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "here", [run(), *ceilings()])
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write('{"kind": "item", "run": 1, "par')
    assert len(load(folder).entries) == len(ceilings())


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "here", [run()])
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write("{nonsense}\n")
    with pytest.raises(SummaryError, match=r"records\.jsonl:2: not JSON"):
        load(folder)


def test_an_item_without_outcome_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SummaryError, match="an item without"):
        loaded(tmp_path, run(), item("dispatch", FIELDS))


def test_an_empty_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SummaryError, match="is empty; collect.py --resume fills it"):
        loaded(tmp_path)


def test_a_folder_without_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SummaryError, match="collect.py --out writes it"):
        load(tmp_path)


def test_a_rehearsal_is_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "here", [run(dry=True), *ceilings()])
    with pytest.raises(SummaryError, match="rehearsal"):
        load(folder)
    assert load(folder, dry=True).dry


def test_times_of_an_entry(tmp_path: Path) -> None:
    result = gemm_result(CASE) | {"cold": times(10.0, spread=4.0)}
    (entry,) = loaded(tmp_path, run(), item("dispatch", FIELDS, result=result)).entries
    cold = entry.times("cold")
    assert cold is not None and cold.spread == pytest.approx(4.0)
    assert entry.times("nothing") is None and entry.number("nothing") is None
