"""A kind of decision from outside on the whole road: planned, compressed, verified, explained."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import gacfx
from gacfx.cli import main
from gacfx.core.kinds import KINDS
from gacfx.core.planned import Planned
from gacfx.errors import PlanError
from gacfx.modules.install import compressed_modules
from tests import tiny
from tests.plugin.packages import install
from tests.plugin.toy_kind import KIND, SOURCE, forget, installed

MODULE = "model.layers.0.mlp.up_proj"
RELOAD = f"""
import sys
import torch
import gacfx
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
torch.save(model(torch.arange(20)[None]).logits, sys.argv[2])
kinds = [type(m).__name__ for n, m in model.named_modules() if n == "{MODULE}"]
print(*kinds)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the outside package is installed."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def toy(site: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch, installed(site, patch) as module:
        yield module


@pytest.fixture(scope="module")
def folder(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, its text, and what ``compress`` and ``plan`` make of it in the toy's form."""
    folder = tmp_path_factory.mktemp("road")
    tiny.checkpoint(folder / "dense")
    tiny.text_file(folder / "stories.txt")
    words: tuple[object, ...] = (
        "--calibration",
        folder / "stories.txt",
        "--form",
        KIND,
        "--ratio",
        "0.3",
    )
    assert run("compress", folder / "dense", *words, "--out", folder / "small") == 0
    words += ("--value", "fisher", "--save-curves", folder / "curves")
    assert run("plan", folder / "dense", *words, "--out", folder / "plan") == 0
    return folder


def run(*words: object) -> int:
    forget()  # every command meets the name anew
    return main([str(word) for word in words])


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(*words) == 0
    return capsys.readouterr().out


def test_the_plan_has_nothing_but_it_and_keeps_its_budget(folder: Path, toy: ModuleType) -> None:
    planned = Planned.load(folder / "plan")
    decisions = planned.plan.decisions
    assert decisions and {type(each) for each in decisions.values()} == {toy.Scaled}
    assert all(rank % 8 == 0 for rank in planned.plan.ranks.values())
    assert planned.plan.provenance.search.form == KIND
    assert planned.plan.counts[KIND] == len(decisions)
    model = gacfx.apply(tiny.llama(), planned)
    kept = sum(
        parameter.numel()
        for name, layer in compressed_modules(model).items()
        for parameter in layer.parameters()
        if name in decisions
    )
    dense = sum(c.params for c in planned.plan.choices if c.decision.is_dense)
    assert kept + dense == planned.plan.kept_params <= planned.plan.budget.limit_params


def test_graph_and_module_agree_to_the_last_bit(folder: Path) -> None:
    planned = Planned.load(folder / "plan")
    graph = gacfx.apply(gacfx.capture(tiny.llama()), planned)
    module = gacfx.capture(gacfx.apply(tiny.llama(), planned))
    inputs = {"input_ids": torch.arange(51).reshape(3, 17), "use_cache": False}
    with torch.no_grad():
        assert (graph(**inputs)[0] - module(**inputs)[0]).abs().max() == 0.0


def test_a_new_process_loads_its_checkpoint_with_transformers_alone(
    folder: Path, site: Path, tmp_path: Path
) -> None:
    script, logits = tmp_path / "load.py", tmp_path / "logits"
    script.write_text(RELOAD)
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "small"), str(logits)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["ScaledLinear"]
    model, _ = gacfx.load(folder / "small")
    with torch.no_grad():
        assert torch.equal(torch.load(logits), model(torch.arange(20)[None]).logits)


def test_its_checkpoint_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((folder / "small" / "gacfx_report.json").read_text())
    dense, ours = report["sides"]
    assert ours["targeted_params"] <= 0.7 * dense["targeted_params"]
    assert ours["aligned_dims"] == ours["changed_dims"] > 0
    said = shown(capsys, "verify", folder / "small", "--json")
    assert json.loads(said)["whole"] is True


def test_plan_and_weight_are_shown_by_its_own_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "curves"
    said = shown(capsys, "plan", "--curves", file, "--form", KIND, "--ratio", "0.3")
    assert "toy 24" in said and "rank " not in said
    words: tuple[object, ...] = ("explain", folder / "plan", MODULE, "--curves", file)
    choice = next(
        choice
        for choice in json.loads((folder / "plan" / "plan.json").read_text())["choices"]
        if choice["group"] == MODULE
    )
    assert f"toy {choice['decision']['rank']}" in shown(capsys, *words)
    raw = json.loads(shown(capsys, *words, "--json"))
    assert raw["decision"] == choice["decision"] == {"kind": KIND, "rank": raw["decision"]["rank"]}
    pairs = tmp_path / "pairs.json"
    words = ("plan", "--curves", file, "--form", "pair", "--ratio", "0.3", "--json")
    pairs.write_text(shown(capsys, *words))
    assert KIND in shown(capsys, "diff", folder / "plan", pairs)


def test_a_second_kind_of_the_same_name_is_refused(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = SOURCE.replace("toy_gacfx_kind:", "rival_gacfx_kind:")
    install(tmp_path, monkeypatch, "rival_gacfx_kind", code, {KINDS.group: {KIND: "KIND"}})
    forget()
    with pytest.raises(PlanError, match=f"kind of decision '{KIND}' is known twice"):
        KINDS.find(KIND)
    forget()


def test_ours_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = SOURCE.replace('"toy-scaled"', '"pivot"').replace("toy_gacfx_kind:", "thief_kind:")
    install(tmp_path, monkeypatch, "thief_kind", code, {KINDS.group: {"pivot": "KIND"}})
    assert KINDS.find("pivot").carrier.startswith("gacfx.")
    with pytest.raises(PlanError, match="kind of decision 'pivot' is known twice; rename one"):
        KINDS.everything()
