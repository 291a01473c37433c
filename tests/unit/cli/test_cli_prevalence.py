"""``gacfx prevalence``: tables, JSON, a picture, and bad input in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

import gacfx
from gacfx.cli import main
from gacfx.report.drawing import can_draw
from tests import tiny


def run(*words: object) -> int:
    try:
        return main(["prevalence", *(str(word) for word in words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    assert run(*words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("gacfx prevalence: ")
    return printed.err.removeprefix("gacfx prevalence: ").rstrip()


def test_the_tables(narrow: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(narrow, "--calibration", text, "--ratios", "0.2", "0.4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("calibration: ")
    assert lines[1].startswith("irregular ranks of narrow, 14 weights of ")
    assert lines[2].split() == [
        *("proxy", "step", "mean", "worst", "best", "of", "flops", "printed")
    ]
    firsts = [line.split()[0] for line in lines[3:11:2]]
    assert firsts == ["magnitude", "activation", "fisher", "gradient"]
    assert lines[3].endswith("60.8% (29.0%-70.1%)")
    assert lines[13].split() == ["proxy", "0.2", "0.4", "at", "break-even"]


def test_weights_alone(narrow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(narrow, "--json", "--ratios", "0.3", "--normalize", "none") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert list(found["proxies"]) == ["magnitude"]
    assert (found["calibration_tokens"], found["normalize"]) == (0, "none")
    model, tokenizer = gacfx.load(narrow)
    from gacfx.prevalence import prevalence

    again = prevalence(model, tokenizer, ratios=["0.3"], normalize="none", name="narrow")
    assert found == json.loads(json.dumps(again.to_dict()))


def test_a_work_folder_serves_again(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (narrow, "--calibration", text, "--work", tmp_path / "work", "--json")
    assert run(*words) == 0
    first = capsys.readouterr().out
    assert run(*words) == 0
    assert capsys.readouterr().out == first
    assert run(narrow, "--calibration", text, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(first)


@pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")
def test_a_plot_is_written_and_not_over_another(
    narrow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "ranks.svg"
    assert run(narrow, "--ratios", "0.2", "--plot", plot) == 0
    assert capsys.readouterr().out.endswith(f"wrote {plot}\n")
    before = plot.read_text()
    assert "<svg" in before
    assert "exists; allow overwrite" in refused(capsys, 1, "/no/model", "--plot", plot)
    assert run(narrow, "--ratios", "0.4", "--plot", plot, "--overwrite", "--json") == 0
    json.loads(capsys.readouterr().out)
    assert plot.read_text() != before
    assert "written as .svg or .png" in refused(capsys, 1, narrow, "--plot", tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--proxies", "gold"), 1, "no proxy 'gold'; known: magnitude, activation"),
        (("--proxies", "fisher"), 1, "fisher: needs activations or gradients on a text"),
        (("--ratios", "1.2"), 1, "ratio 1.2: is no share between 0 and 1"),
        (("--ratios", "20%"), 1, "ratio 20%: not a number such as 0.2"),
        (("--normalize", "size"), 2, "invalid choice: 'size'"),
        (("--seed", "3", "--work", "w"), 2, "--seed, --work: goes with --calibration"),
        (("--calibration-tokens", "4k"), 2, "--calibration-tokens: goes with --calibration"),
        (
            ("--calibration", "a.txt", "--disk", "1GB"),
            2,
            "--disk goes with the folder of --work; name one",
        ),
    ],
)
def test_bad_words_are_refused_before_the_model_is_read(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, code, "/no/such/model", *words)
    assert message in said and "/no/such/model" not in said


def test_models_without_weights_are_refused(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, 1, "llama-3-8b")
    assert "llama-3-8b: is a configuration, and importance is that of weights; name a" in said
    assert "is a configuration" in refused(capsys, 1, narrow / "config.json")
    (tmp_path / "config.json").write_text((narrow / "config.json").read_text())
    assert "has no model.safetensors" in refused(capsys, 1, tmp_path)
    assert "there is no such folder" in refused(capsys, 1, tmp_path / "none")
    assert "no such file" in refused(capsys, 1, narrow, "--calibration", tmp_path / "a.txt")
    tiny.llama(layers=1).save_pretrained(tmp_path / "mute")
    words = (tmp_path / "mute", "--calibration", text)
    assert "needs the model's tokenizer" in refused(capsys, 1, *words)
