"""An installed package brings a method and a value model; gacfx finds both by entry points."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import gacfx
from gacfx.api import calibrate
from gacfx.cli import main
from gacfx.compressors.allocate import upstream_rank
from gacfx.compressors.methods import LOW_RANK, METHODS
from gacfx.compressors.values import VALUES
from gacfx.core.search import Search
from gacfx.errors import CalibrationError, PipelineError
from gacfx.hardware import profile as profiles
from gacfx.report.plan_view import loss_unit
from tests import tiny
from tests.plugin.packages import install

SOURCE = '''
from dataclasses import replace

import numpy as np

from gacfx.compressors.allocate import allocate
from gacfx.compressors.methods import LOW_RANK
from gacfx.compressors.protocol import Compressor, Statistic
from gacfx.compressors.values import ValueModel

SEEN = []


class Toy(Compressor):
    """The factors of svd-llm, at half of its ranks."""

    name = "toy"
    source = "a toy, 2026"
    kinds = ("low-rank",)
    needs = (Statistic.INPUT_MOMENT,)
    minimises = "what svd-llm does"

    def decompose(self, weight_MN, moments, module=""):
        found = LOW_RANK["svd-llm"].decompose(weight_MN, moments, module)
        return replace(found, method=self)

    def allocate(self, shapes, ratio, inputs=None):
        ranks = {name: max(r // 2, 1) for name, r in allocate(shapes, ratio).items() if r}
        assert inputs.decompositions.keys() == shapes.keys()
        SEEN.append((inputs.measure({}), inputs.measure(ranks)))
        return {name: ranks.get(name) for name in shapes}


def energy(found):
    """What is left of the weight beyond every rank."""
    up, down = found.pair(min(found.weight_MN.shape))
    energy = ((up * up).sum(0) * (down * down).sum(1)).numpy()
    return np.append(np.cumsum(energy[::-1])[::-1], 0.0)


toy = Toy()
impostor = ValueModel("fisher", "toys", "", "", energy)
value = ValueModel("toy-value", "toys", "energy of the weights", "a toy as well", energy)
nothing = "nothing at all"
'''
POINTS = {"gacfx.compressors": {"toy": "toy"}, "gacfx.values": {"toy-value": "value"}}

Printed = pytest.CaptureFixture[str]
VALUE = Search(value="toy-value")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed; what gacfx learned of it is forgotten afterwards."""
    install(tmp_path, monkeypatch, "toy_methods", SOURCE, POINTS)
    yield
    if "toy" in METHODS:
        METHODS.forget("toy")
    if "toy-value" in VALUES:
        VALUES.forget("toy-value")


@pytest.mark.usefixtures("toy")
def test_a_plan_by_an_outside_method_and_value_model() -> None:
    assert "toy" not in METHODS and "toy-value" not in VALUES
    text, tokenizer = tiny.texts(), tiny.tokenizer()
    planned = gacfx.plan(
        tiny.llama(), tokenizer, calibration=text, method="toy", ratio=0.3, search=VALUE
    )
    made = planned.plan.provenance
    assert (made.method, made.value_model, made.search.value) == ("toy", "toy-value", "toy-value")
    assert planned.plan.ranks and planned.plan.loss_nats > 0
    assert loss_unit(planned.plan) == "toys"


@pytest.mark.usefixtures("toy")
def test_its_losses_promise_nothing_and_its_ranks_are_its_own() -> None:
    profile, text = profiles.load("h200"), tiny.texts()
    study = calibrate(tiny.llama(), tiny.tokenizer(), calibration=text, method="toy")
    (trial,) = study.plan("0.3", profile=profile, search=VALUE, tried=True).plan.provenance.trials
    assert trial.value_model == "toy-value" and trial.chosen and trial.promised_nats is None
    plan = study.upstream("0.3", profile=profile).plan
    shapes = {w.module: (w.rows, w.columns) for c in plan.choices for w in c.weights}
    uniform = {name: upstream_rank(*shape, "0.3") for name, shape in shapes.items()}
    assert plan.ranks == {name: max(r // 2, 1) for name, r in uniform.items() if r}
    # It looked at the loss of the model, dense and at these ranks.
    ((dense, low),) = importlib.import_module("toy_methods").SEEN
    assert dense == pytest.approx(study.dense_nats) and low != dense


@pytest.mark.usefixtures("toy")
def test_a_form_that_it_cannot_make_is_refused_before_any_work() -> None:
    def planned(**search: str) -> None:
        model, tokenizer = tiny.llama(), tiny.tokenizer()
        gacfx.plan(model, tokenizer, calibration=[], method="toy", search=Search(**search))  # type: ignore[arg-type]

    with pytest.raises(PipelineError, match="method 'toy' makes no 'pivot' decisions"):
        planned(form="pivot")
    with pytest.raises(PipelineError, match="no value model 'gold'; known: auto, .*, toy-value$"):
        planned(value="gold")
    with pytest.raises(CalibrationError):  # what it can make goes on to the work
        planned(form="pair")


@pytest.mark.usefixtures("toy")
def test_gacfx_methods_lists_both(capsys: Printed) -> None:
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in found["methods"]] == [name for name in METHODS if name != "toy"] + [
        "toy"
    ]
    assert found["methods"][-1] == {
        "name": "toy",
        "minimises": "what svd-llm does",
        "statistics": ["input moment"],
        "proxy": "magnitude",
        "kinds": ["low-rank"],
        "source": "a toy, 2026",
        "allocates": "the same share of every weight goes",
        "leaves": [],
        "settings": [],
        "claims": [],
    }
    assert found["values"][-1] == {
        "name": "toy-value",
        "in_nats": False,
        "unit": "toys",
        "what": "energy of the weights",
        "source": "a toy as well",
    }
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert ["toy", "what", "svd-llm", "does", "input", "moment"] in [row[:6] for row in rows]
    assert "\ntoy-value  toys  " in text


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (
            {"gacfx.compressors": {"svd": "toy"}},
            "entry point 'svd' of gacfx.compressors (toy-methods) is no method of that name",
        ),
        (
            {"gacfx.values": {"nothing": "nothing"}},
            "entry point 'nothing' of gacfx.values (toy-methods) is no value model of that name",
        ),
        (
            {"gacfx.values": {"fisher": "impostor"}},
            "value model 'fisher' is known twice; rename one",
        ),
    ],
)
def test_what_an_entry_point_may_not_bring_is_refused_in_one_line(
    points: dict[str, dict[str, str]],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Printed,
) -> None:
    install(tmp_path, monkeypatch, "toy_methods", SOURCE, points)
    assert main(["methods"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and said in printed.err
    # Nobody is held up who asks for what gacfx has itself.
    assert VALUES.find("fisher").in_nats and METHODS.find("svd") is LOW_RANK["svd"]
