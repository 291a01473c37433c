"""An outside package adds a method, a pass and a profile; gacfx uses them like its own."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gacfx
from gacfx.compressors.methods import METHODS, Method, Metric, register
from gacfx.core.plan import Plan
from gacfx.core.search import Search
from gacfx.errors import InfeasibleBudget, PipelineError
from gacfx.graph.gacpass import PASSES
from gacfx.graph.notes import note, sites
from gacfx.hardware import profile as profiles
from tests import tiny

SOURCE = '''
from dataclasses import dataclass

import numpy as np
from torch.fx import GraphModule

from gacfx.compressors.methods import Method, Metric, register as register_method
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.limiting import LimitingPass
from gacfx.graph.notes import Fact, matmuls, refuse
from gacfx.knapsack.limits import Limit, SameLabel

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


@register
@dataclass(frozen=True)
class ToyForbid(LimitingPass):
    """Nobody may have this rank, in whatever form."""

    name = "toy-forbid"

    rank: int = 16

    def restrict(self, offered, sites):
        known = offered.candidates.items()
        offered.offer({m: tuple(d for d in c if d.rank != self.rank) for m, c in known})


@register
@dataclass(frozen=True)
class ToyTie(LimitingPass):
    """Gate and down of a layer get one decision."""

    name = "toy-tie"

    def restrict(self, offered, sites):
        for module in sites:
            if module.endswith("gate_proj"):
                offered.rule(SameLabel((module, module.replace("gate", "down"))))


@register
@dataclass(frozen=True)
class ToyTotal(LimitingPass):
    """The ranks of all weights together; a dense one counts nothing."""

    name = "toy-total"

    most: int = 100

    def restrict(self, offered, sites):
        costs = {m: np.array([d.rank or 0 for d in c]) for m, c in offered.candidates.items()}
        offered.limit(Limit("ranks", self.most, costs))
'''
TOYS = ("toy-flag", "toy-forbid", "toy-tie", "toy-total")


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
    METHODS.forget("toy-output")
    for name in TOYS:
        PASSES.pop(name)
    sys.modules.pop("toy_gacfx_plugin")


def test_outside_method_and_profile_make_a_plan(toy: Path) -> None:
    planned = gacfx.plan(
        tiny.llama(),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        method="toy-output",
        gpu=str(toy / "toy-gpu.json"),
        search=Search(value="two-sided"),
    )
    assert planned.plan.provenance.method == "toy-output"
    assert planned.plan.provenance.gpu == "toy-gpu"
    assert planned.plan.ranks


def test_outside_pass_runs_in_a_pipeline(toy: Path) -> None:
    gm = gacfx.capture(tiny.llama())
    gacfx.Pipeline.parse("annotate-sites,toy-flag{word=seen}").run(gm)
    reasons = {r.reason for node, _ in sites(gm) for r in note(node).refusals}
    assert reasons == {"seen"}


def planned(*limits: str) -> Plan:
    """The plan of a tiny model under what outside passes ask for."""
    model = tiny.llama(hidden=128, width=352)
    search = Search(value="fisher", limits=limits)
    texts = tiny.texts()
    return gacfx.plan(model, tiny.tokenizer(), calibration=texts, ratio=0.3, search=search).plan


def test_outside_pass_forbids_a_rank(toy: Path) -> None:
    free = planned()
    rank = next(iter(free.ranks.values()))
    plan = planned(f"toy-forbid{{rank={rank}}}")
    assert rank in free.ranks.values() and rank not in plan.ranks.values()
    assert plan.loss_nats >= free.loss_nats
    assert plan.provenance.search.limits == (f"toy-forbid{{rank={rank}}}",)


def test_outside_pass_ties_two_weights(toy: Path) -> None:
    def differ(plan: Plan) -> bool:
        taken = {choice.group: choice.decision.label for choice in plan.choices}
        gates = [module for module in taken if "gate" in module]
        return any(taken[module] != taken[module.replace("gate", "down")] for module in gates)

    assert differ(planned())
    plan = planned("toy-tie")
    assert not differ(plan) and plan.rules == 2


def test_outside_pass_adds_a_budget_of_its_own(toy: Path) -> None:
    spent = planned("toy-total{most=100000}").limits[0].spent
    plan = planned("toy-tie", f"toy-total{{most={spent - 8}}}")
    assert [(kept.name, kept.most) for kept in plan.limits] == [("ranks", spent - 8)]
    assert sum(plan.ranks.values()) == plan.limits[0].spent <= spent - 8


def test_what_an_outside_pass_asks_for_may_be_impossible(toy: Path) -> None:
    with pytest.raises(InfeasibleBudget, match="limit 'ranks': no plan .* the smallest is"):
        planned("toy-total{most=1}")


def test_a_second_method_of_the_same_name_is_refused() -> None:
    with pytest.raises(PipelineError, match="gfwsvd"):
        register(Method("gfwsvd", Metric.IDENTITY, Metric.IDENTITY, "an impostor"))
