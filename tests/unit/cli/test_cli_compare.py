"""``gacfx eval --compare`` on tiny checkpoints, windows that overlap, and bad input in one line."""

import json
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
    model, tokenizer = gacfx.load(dense)
    made = gacfx.compress(model, tokenizer, calibration=tiny.texts(), ratio=0.4, force=True)
    return gacfx.save(made, tmp_path_factory.mktemp("models") / "small")


def run(*words: object) -> int:
    try:
        return main(["eval", *(str(word) for word in words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def printed_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert run(*words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    assert run(*words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("gacfx eval: ")
    return printed.err.removeprefix("gacfx eval: ").rstrip()


def test_the_table(
    dense: Path, small: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dense, "--compare", small, "--text", text, "--window", 64, "--stride", 16) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("evaluation: ")
    assert lines[1] == "2 models against dense, window 64, stride 16"
    assert lines[2].split() == [
        *("model", "params", "weights", "nats/token", "perplexity", "change", "KL", "to", "it")
    ]
    assert [line.split()[0] for line in lines[3:5]] == ["dense", "small"]
    assert lines[6].endswith(
        "tokens, each with at least 48 before it, in the first window of a document with what "
        "there is"
    )


@pytest.mark.parametrize("form", ["model first", "options first", "all behind", "against"])
def test_the_model_may_stand_before_or_behind(
    form: str, dense: Path, small: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: dict[str, tuple[object, ...]] = {
        "model first": (dense, "--compare", small, "--text", text),
        "options first": ("--text", text, dense, "--compare", small),
        "all behind": ("--text", text, "--compare", dense, small),
        "against": ("--compare", small, "--against", dense, "--text", text),
    }
    found = printed_json(capsys, *words[form])
    assert [model["name"] for model in found["models"]] == ["dense", "small"]
    assert found["against"] == "dense"
    assert found["models"][1]["text"]["kl"]["mean"] > 0


def test_losses_agree_with_those_of_one_model(
    dense: Path, small: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = ("--text", text, "--window", 48, "--stride", 12)
    both = printed_json(capsys, "--compare", dense, small, *cut)
    for model, folder in zip(both["models"], (dense, small), strict=True):
        alone = printed_json(capsys, folder, *cut)
        assert alone["nats_per_token"] == pytest.approx(model["text"]["nats_per_token"], rel=1e-6)
        assert alone["stderr"] == pytest.approx(model["text"]["stderr"], rel=1e-4)
        assert (alone["window"], alone["stride"], alone["text"]) == (48, 12, both["text"])
        assert alone["tokens"] == alone["used_tokens"] - 8  # the first one of each document


def test_a_window_alone_does_not_overlap(
    dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = printed_json(capsys, dense, "--text", text)
    window = printed_json(capsys, dense, "--text", text, "--window", 96)
    assert window["nats_per_token"] == pytest.approx(plain["nats_per_token"], rel=1e-6)
    assert (window["tokens"], window["stride"]) == (plain["tokens"], 96)
    assert run(dense, "--text", text, "--window", 48, "--stride", 12) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ± " in lines[1] and " windows)   perplexity " in lines[1]
    assert "each with at least 36 before it" in lines[2]


def test_tasks_and_text_go_together_where_models_are_compared(
    dense: Path,
    small: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(harness, "lm_eval", stand_in.tools)
    monkeypatch.setattr("gacfx.comparison.side_by_side.check_installed", lambda: None)
    monkeypatch.setattr("gacfx.comparison.side_by_side.harness_name", lambda: "stand-in 1")
    for name in ("piqa", "arc_easy"):
        lines = [
            {"query": item.query, "choices": item.choices, "gold": item.gold}
            for item in stand_in.items(12, 4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--compare", dense, small, "--tasks", "piqa,arc_easy", "--task-data", tmp_path)
    found = printed_json(capsys, *words, "--text", text, "--limit", 8)
    assert found["data"] == str(tmp_path) and found["harness"] == "stand-in 1"
    for model in found["models"]:
        assert model["text"]["tokens"] > 0
        assert model["zero_shot"]["tasks"]["piqa"]["items"] == 8
    assert set(found["models"][1]["zero_shot"]["change"]) == {"piqa", "arc_easy"}
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "zero-shot acc, stand-in 1" in shown and "zero-shot acc_norm, stand-in 1" in shown
    assert "nats/token" not in shown


def test_a_broken_model_exits_with_1(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.llama(layers=1)
    model.model.norm.weight.data.fill_(3e38)
    model.lm_head.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path / "broken")
    tiny.tokenizer().save_pretrained(tmp_path / "broken")
    assert run("--compare", dense, tmp_path / "broken", "--text", text) == 1
    shown = capsys.readouterr().out
    assert "broken: the model's logits are NaN or infinite on document" in shown
    assert run(tmp_path / "broken", "--text", text, "--window", "40") == 1
    assert "logits are NaN or infinite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--compare", "a", "b"), "one of --text --tasks is required"),
        (("--text", "a.txt"), "name a model, or several behind --compare"),
        (("m", "--text", "a.txt", "--against", "b"), "--against: goes with --tasks"),
        (("m", "--text", "a.txt", "--stride", "8"), "--stride: goes with --window; name both"),
        (("m", "--text", "a.txt", "--window", "20"), "--window 20: one has at least 33 tokens"),
        (
            ("m", "--text", "a.txt", "--window", "64", "--stride", "65"),
            "--stride 65: give 1 .. 64, the window; a larger one leaves out tokens",
        ),
        (("m", "--tasks", "piqa", "--window", "64"), "--window, --stride: go with --text"),
        (
            ("--compare", "a", "b", "--text", "a.txt", "--limit", "3"),
            "--limit: goes with --tasks",
        ),
        (
            ("--compare", "a", "b", "--tasks", "piqa", "--tokens", "1k"),
            "--tokens: goes with --text; see --limit",
        ),
    ],
)
def test_options_that_do_not_go_together(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, 2, *words) == message


def test_bad_checkpoints_and_texts_in_one_line(
    dense: Path, small: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--compare", dense, "--text", text), "a comparison needs at least two checkpoints"),
        ((dense, "--compare", small, small, "--text", text), "named twice; leave one out"),
        ((dense, "--compare", "./none", "--text", text), "none: there is no such folder"),
        ((dense, "--compare", tmp_path, "--text", text), "has no config.json"),
        ((dense, "--compare", small, "--text", tmp_path / "a.txt"), "no such file"),
        ((dense, "--compare", small, "--text", text, "--window", 97), "dense has 96 positions"),
    ]
    for words, message in cases:
        assert message in refused(capsys, 1, *words)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "holds no text" in refused(capsys, 1, dense, "--compare", small, "--text", empty)
