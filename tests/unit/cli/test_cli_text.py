"""How much text is used: the head line of every command that reads text, and its options."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx import api
from gacfx.calibration.text import Corpus
from gacfx.cli import main
from gacfx.errors import CalibrationError
from tests import tiny

LONG = "  ".join(tiny.texts())[:690]
"""With <s> 691 tokens: 7 windows of 96, the positions of the tiny model, and 19 tokens more."""
LINE = "672 of 697 tokens in 7 windows; 1 document and 1 end of documents under 33 tokens left out"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One document of several windows, and one that is too short."""
    path = tmp_path_factory.mktemp("text") / "long.jsonl"
    path.write_text("\n".join(json.dumps(text) for text in (LONG, "short")))
    return path


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_plan_says_above_the_plan_how_much_text_is_used(
    dense: Path, long: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", dense, "--calibration", long, "--value", "fisher")
    assert run(*words) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"calibration: {LINE}"
    assert run(*words, "--calibration-tokens", "192", "--json") == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("calibration: 192 of about 69")
    provenance = json.loads(printed.out)["provenance"]
    assert provenance["calibration_tokens"] == 192


def test_compress_says_it_too(
    dense: Path, long: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compress", dense, "--calibration", long, "--value", "fisher")
    assert run(*words, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"calibration: {LINE}"
    assert run(*words, "--json", "--out", tmp_path / "small") == 0
    printed = capsys.readouterr()
    assert f"calibration: {LINE}" in printed.err.splitlines()
    assert json.loads(printed.out)["sides"]
    plan = json.loads((tmp_path / "small" / "plan" / "plan.json").read_text())
    corpus = api.read_calibration(long, tiny.llama(), tiny.tokenizer())
    assert plan["provenance"]["calibration_tokens"] == corpus.tokens == 672
    assert plan["provenance"]["calibration_digest"] == corpus.digest


def test_eval_uses_all_text_unless_told_otherwise(
    dense: Path, long: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", dense, "--text", long) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"evaluation: {LINE}"
    assert lines[2] == f"over {672 - 7} tokens, all but the first of each window"
    assert run("eval", dense, "--text", long, "--tokens", "192", "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["text"].startswith("evaluation: 192 of about 69")
    assert (found["used_tokens"], found["windows"], found["tokens"]) == (192, 2, 190)
    assert (found["given_is"], found["skipped"], found["ends"]) == ("about", 0, 0)
    assert found["given_tokens"] >= 691


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--calibration-tokens", "20"), "tokens 20: one window has at least 33; ask for more"),
        (("--calibration-tokens", "many"), "tokens 'many': not a number such as 500k or all"),
        (("--calibration-tokens", "0"), "tokens 0: must be at least 1"),
    ],
)
def test_a_number_of_tokens_that_cannot_be_exits_with_2_in_one_line(
    words: tuple[str, ...], message: str, long: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("plan", "/no/such/model", "--calibration", long, *words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_tokens_without_text_exit_with_2(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", dense, "--synthetic", "0.5", "--calibration-tokens", "500k")
    assert run(*words) == 2
    assert "reads no text" in capsys.readouterr().err
    assert run("plan", "--curves", "curves.safetensors", "--calibration-tokens", "500k") == 2
    assert "leave out --calibration-tokens" in capsys.readouterr().err


def test_a_bad_text_is_refused_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("plan", "/no/such/model", "--calibration", tmp_path),
        ("compress", "/no/such/model", "--out", tmp_path / "out", "--calibration", tmp_path),
        ("eval", "/no/such/model", "--text", tmp_path),
    ):
        assert run(*words) == 1
        printed = capsys.readouterr()
        assert f"{tmp_path}: is a folder" in printed.err
        assert printed.out == "" and printed.err.count("\n") == 1


def test_doors_take_as_many_tokens_as_they_are_told() -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    few = api.read_calibration([LONG], model, tokenizer, calibration_tokens="0.2k")
    assert [len(ids_T) for ids_T in few.documents] == [96, 96]
    study = api.calibrate(model, tokenizer, calibration=[LONG], calibration_tokens=200)
    assert study.full.statistics.tokens == 192
    assert study.full.statistics.text_digest == few.digest


def test_the_default_is_256_windows() -> None:
    found = api.read_calibration([LONG * 40], tiny.llama(), tiny.tokenizer())
    assert (found.tokens, len(found.documents)) == (256 * 96, 256)
    all_of_it = api.read_calibration([LONG * 40], tiny.llama(), tiny.tokenizer(), "all")
    assert all_of_it.tokens == all_of_it.given == 1 + 690 * 40


def test_a_corpus_is_not_cut_again() -> None:
    corpus = Corpus((torch.arange(40), torch.arange(50)))
    assert api.read_calibration(corpus, tiny.llama(), None) is corpus
    with pytest.raises(CalibrationError, match="a Corpus has its tokens already; leave it out"):
        gacfx.plan(tiny.llama(), calibration=corpus, calibration_tokens=99)
