"""An outside package adds a method, a pass and a profile; gacfx uses them like its own."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gacfx
from gacfx.compressors.methods import METHODS, Method, Metric, register
from gacfx.core.gacpass import PASSES
from gacfx.core.notes import note, sites
from gacfx.errors import PipelineError
from gacfx.hardware import profile as profiles
from tests import tiny

SOURCE = '''
from dataclasses import dataclass

from torch.fx import GraphModule

from gacfx.compressors.methods import Method, Metric, register as register_method
from gacfx.core.gacpass import GacPass, register
from gacfx.core.notes import Fact, matmuls, refuse

register_method(Method("toy-output", Metric.MOMENT, Metric.IDENTITY, "a toy"))


@register
@dataclass(frozen=True)
class ToyFlag(GacPass):
    """Flag every matmul."""

    name = "toy-flag"
    needs = frozenset({Fact.SITES})

    word: str = "toy"

    def run(self, gm: GraphModule) -> bool:
        for node, _ in matmuls(gm):
            refuse(node, by=self.name, reason=self.word)
        return False
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, imported from outside the tree; forgotten afterwards."""
    (tmp_path / "toy_gacfx_plugin.py").write_text(SOURCE)
    raw = json.loads((Path(profiles.__file__).parent / "profiles" / "h200.json").read_text())
    raw["name"] = "toy-gpu"
    (tmp_path / "toy-gpu.json").write_text(json.dumps(raw))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("toy_gacfx_plugin")
    yield tmp_path
    METHODS.pop("toy-output")
    PASSES.pop("toy-flag")
    sys.modules.pop("toy_gacfx_plugin")


def test_outside_method_and_profile_make_a_plan(toy: Path) -> None:
    planned = gacfx.plan(
        tiny.llama(),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        method="toy-output",
        gpu=str(toy / "toy-gpu.json"),
        value="two-sided",
    )
    assert planned.plan.provenance.method == "toy-output"
    assert planned.plan.provenance.gpu == "toy-gpu"
    assert planned.plan.ranks


def test_outside_pass_runs_in_a_pipeline(toy: Path) -> None:
    gm = gacfx.capture(tiny.llama())
    gacfx.Pipeline.parse("annotate-sites,toy-flag{word=seen}").run(gm)
    reasons = {r.reason for node, _ in sites(gm) for r in note(node).refusals}
    assert reasons == {"seen"}


def test_a_second_method_of_the_same_name_is_refused() -> None:
    with pytest.raises(PipelineError, match="gfwsvd"):
        register(Method("gfwsvd", Metric.IDENTITY, Metric.IDENTITY, "an impostor"))
