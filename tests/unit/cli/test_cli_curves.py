"""Saved curves, sweeps, explanations and differences on the command line."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gacfx import cli
from gacfx.cli import curves
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.report.frontier_plot import can_draw
from tests import tiny
from tests.unit import made_curves

MODULE = "model.layers.0.mlp.up_proj"


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(*words) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """The message of a command that must fail, and print nothing else."""
    assert run(*words) == code
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    return printed.err


@pytest.fixture(scope="module")
def kept(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plan made from the model, and the curves that were kept of it."""
    folder = tmp_path_factory.mktemp("kept")
    text = tiny.text_file(folder / "stories.txt")
    words = ["plan", dense, "--calibration", text, "--value", "fisher", "--ratio", "0.3"]
    words += ["--out", folder / "plan", "--save-curves", folder / "curves.safetensors"]
    assert run(*words) == 0
    return folder


# -- plan ----------------------------------------------------------------------------------------


def test_a_plan_from_saved_curves_is_the_plan_of_the_model(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kept / "curves.safetensors"
    again = json.loads(shown(capsys, "plan", "--curves", file, "--ratio", "0.3", "--json"))
    plan = json.loads((kept / "plan" / "plan.json").read_text(encoding="utf-8"))
    for choice in plan["choices"]:  # the model alone knows whose outputs can come in order
        kind = choice["decision"]["kind"].removesuffix("-in-order")
        choice["decision"] = {**choice["decision"], "kind": kind}
    assert again["choices"] == plan["choices"]
    assert (again["fingerprint"], again["digests"]) == (plan["fingerprint"], plan["digests"])
    assert "gfwsvd, value fisher" in shown(capsys, "plan", "--curves", file)


def test_made_up_curves_are_kept_too(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made.safetensors"
    words = ("plan", dense, "--synthetic", "0.5", "--json", "--save-curves", file)
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert printed.err == f"wrote {file}\n"
    assert json.loads(printed.out)["provenance"]["value_model"] == "synthetic decay 0.5"
    assert load_curves(file).value_model == "synthetic decay 0.5"


def test_a_sweep_writes_a_table_and_a_plot(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rows.csv"
    words = ("--sweep", table, "--points", 5, "--mode", "decode", "--batch", 4)
    said = shown(capsys, "plan", "--curves", kept / "curves.safetensors", *words)
    assert f"wrote {table}: 5 budgets" in said
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["dense_share"]) for row in rows][-1] == 1
    assert len(rows) == 5 and rows[0]["value_model"] == "fisher"
    assert (tmp_path / "rows.svg").exists() == can_draw()
    assert (f"wrote {tmp_path / 'rows.svg'}" in said) == can_draw()


def test_without_matplotlib_the_table_is_written_and_the_reason_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    save_curves(tmp_path / "c", made_curves.curves())
    words = ("--align", 1, "--ratio", "0.5", "--sweep", tmp_path / "rows.csv")
    said = shown(capsys, "plan", "--curves", tmp_path / "c", *words)
    assert "no plot: it needs matplotlib: pip install matplotlib" in said
    assert (tmp_path / "rows.csv").exists() and not (tmp_path / "rows.svg").exists()


def test_a_sweep_needs_no_plan_at_the_default_ratio(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rows.csv"
    words = ("plan", "--curves", kept / "curves.safetensors", "--latency-share", "1.05")
    assert "no plan within the budget (ratio 0.2" in refused(capsys, 1, *words)
    swept = (*words, "--sweep", table, "--points", "3")
    said = shown(capsys, *swept)
    assert "no plan reaches the default ratio 0.2; the plan shown is for ratio 0\n" in said
    assert f"wrote {table}: 3 budgets" in said
    table.unlink()
    again = (*swept, "--ratio", "0.2", "--overwrite")
    assert "no plan within the budget (ratio 0.2" in refused(capsys, 1, *again)
    assert not table.exists()


def test_a_sweep_of_a_model_needs_no_plan_at_the_default_ratio(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny.text_file(tmp_path / "stories.txt")
    words = ("plan", dense, "--calibration", text, "--value", "fisher", "--latency-share", "1.0")
    table = tmp_path / "rows.csv"
    said = shown(capsys, *words, "--sweep", table)
    assert "shown is for ratio 0\n" in said and "rows.csv: 1 budget\nno plot: only one" in said


def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dd.csv").mkdir()
    (tmp_path / "plot.svg").mkdir()
    model = "/no/such/model"
    for option, file, why in (
        ("--sweep", tmp_path / "dd.csv", "is a folder; name a file"),
        ("--sweep", tmp_path / "plot.csv", "plot.svg: is a folder; name a file"),
        ("--sweep", tmp_path / "none" / "x.csv", f"there is no folder {tmp_path / 'none'}"),
        ("--sweep", "/proc/x.csv", "/proc/x.csv: cannot be written: "),
        ("--save-curves", tmp_path / "none" / "c", "there is no folder"),
    ):
        said = refused(capsys, 1, "plan", model, "--synthetic", "1", option, file)
        assert why in said and "partial" not in said
    assert not (tmp_path / "none").exists()


def test_without_points_a_sweep_has_its_own_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dense: Path
) -> None:
    words = ("plan", dense, "--synthetic", "0.5", "--sweep", tmp_path / "rows.csv")
    assert f"rows.csv: {curves.POINTS} budgets" in shown(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a model, or give --curves FILE"),
        (("m", "--points", "5"), "--points goes with --sweep"),
        (("m", "--sweep", "x.txt", "--synthetic", "1"), "name a file that ends in .csv"),
        (("m", "--sweep", "x.csv", "--points", "1"), "at least 2 budgets"),
        (("m", "--sweep", "x.csv", "--paper"), "--sweep is solved by core over all ranks"),
        (("m", "--sweep", "x.csv", "--solver", "dp"), "--sweep is solved by core"),
        (("m", "--sweep", "x.csv", "--window", "3"), "--sweep is solved by core"),
        (("m", "--curves", "c"), "leave out the model"),
        (("--curves", "c", "--calibration", "t.txt"), "leave out --calibration"),
        (("--curves", "c", "--synthetic", "0"), "leave out --synthetic"),
        (("--curves", "c", "--method", "asvd"), "leave out --method"),
        (("--curves", "c", "--seed", "0"), "leave out --seed"),
        (("m", "--synthetic", "1", "--method", "svd"), "leave out --method"),
        (("--curves", "c", "--skip", "*.q"), "leave out --skip"),
        (("--curves", "c", "--save-curves", "d"), "leave out --save-curves"),
        (("--curves", "c", "--out", "d"), "--curves has no factors to write"),
        (("m", "--save-curves", "d"), "give --calibration FILE"),
        (("m", "--save-curves", "d", "--synthetic", "1", "--out", "d"), "no factors to write"),
        (("m", "--save-curves", "d", "--synthetic", "1", "--value", "fisher"), "auto or paper"),
    ],
)
def test_wrong_use_is_refused_before_any_work(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, 2, "plan", *words)


@pytest.mark.parametrize("points", ["0", "-1", "many"])
def test_points_is_a_number(points: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("plan", "m", "--sweep", "x.csv", "--points", points)
    assert stopped.value.code == 2
    assert "--points" in capsys.readouterr().err


def test_bad_curves_are_a_failure_with_a_reason(
    tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes((kept / "curves.safetensors").read_bytes()[:-1])
    for file in (broken, tmp_path / "none"):
        assert "cannot be read" in refused(capsys, 1, "plan", "--curves", file)
    assert "is a folder; name a file" in refused(capsys, 1, "plan", "--curves", tmp_path)
    file = kept / "curves.safetensors"
    said = refused(capsys, 1, "plan", "--curves", file, "--value", "relative")
    assert "the curves hold 'fisher'" in said
    said = refused(capsys, 1, "plan", "--curves", file, "--ratio", "0.99")
    assert "The largest reachable ratio is" in said


# -- explain -------------------------------------------------------------------------------------


def test_a_weight_is_explained_from_a_plan_and_its_curves(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("explain", kept / "plan", MODULE, "--curves", kept / "curves.safetensors")
    said = shown(capsys, *words)
    assert said.startswith(f"{MODULE}  176 x 64  ") and "\nprice of " in said
    raw: dict[str, Any] = json.loads(shown(capsys, *words, "--json"))
    plan = json.loads((kept / "plan" / "plan.json").read_text(encoding="utf-8"))
    choice = next(choice for choice in plan["choices"] if choice["group"] == MODULE)
    assert (raw["decision"], raw["loss_nats"]) == (choice["decision"], choice["loss_nats"])
    assert raw["price"] == plan["proof"]["multiplier"] * 1e6


def test_a_limit_is_explained_for_the_profile_it_was_made_for(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kept / "curves.safetensors"
    words = ("plan", "--curves", file, "--latency-share", "1.5", "--gpu", "a100", "--json")
    plan = tmp_path / "plan.json"
    plan.write_text(shown(capsys, *words), encoding="utf-8")
    again = ("explain", plan, MODULE, "--curves", file)
    raw = json.loads(shown(capsys, *again, "--json"))
    assert [price["name"] for price in raw["prices"]] == ["parameters", "prefill latency"]
    assert shown(capsys, *again) == shown(capsys, *again, "--gpu", "a100")
    assert "name the profile that it was made for" in refused(capsys, 1, *again, "--gpu", "h200")
    assert shown(capsys, *again, "--torch", "2.9").startswith(MODULE)


def test_what_cannot_be_explained_is_a_failure(
    kept: Path, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kept / "curves.safetensors"
    said = refused(capsys, 1, "explain", kept / "plan", "mlp.up_proj", "--curves", file)
    assert f"it has {MODULE}" in said
    said = refused(capsys, 1, "explain", dense, MODULE, "--curves", file)
    assert "no plan there; name a plan folder" in said
    save_curves(tmp_path / "other", made_curves.curves())
    said = refused(capsys, 1, "explain", kept / "plan", MODULE, "--curves", tmp_path / "other")
    assert "of different models" in said
    with pytest.raises(SystemExit) as stopped:
        run("explain", kept / "plan", MODULE)
    assert stopped.value.code == 2


# -- diff ----------------------------------------------------------------------------------------


def test_plans_are_compared_whatever_holds_them(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", "--curves", kept / "curves.safetensors", "--ratio", "0.4", "--json")
    (tmp_path / "plan").mkdir()
    file = tmp_path / "plan" / "plan.json"
    file.write_text(shown(capsys, *words), encoding="utf-8")
    assert shown(capsys, "diff", kept / "plan", kept / "plan" / "plan.json") == (
        "the plans are equal\n"
    )
    said = shown(capsys, "diff", kept / "plan", tmp_path)  # as in a checkpoint: plan/plan.json
    assert "before" in said and "ratio 0.4 of the targeted weights" in said
    raw = json.loads(shown(capsys, "diff", kept / "plan", file, "--json"))
    assert raw["changes"] and {row["what"] for row in raw["totals"]} >= {"kept_params", "loss"}


def test_plans_of_different_models_are_a_failure(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads((kept / "plan" / "plan.json").read_text(encoding="utf-8"))
    raw["fingerprint"] = "0" * 64
    other = tmp_path / "plan.json"
    other.write_text(json.dumps(raw), encoding="utf-8")
    assert "for different models" in refused(capsys, 1, "diff", kept / "plan", other)
    other.write_text("{", encoding="utf-8")
    assert f"{other} is not JSON" in refused(capsys, 1, "diff", kept / "plan", other)
    assert "no plan there" in refused(capsys, 1, "diff", kept / "plan", tmp_path / "none")
    with pytest.raises(SystemExit) as stopped:
        run("diff", kept / "plan")
    assert stopped.value.code == 2
