"""The folder of the demo model appears whole, or the one that was there stays."""

from pathlib import Path
from typing import Any

import pytest

from gacfx.demo import train, write
from tests import tiny


def written(out: Path) -> None:
    log: list[dict[str, Any]] = [{"step": 1}, {"settings": {}}]
    write.write_folder(out, tiny.llama(), tiny.tokenizer(), tiny.texts(2), tiny.texts(2), log)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_samples", lambda *_: "")
    monkeypatch.setattr(write, "_readme", lambda *_: "about")


def test_the_folder_is_written_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "model"
    written(out)
    files = {file.name: file for file in out.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json", "README.md"} <= files.keys()
    assert files["model.safetensors"].stat().st_mode == files["README.md"].stat().st_mode
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_an_error_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("old")
    monkeypatch.setattr(write, "held_out_loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_another_folder_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.setattr(train, "run", lambda *_: 1 / 0)
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main()
    assert "is not a folder of this model (it has no training_log.jsonl)" in capsys.readouterr().err
    (tmp_path / "training_log.jsonl").touch()
    with pytest.raises(ZeroDivisionError):
        train.main()
