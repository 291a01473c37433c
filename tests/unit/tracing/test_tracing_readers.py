"""Weights that are read without a call: found in the code, whatever one forward did."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.coupling.interpreter import Interpreter
from gacfx.coupling.weights import Weights
from gacfx.graph.notes import note
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.tracing.export import export_model
from gacfx.tracing.readers import read_weights
from tests.families.test_families_uncommon import SIZES, make
from tests.passes.graphs import site_of


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.deep(x)
        return out


class Block(nn.Module):
    """Calls all of its linears, and does more with some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.looked, self.stepped = (nn.Linear(8, 8) for _ in range(3))
        self.trained, self.evaluated, self.served = (nn.Linear(8, 8) for _ in range(3))
        self.tied, self.set_up = nn.Linear(8, 8), nn.Linear(8, 8)
        self.inner = Inner()
        self.set_up.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.looked(x.to(self.looked.weight.dtype))
        assert isinstance(self.looked.weight, Tensor)
        x = self.stepped(self.called(x)) + self.inner(self.set_up(x))
        x = self.tied(self.trained(self.evaluated(self.served(x))))
        if not self.training and x.requires_grad:
            x = x @ self.served.weight
        if self.training:
            x = x @ self.trained.weight
        else:
            x = self.evaluated.weight @ x.transpose(-1, -2)
        return x.transpose(-1, -2)

    def step(self, x: Tensor) -> Tensor:
        """One token; no forward comes here."""
        out: Tensor = x @ self.stepped.weight + x @ self.inner.deep.weight.T
        return out

    def tie_weights(self) -> None:
        """No part of a forward."""
        self.tied.weight = self.called.weight

    def _init_weights(self) -> None:
        nn.init.zeros_(self.set_up.weight)


class Below(Block):
    """Reads nothing itself."""


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Below(), Below()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


READ = ("evaluated", "inner.deep", "served", "stepped")


def test_reads_are_told_from_calls_looks_and_what_is_done_beside_a_forward() -> None:
    found = read_weights(Blocks().eval())
    names = [f"layers.{at}.{name}.weight" for at in (0, 1) for name in READ]
    assert found == dict.fromkeys(names, "Below")


def test_what_is_read_is_neither_factorized_nor_pruned_and_its_reader_is_named() -> None:
    gm = export_model(Blocks().eval(), {"x": torch.zeros(3, 8, 8)})
    AnnotateSites()(gm)
    SelectTargets()(gm)
    interpreter = Interpreter(gm)
    interpreter.run()
    weights = Weights(gm, interpreter)
    why = "Below reads its weight without calling it"
    for name in ("stepped", "inner.deep"):
        node, _ = site_of(gm, f"layers.0.{name}")
        assert [each.reason for each in note(node).refusals] == [why]
        assert weights.unfit(weights.by_name[f"layers.0.{name}.weight"]) == why
    node, _ = site_of(gm, "layers.0.called")
    assert note(node).targeted and weights.unfit(weights.by_name["layers.0.called.weight"]) == ""


@pytest.mark.parametrize("made_by", ["exec", "torch"])
def test_a_class_without_source_and_one_of_torch_itself(made_by: str) -> None:
    if made_by == "torch":
        found = read_weights(nn.TransformerEncoderLayer(8, 2, 16))
        assert {"linear1.weight", "linear2.weight"} <= found.keys()
        return
    home: dict[str, Any] = {"__name__": "nowhere", "nn": nn}
    exec("class Hidden(nn.Module):\n    def forward(self, x): return self.up.weight @ x", home)
    hidden = home["Hidden"]()
    hidden.up = nn.Linear(3, 3)
    assert read_weights(hidden) == {}


def test_families_whose_code_multiplies_with_a_weight_itself() -> None:
    sizes = {"state_size": 4, "time_step_rank": 4, "intermediate_size": 96}
    assert SIZES["num_hidden_layers"] == 2
    found = read_weights(make("MambaConfig", "MambaForCausalLM", **sizes))
    linears = {name for name in found if "conv1d" not in name}
    assert linears == {f"backbone.layers.{at}.mixer.dt_proj.weight" for at in (0, 1)}
    assert read_weights(make("LlamaConfig", "LlamaForCausalLM")) == {}
