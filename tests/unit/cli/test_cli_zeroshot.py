"""``gacfx eval --tasks`` on tiny checkpoints: the table, the JSON, and bad input in one line.

A stand-in for lm-eval scores; the real one has its tests in tests/unit/zeroshot.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import gacfx
from gacfx.cli import main
from gacfx.zeroshot import harness
from tests import tiny
from tests.unit.zeroshot import stand_in


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(
        tmp_path_factory.mktemp("models") / "dense", layers=1, initializer_range=0.3
    )


@pytest.fixture(scope="module")
def small(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "small"
    model, tokenizer = gacfx.load(dense)
    made = gacfx.compress(model, tokenizer, calibration=tiny.texts(), ratio=0.4, force=True)
    return gacfx.save(made, out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("piqa", 20), ("arc_easy", 12), ("hellaswag_30", 30)):
        lines = [
            {"query": item.query, "choices": item.choices, "gold": item.gold}
            for item in stand_in.items(count, 4)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(autouse=True)
def _scored_by_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "lm_eval", stand_in.tools)
    monkeypatch.setattr(harness, "check_installed", lambda: None)
    monkeypatch.setattr(harness, "harness_name", lambda: "stand-in 1")


def run(*words: object) -> int:
    try:
        return main(["eval", *(str(word) for word in words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """The one line of a command that must fail, and print nothing else."""
    assert run(*words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("gacfx eval: ")
    return printed.err.removeprefix("gacfx eval: ").rstrip()


def test_the_table_has_every_task_and_their_mean(
    dense: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dense, "--tasks", "piqa, hellaswag", "--task-data", data, "--limit", 25) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "dense, zero-shot, stand-in 1"
    assert lines[1].split() == ["task", "items", "chance", "acc", "acc_norm"]
    assert lines[2].split()[:3] == ["piqa", "20", "0.250"]
    assert lines[3].split()[:5] == ["hellaswag", "25", "of", "30", "0.250"]
    assert lines[4].split()[:2] == ["mean", "0.250"]
    assert lines[5:] == ["", "± one standard error"]
    assert printed.err == ""


def test_a_compressed_folder_is_compared_with_the_dense_one(
    dense: Path, small: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (small, "--against", dense, "--tasks", "piqa,arc_easy", "--task-data", data)
    assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "small against dense, zero-shot, stand-in 1"
    sides = [line.split()[-7] for line in lines[2:11]]
    assert sides == ["dense", "this", "change"] * 3
    assert run(*words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["model"]["name"], found["dense"]["name"]) == ("small", "dense")
    assert found["data"] == str(data)
    for name in ("piqa", "arc_easy"):
        ours, theirs, change = (found[side]["tasks"][name] for side in ("model", "dense", "change"))
        assert change["acc"] == pytest.approx(ours["acc"] - theirs["acc"])
    assert found["model"]["tasks"] != found["dense"]["tasks"]


def test_json_of_one_model_is_what_python_finds(
    dense: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dense, "--tasks", "arc_easy", "--task-data", data, "--json", "--batch", 2) == 0
    found = json.loads(capsys.readouterr().out)
    from gacfx.zeroshot import read_tasks, score

    scores = score(*gacfx.load(dense), read_tasks(["arc_easy"], data), name="dense")
    assert found["model"] == scores.to_dict()
    assert found["dense"] is found["change"] is None


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--tasks", "mmlu"), 1, "no task 'mmlu'; known: arc_challenge, arc_easy, hellaswag, piqa"),
        (("--tasks", "piqa,"), 1, "no task ''; known: "),
        (("--tasks", "arc_challenge"), 1, "has no arc_challenge.jsonl; each line is {"),
        (("--tasks", "piqa", "--limit", "0"), 2, "--limit: 0 is not at least 1"),
        (("--tasks", "piqa", "--limit", "-5"), 2, "--limit: -5 is not at least 1"),
        (("--tasks", "piqa", "--limit", "ten"), 2, "--limit: 'ten' is not a whole number"),
        (("--tasks", "piqa", "--batch", "0"), 2, "--batch: 0 is not at least 1"),
        (("--tasks", "piqa", "--device", "toaster"), 1, "device 'toaster': give cpu or cuda"),
        (("--tasks", "piqa", "--tokens", "500k"), 2, "--tokens: goes with --text; see --limit"),
    ],
)
def test_bad_words_are_refused_before_the_model_is_read(
    words: tuple[str, ...],
    code: int,
    message: str,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = refused(capsys, code, "/no/such/model", "--task-data", data, *words)
    assert message in said and "/no/such/model" not in said


def test_text_and_tasks_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not allowed with" in refused(capsys, 2, "small", "--tasks", "piqa", "--text", "a.txt")
    assert "--text --tasks is required" in refused(capsys, 2, "small")
    words = ("small", "--text", "a.txt", "--limit", "3", "--task-data", "x")
    assert refused(capsys, 2, *words) == "--task-data, --limit: goes with --tasks"


def test_data_that_cannot_be_read_is_refused_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("/no/such/model", "--tasks", "piqa", "--task-data", tmp_path)
    (tmp_path / "piqa.jsonl").write_text('{"query": "a", "choices": ["b", "c"], "gold": 0}\n{"que')
    assert refused(capsys, 1, *words).startswith(f"{tmp_path / 'piqa.jsonl'}:2: not JSON (")
    (tmp_path / "piqa.jsonl").write_text("")
    assert refused(capsys, 1, *words).endswith("it is empty; write it again")
    assert "no such folder" in refused(capsys, 1, *words[:-1], tmp_path / "none")


def test_a_folder_that_is_no_checkpoint_is_refused(
    dense: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--tasks", "piqa", "--task-data", data)
    assert "has no config.json" in refused(capsys, 1, tmp_path, *words)
    assert "there is no such folder" in refused(capsys, 1, tmp_path / "none", *words)
    assert "has no config.json" in refused(capsys, 1, dense, "--against", tmp_path, *words)


def test_a_model_without_tokenizer_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.llama(layers=1).save_pretrained(tmp_path)
    said = refused(capsys, 1, tmp_path, "--tasks", "piqa", "--task-data", data)
    assert said == f"{tmp_path}: has no tokenizer, and tasks are text; copy its files"


def test_data_sets_that_cannot_be_had_are_said_in_one_line(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, 1, dense, "--tasks", "piqa")
    assert said.startswith("piqa: its data set cannot be had (ConnectionError: no route to ")


def test_without_lm_eval_it_says_what_to_install(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    said = refused(capsys, 1, "/no/such/model", "--tasks", "piqa", "--task-data", data)
    assert said == 'zero-shot tasks need lm-eval: pip install "lm-eval[hf]"'
