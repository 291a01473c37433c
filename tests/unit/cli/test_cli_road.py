"""The command line on a tiny checkpoint: the road from a folder to a folder, and bad input."""

import json
import subprocess
import sys
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.calibration import evaluate
from gacfx.cli import main, passes
from tests import tiny


@pytest.fixture(scope="module")
def compressed(dense: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "small"
    assert run("compress", dense, "--calibration", text, "--ratio", "0.3", "--out", out) == 0
    return out


def run(*words: object) -> int:
    return main([str(w) for w in words])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The message of a command that must fail with 1, and print nothing else."""
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_compress_writes_a_whole_checkpoint(compressed: Path) -> None:
    names = {p.name for p in compressed.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert {p.name for p in (compressed / "plan").iterdir()} == {
        "plan.json",
        "factors.safetensors",
    }
    config = json.loads((compressed / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "gacfx"
    assert "import gacfx" in (compressed / "README.md").read_text()


def test_report_says_that_budget_and_alignment_hold(compressed: Path) -> None:
    report = json.loads((compressed / "gacfx_report.json").read_text())
    dense, ours = report["sides"]
    assert ours["targeted_params"] <= 0.7 * dense["targeted_params"]
    assert ours["aligned_dims"] == ours["changed_dims"] > 0


def test_compressed_folder_evaluates_like_a_dense_one(
    dense: Path, compressed: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for folder in (dense, compressed):
        assert run("eval", folder, "--text", text, "--json") == 0
        losses.append(json.loads(capsys.readouterr().out))
    assert {"nats_per_token", "perplexity", "tokens"} <= losses[0].keys()
    assert losses[0]["tokens"] == losses[1]["tokens"] > 200
    assert losses[0]["nats_per_token"] != losses[1]["nats_per_token"]


def test_inspect_shows_the_factors_of_a_compressed_folder(
    compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", compressed, "--json", "--seq", "32") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert any(r["name"].endswith(".coefficients") for r in rows)
    assert any("already factorized" in r["note"] for r in rows)


def test_dry_run_writes_nothing(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none"
    assert run("compress", dense, "--calibration", text, "--dry-run", "--out", out) == 0
    assert not out.exists()
    assert "proven optimal" in capsys.readouterr().out


def test_plan_prints_and_saves_the_same_plan(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", dense, "--calibration", text, "--json", "--out", tmp_path / "p") == 0
    assert capsys.readouterr().out == (tmp_path / "p" / "plan.json").read_text()


def test_plan_of_a_configuration_states_that_its_spectrum_is_made_up(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", dense / "config.json", "--synthetic", "0.5") == 0
    assert "synthetic" in capsys.readouterr().out


def test_existing_folder_is_refused_and_kept(
    dense: Path, text: Path, compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (compressed / "config.json").read_bytes()
    message = refused(capsys, "compress", dense, "--calibration", text, "--out", compressed)
    assert "exists" in message
    assert (compressed / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("ratio", "says"),
    [("20", "0.2"), ("-0.1", "ratio"), ("nan", "ratio"), ("1", "ratio"), ("half", "ratio")],
)
def test_ratio_out_of_range_is_refused(
    ratio: str, says: str, dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(
        capsys, "plan", dense, "--calibration", text, f"--ratio={ratio}", "--value", "fisher"
    )
    assert says in message


def test_budget_below_the_minimum_names_the_reachable_ratio(
    dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "plan", dense, "--calibration", text, "--ratio", "0.99")
    assert "largest reachable ratio" in message
    reachable = message.split()[-1]
    assert run("plan", dense, "--calibration", text, "--ratio", reachable) == 0


def test_text_without_documents_is_refused(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text("")
    short.write_text("too short\n\nthis too\n")
    assert "no text" in refused(capsys, "plan", dense, "--calibration", empty)
    assert "33 tokens" in refused(capsys, "plan", dense, "--calibration", short)
    assert "no such file" in refused(capsys, "plan", dense, "--calibration", tmp_path / "no.txt")


def test_pickle_checkpoint_is_refused(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((dense / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "safetensors" in refused(capsys, "eval", tmp_path, "--text", text)


def test_truncated_weights_are_refused(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((dense / "config.json").read_bytes())
    weights = (dense / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors" in refused(capsys, "eval", tmp_path, "--text", text)


def test_weights_that_are_not_finite_are_named(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    message = refused(capsys, "plan", tmp_path, "--calibration", text)
    assert "layers.1.mlp.up_proj" in message


def test_tokens_outside_the_vocabulary_are_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.checkpoint(tmp_path, vocab_size=40)
    assert "vocabulary" in refused(capsys, "plan", tmp_path, "--calibration", text)


def test_skipped_weights_stay_dense_and_say_why(
    dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", dense, "--calibration", text, "--json", "--skip", "*.down_proj") == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert not any(c["group"].endswith("down_proj") for c in plan["choices"])
    assert "skip" in plan["refusals"]["model.layers.0.mlp.down_proj"]


def test_wrong_use_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("inspect")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "gacfx inspect: the following arguments are required: model; see gacfx inspect --help\n"
    )


def test_a_stopped_command_exits_with_130_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(passes, "run", stop)
    assert run("passes") == 130
    assert capsys.readouterr().err == "gacfx passes: stopped\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            "out of memory: CUDA out of memory.",
        ),
        (RuntimeError("can't allocate memory: 9 bytes"), "out of memory: can't allocate memory: "),
    ],
)
def test_a_full_memory_is_said_in_one_line(
    error: Exception,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: object) -> int:
        raise error

    monkeypatch.setattr(passes, "run", full)
    assert run("passes") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gacfx passes: {said}")


def test_other_errors_of_torch_are_not_taken_for_a_full_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(_: object) -> int:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(passes, "run", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("passes")


def test_a_reader_that_went_away_ends_a_command_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: object) -> int:
        raise BrokenPipeError

    shut = StringIO()
    monkeypatch.setattr(passes, "run", gone)
    monkeypatch.setattr(sys, "stderr", shut)
    assert run("passes") == 1
    assert shut.closed


def test_the_package_can_be_run_by_its_name() -> None:
    command = [sys.executable, "-m", "gacfx", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"gacfx {gacfx.__version__}\n"


def test_passes_lists_every_pass_and_the_default_pipeline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("passes", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    names = {p["name"] for p in shown["passes"]}
    steps = {s.partition("{")[0] for s in shown["default"].split(",")}
    assert steps <= names
    assert {"factorize", "couple-dims", "check-budget"} <= steps


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "MODEL", "--dot"],
        ["plan", "MODEL"],
        ["plan", "MODEL", "--synthetic", "0.5", "--out", "somewhere"],
        ["compress", "MODEL", "--calibration", "TEXT"],
        ["compress", "MODEL", "--out", "somewhere"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_exit_with_2(
    words: list[str], dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"MODEL": str(dense), "TEXT": str(text)}
    assert run(*(names.get(w, w) for w in words)) == 2
    assert capsys.readouterr().err.startswith(f"gacfx {words[0]}: ")


def test_a_compressed_checkpoint_is_not_compressed_again(
    compressed: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "compress", compressed, "--calibration", text, "--out", tmp_path)
    assert "already" in message


def test_skip_that_matches_nothing_is_refused(
    dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "plan", dense, "--calibration", text, "--skip", "*.no_such")
    assert "*.no_such" in message
    everything = refused(capsys, "plan", dense, "--synthetic", "0.5", "--skip", "*")
    assert "no weight can be compressed" in everything


def test_alignment_above_every_break_even_is_named(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", dense, "--synthetic", "0.5")
    why = "Nothing can be made smaller: no rank in steps of 4096 (align 4096) is below break-even"
    assert why in refused(capsys, *words, "--align", "4096")
    why = "no rank in steps of 8000 (align 4000, tp 2) is below break-even; loosen align, tp,"
    assert why in refused(capsys, *words, "--align", "4000", "--tp", "2")


def test_made_up_decay_must_be_positive(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "decay" in refused(capsys, "plan", dense, "--synthetic=-1")


def test_demo_ratio_is_checked_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ratio 20" in refused(capsys, "demo", "--ratio", "20")


@pytest.mark.parametrize("package", ["gacfx", "gacfx.cli"])
def test_the_package_and_its_command_line_run_as_modules_under_one_name(package: str) -> None:
    command = [sys.executable, "-m", package, "plan", "--no-such-option"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gacfx: unrecognized arguments: --no-such-option; see gacfx --")


def test_eval_says_in_one_line_that_a_text_has_a_token_without_probability(
    dense: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate.Evaluation(inf, inf, 3, problem="document 0 has the token id 7")
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: found)
    assert "document 0 has the token id 7" in refused(capsys, "eval", dense, "--text", text)
