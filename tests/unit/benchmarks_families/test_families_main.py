"""Which types are run again, and that unknown ones are refused."""

import json
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.families.__main__ import known, main, write


def test_types_of_the_same_code_and_versions_are_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "families.json"
    write([{"name": "llama", "commit": "a"}, {"name": "gpt2", "commit": "b"}], out)
    rows, current = known(out, "a")
    assert list(rows) == ["llama", "gpt2"] and current == {"llama"}
    assert known(out, None)[1] == set(), "the code has changes that no commit names"
    found = json.loads(out.read_text())
    out.write_text(json.dumps({**found, "versions": {"torch": "0.1"}}))
    rows, current = known(out, "a")
    assert current == set()
    write([*rows.values(), {"name": "opt", "commit": "a"}], out)  # cut off after the first type
    assert known(out, "a")[1] == {"opt"}, "the others are of other versions"
    assert known(tmp_path / "none.json", "a") == ({}, set())


def test_the_last_commit_is_that_of_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"status": "", "log": "1234"}
    monkeypatch.setattr(record, "_git", lambda *words: said[words[0]])
    assert record.last_commit("gacfx", "passes") == "1234"
    said["status"] = " M gacfx/api.py"
    assert record.last_commit("gacfx", "passes") is None


def test_an_unknown_type_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--types", "llama", "lama"])
    assert "no such type: lama" in capsys.readouterr().err
