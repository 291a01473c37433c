"""Models in parts: which can be run so, which are refused, and that nothing stays behind."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.layered import Layered, modules_by_layer
from gacfx.errors import UnsupportedModel
from tests.tiny import llama

IDS = torch.arange(3, 12)


class Toy(nn.Module):
    """A stack of layers, with a way from layer to layer that can be spoilt."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.config, self.fault = SimpleNamespace(vocab_size=16), fault
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
        layers = [nn.Linear(8, 8) for _ in range(3)]
        self.layers = nn.ModuleList([layers[0]] * 3 if fault == "shared layer" else layers)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, ids: Tensor, use_cache: bool = False) -> Any:
        del use_cache
        first = self.embed(ids)
        hidden = first
        given = []
        order = self.layers[::-1] if self.fault == "backwards" else self.layers
        for layer in order:
            hidden = layer(hidden)
            if self.fault == "looks back":
                hidden = hidden + first
            if self.fault == "between the layers":
                hidden = hidden.relu() + 1
            given.append(hidden)
        if self.fault == "all to the head":
            hidden = torch.stack(given).sum(0)
        if self.fault == "changed in place":
            hidden = hidden.add_(0)
        return SimpleNamespace(logits=self.head(hidden))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS[None]).logits
        return found


@pytest.mark.parametrize("way", ["", "between the layers", "changed in place"])
def test_a_stack_runs_in_parts(way: str) -> None:
    model = Toy(way)
    whole, layered = logits(model), Layered(model)
    assert layered.prefix == "layers."
    with torch.no_grad(), layered.parted(IDS):
        hidden = None
        for at in range(-1, 4):
            hidden = layered.between(IDS[None], at, hidden)
    assert hidden is not None
    assert torch.equal(hidden, whole)
    assert layered.vocabulary == 16


@pytest.mark.parametrize("fault", ["looks back", "backwards", "all to the head"])
def test_a_model_whose_layers_do_not_stand_alone_is_refused(fault: str) -> None:
    model = Toy(fault)
    whole = logits(model)
    with pytest.raises(UnsupportedModel), Layered(model).parted(IDS):
        pytest.fail("it was parted")
    assert torch.equal(logits(model), whole)
    assert not any("forward" in vars(module) for module in model.modules())


def test_one_layer_that_stands_several_times_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="one layer stands there several times"):
        Layered(Toy("shared layer"))


def test_a_model_without_layers_is_refused() -> None:
    model = Toy()
    model.layers = nn.ModuleList([nn.Linear(8, 8)])
    with pytest.raises(UnsupportedModel, match="no list of at least two layers"):
        Layered(model)


def test_a_module_that_is_no_language_model_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no Hugging Face model"):
        Layered(nn.Sequential(nn.Linear(2, 2)))


def test_stored_boundaries_are_not_changed() -> None:
    model = Toy("changed in place")
    layered = Layered(model)
    with torch.no_grad(), layered.parted(IDS):
        hidden = layered.between(IDS[None], -1, until=3)
        kept = hidden.clone()
        layered.between(IDS[None], 3, hidden)
        assert torch.equal(hidden, kept)


def test_a_forward_of_its_own_comes_back() -> None:
    model = Toy()
    own = model.layers[1].forward
    model.layers[1].forward = own  # as accelerate and others replace it
    with Layered(model).parted(IDS):
        pass
    assert vars(model.layers[1])["forward"] is own
    assert "forward" not in vars(model.layers[0])


def test_hidden_states_that_are_no_numbers_are_refused_where_asked() -> None:
    model = Toy()
    with torch.no_grad():
        model.layers[1].bias.fill_(torch.nan)  # type: ignore[operator]
    layered = Layered(model)
    with torch.no_grad(), pytest.raises(UnsupportedModel), layered.parted(IDS):
        pytest.fail("it was parted")


def test_gradients_go_through_a_part() -> None:
    model: Any = llama().requires_grad_(False)
    layered = Layered(model)
    with layered.parted(IDS):
        hidden = torch.randn(1, len(IDS), 64).requires_grad_()
        layered.between(IDS[None], 1, hidden).sum().backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.any())


def test_modules_are_sorted_by_layer() -> None:
    layered = Layered(llama())
    names = ["model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"]
    assert modules_by_layer(layered, names) == {0: [names[1]], 1: [names[0]]}
    with pytest.raises(UnsupportedModel, match="lm_head: is outside the layers model.layers"):
        modules_by_layer(layered, ["lm_head"])
