"""Pipelines as text: an option that is 0 or false is read, not replaced by the default."""

from pathlib import Path
from typing import Any

import pytest

import gacfx
from gacfx import api, pipelines, replan
from gacfx.cli import main
from gacfx.errors import GacError
from gacfx.graph.pipeline import Pipeline
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from tests import tiny

BAD_DECAYS = ("0", "0.0", "-1", "10", "nan", "inf")
RANGE = "is not above 0 and below 10; 0.5 is usual"


def test_an_option_of_zero_or_false_reaches_the_pass() -> None:
    (made,) = Pipeline.parse("synthetic-curves{spread=0.0 seed=0}").passes
    assert made == SyntheticCurves(spread=0.0)
    (made,) = Pipeline.parse("sweep-candidates{dense=false window=0}").passes
    assert made == SweepCandidates(dense=False)


def test_every_pipeline_is_text_that_prints_back() -> None:
    for name in ("SELECT", "PLAN", "REWRITE", "ANALYSE", "VERIFY", "DEFAULT"):
        text = getattr(pipelines, name)
        assert str(Pipeline.parse(text)) == text


@pytest.mark.parametrize("decay", BAD_DECAYS)
def test_a_decay_out_of_range_is_refused_before_any_work(
    decay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(*_: object) -> None:
        raise AssertionError("the model was captured")

    monkeypatch.setattr(replan, "capture", nothing)
    doors = (replan.synthetic_curves, api.plan_synthetic)
    for door in doors:
        with pytest.raises(GacError, match=f"^synthetic-curves: decay {float(decay)} {RANGE}$"):
            door("llama-3-8b", decay=float(decay))
    # The equals sign, because a negative number would read as an option.
    assert main(["plan", "llama-3-8b", f"--synthetic={decay}"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        f"gacfx plan: synthetic-curves: decay {float(decay)} {RANGE}"
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"seed": -1}, "seed -1 is not a whole number from 0 on"), ({"value": "x"}, "no value 'x'")],
)
def test_other_options_of_made_up_curves_are_refused_before_any_work_too(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(GacError, match=f"^synthetic-curves: {message}"):
        replan.synthetic_curves("no-such-model", **wrong)


@pytest.mark.parametrize("spread", ["-0.1", "nan", "inf"])
def test_a_spread_that_is_none_is_refused_by_the_pass(spread: str) -> None:
    (made,) = Pipeline.parse(f"synthetic-curves{{spread={spread}}}").passes
    assert isinstance(made, SyntheticCurves)
    with pytest.raises(GacError, match=f"^synthetic-curves: spread {spread} is not a finite"):
        made.check()


@pytest.mark.parametrize("option", ["--method", "--out", "--calibration", "--gpu", "--curves"])
def test_an_empty_option_is_not_taken_for_the_default(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tmp_path), option, ""]) == 2
    name = option.removeprefix("--")
    assert capsys.readouterr().err == (
        f"gacfx plan: {name} is empty; give a value or leave it out\n"
    )


def test_an_empty_method_is_no_method_in_python_either() -> None:
    with pytest.raises(GacError, match="^no method ''; known: "):
        gacfx.plan(tiny.llama(), calibration=["unread"], method="")
