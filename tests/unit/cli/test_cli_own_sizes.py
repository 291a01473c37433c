"""``--sizes own``: carried out by the commands, and refused beside what would be searched."""

import json
from pathlib import Path

import pytest

from gacfx.cli import main
from gacfx.core.own_sizes import is_own
from gacfx.core.planned import Planned

OWN = ("--sizes", "own", "--ratio", "0.3", "--method", "svd-llm-v2", "--force", "--max-loss", "9")


def test_a_checkpoint_of_own_sizes_and_its_report(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(narrow), "--calibration", str(text), *OWN]
    out, work = tmp_path / "small", tmp_path / "work"
    assert main(["compress", *words, "--out", str(out), "--work", str(work)]) == 0
    said = capsys.readouterr().out
    plan = Planned.load(out / "plan").plan
    good = sum(rank % 8 == 0 for rank in plan.ranks.values())
    assert is_own(plan) and plan.decisions
    assert "svd-llm-v2, own sizes" in said and "ranks as they fall" in said
    assert f"not planned: {good} of {len(plan.ranks)} changed dims aligned" in said
    assert "loss on held-back text, nats/token: dense" in said
    again = ["--out", str(tmp_path / "again"), "--work", str(work), "--resume"]
    assert main(["compress", *words, *again]) == 0
    for name in ("model.safetensors", "plan/plan.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    capsys.readouterr()
    assert main(["compress", *words, "--work", str(work), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"] == json.loads(plan.to_json())["choices"]
    assert main(["plan", "--work", str(work), "--ratio", "0.3"]) == 0  # planned, of the same curves
    assert "own sizes" not in capsys.readouterr().out


def test_plan_shows_them_and_writes_the_factors(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(narrow), "--calibration", str(text), *OWN[:-2]]
    assert main([*words, "--out", str(tmp_path / "plan")]) == 0
    made = Planned.load(tmp_path / "plan")
    assert is_own(made.plan) and made.factors.keys() == made.plan.decisions.keys()
    assert "own sizes of svd-llm-v2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--align", "8", "--corrections", "2"), "--align, --corrections"),
        (("--latency-share", "0.9"), "--latency-share"),
        (("--latency-us", "9"), "--latency-us"),
        (("--limit", "tie-layers"), "--limit"),
        (("--prune", "both"), "--prune"),
        (("--paper",), "--paper"),
        (("--value", "fisher", "--form", "pair"), "--value, --form"),
        (("--solver", "ilp"), "--solver"),
        (("--candidates", "full", "--window", "3"), "--candidates, --window"),
        (("--gap", "1e-3", "--time-limit", "3"), "--gap, --time-limit"),
        (("--quant", "fp8", "--tp", "2"), "--quant, --tp"),
        (("--bound", "*=8:", "--uniform"), "--bound, --uniform"),
        (("--sweep", "x.csv", "--points", "3"), "--sweep, --points"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "compress"])
def test_what_would_be_searched_is_refused_before_any_work(
    command: str,
    words: tuple[str, ...],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "compress" and "--sweep" in words:
        pytest.skip("compress sweeps nothing")
    road = ["no-such-model", "--calibration", "no-such-text", "--out", str(tmp_path / "out")]
    assert main([command, *road, "--sizes", "own", *words]) == 2
    said = capsys.readouterr().err
    assert f"nothing is searched; leave out {named}, or take --sizes planned" in said


@pytest.mark.parametrize("words", [("--curves", "x.safetensors"), ("m", "--synthetic", "0.5")])
def test_own_sizes_without_a_model_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words, "--sizes", "own"]) == 2
    said = capsys.readouterr().err
    assert "--sizes own needs the model and its text; leave out" in said


def test_own_sizes_from_a_work_folder_alone_are_refused(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(tmp_path / "work")
    words = ["plan", str(narrow), "--calibration", str(text), "--force", "--work", work]
    assert main([*words, "--ratio", "0.3", "--value", "fisher"]) == 0
    assert main(["plan", "--work", work, "--sizes", "own"]) == 2
    assert "--sizes own needs the model" in capsys.readouterr().err
