import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.gpu import summarise
from benchmarks.gpu.llama import variants
from benchmarks.gpu.llama.cells import GRID, cells
from benchmarks.gpu.parts.figures import Figures
from benchmarks.gpu.summary import ranking
from benchmarks.gpu.summary.pages import index, page
from benchmarks.gpu.summary.records import load
from gacfx.hardware.measure.cases.attention import Attention
from gacfx.hardware.measure.cases.gemm import Gemm
from gacfx.hardware.measure.journal import FILE
from gacfx.hardware.measure.part import Rates, Setting
from gacfx.hardware.measure.parts.dispatch import Dispatch, read_extra
from gacfx.hardware.measure.times import Times
from gacfx.hardware.measure.timing import HostTimer
from tests.unit.benchmarks_gpu import synthetic

SETTING = Setting(HostTimer(), Rates())
ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# -- the pages of the project ----------------------------------------------------------------------


def test_the_committed_index_is_what_the_records_say() -> None:
    machines = [load(folder) for folder in summarise.committed()]
    assert (ROOT / "docs/results/README.md").read_text(encoding="utf-8") == index(machines)


def test_the_committed_pages_are_what_the_records_say() -> None:
    for folder in summarise.committed():
        records = load(folder)
        written = ROOT / "docs/results" / records.name / "README.md"
        assert written.read_text(encoding="utf-8") == page(records)


def test_links_of_the_index_lead_somewhere() -> None:
    assert (ROOT / "docs/results/../../benchmarks/gpu/README.md").is_file()
    assert "](../../benchmarks/gpu/README.md)" in index([])


# -- the command -----------------------------------------------------------------------------------


def test_a_folder_becomes_a_page_and_an_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = synthetic.write(tmp_path / "some-gpu", synthetic.machine())
    assert summarise.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    written = files(tmp_path / "out")
    assert sorted(written) == ["README.md", "some-gpu/README.md"]
    assert written["some-gpu/README.md"].decode() in capsys.readouterr().out


def test_pages_are_the_same_bytes_twice(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "some-gpu", synthetic.machine())
    for name in ("one", "two"):
        assert summarise.main([str(folder), "--out", str(tmp_path / name)]) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ([synthetic.run(dry=True)], "rehearsal (collect.py --dry), which measures nothing"),
        ([], "is empty; collect.py --resume fills it"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_written(
    tmp_path: Path,
    records: list[synthetic.Record],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = synthetic.write(tmp_path / "here", records)
    assert summarise.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_rehearsal_is_taken_if_asked_for(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "here", [synthetic.run(dry=True)])
    assert summarise.main([str(folder), "--out", str(tmp_path / "out"), "--dry"]) == 0
    assert b"> - A rehearsal" in files(tmp_path / "out")["here/README.md"]


def test_one_bad_folder_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = synthetic.write(tmp_path / "good", synthetic.machine())
    assert summarise.main([str(tmp_path), str(good), "--out", str(tmp_path / "out")]) == 2
    assert "(good/README.md)" in files(tmp_path / "out")["README.md"].decode()
    assert "has no records.jsonl" in capsys.readouterr().err


def test_two_folders_of_one_name_are_not_mixed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (synthetic.write(tmp_path / n / "gpu", [synthetic.run()]) for n in ("a", "b"))
    assert summarise.main([str(first), str(second), "--out", str(tmp_path / "out")]) == 2
    assert "another folder is named gpu; rename one" in capsys.readouterr().err


def test_a_rehearsal_never_comes_among_the_projects_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        summarise.main([str(tmp_path), "--dry"])
    assert stop.value.code == 2 and "give --out" in capsys.readouterr().err


def test_the_index_of_the_project_forgets_no_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = synthetic.write(tmp_path / "results/own", [synthetic.run()])
    other = synthetic.write(tmp_path / "other", [synthetic.run()])
    out = tmp_path / "pages"
    monkeypatch.setattr(summarise, "PAGES", out)
    monkeypatch.setattr(summarise, "committed", lambda: [own])
    assert summarise.main([str(other), "--out", str(out)]) == 0
    assert sorted(files(out)) == ["README.md", "other/README.md", "own/README.md"]
    assert summarise.main([str(other), "--out", str(tmp_path / "elsewhere")]) == 0
    assert sorted(files(tmp_path / "elsewhere")) == ["README.md", "other/README.md"]


def test_folders_with_records_are_found(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "b", [])
    synthetic.write(tmp_path / "a", [])
    (tmp_path / "no-records").mkdir()
    (tmp_path / FILE).touch()
    assert summarise.committed(tmp_path) == [tmp_path / "a", tmp_path / "b"]


def test_it_runs_as_a_file_from_anywhere_and_needs_no_torch(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "here", synthetic.machine()[:40])
    script = ROOT / "benchmarks/gpu/summarise.py"
    block = "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None; import runpy; "
    block += f"sys.argv = ['x', {str(folder)!r}, '--out', {str(tmp_path / 'out')!r}]; "
    block += f"sys.path[0] = {str(script.parent)!r}; "
    block += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    command = [sys.executable, "-I", "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/here/README.md").is_file()


# -- what the collector measures is what the pages know --------------------------------------------


def test_private_shapes_get_the_rule_that_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "extra.json"
    path.write_text('[{"op": "gemm", "m": 8, "n": 8, "k": 8}]', encoding="utf-8")
    assert read_extra(path)[0].rule == ranking.HELD_OUT
    assert ranking.HELD_OUT not in {item.rule for item in Dispatch(SETTING).items()}


def test_synthetic_records_have_the_collectors_fields() -> None:
    assert asdict(Gemm(1, 2, 3)) == synthetic.gemm_case(1, 3, 2)
    assert asdict(Attention(64)) == synthetic.attention_case(64)
    item = synthetic.model_item("dense", 1.0)["item"]
    assert item.keys() == asdict(cells(GRID)[0]).keys()
    assert set(synthetic.VARIANTS) == set(variants.NAMES)
    assert {r["item"]["figure"] for r in synthetic.figures()} <= {
        point.figure for point in Figures(SETTING).items()
    }
    assert Times(**synthetic.times(1.0)).runs == 10
