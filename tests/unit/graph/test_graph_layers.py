"""Layers are told from other numbers in module names by the modules that were called."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.allocation.ties import kind_of
from gacfx.core.sites import Workload
from gacfx.graph.layers import layers_of, split_layer
from gacfx.graph.notes import targets
from gacfx.hardware.profile import load
from gacfx.inspection import annotate_graph
from gacfx.tracing.export import export_model
from tests.families.zoo import FAMILIES
from tests.passes.graphs import annotated

X = {"x": torch.ones(3, 17, 20)}


class Block(nn.Module):
    """Two linears in a Sequential, whose numbers are no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 20))

    def forward(self, x: Tensor) -> Tensor:
        """[..., 20] -> [..., 20]."""
        out: Tensor = self.mlp(x)
        return x + out


class Stack(nn.Module):
    """Layers in a list that is never called, and a head of linears in one that is."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(layers)])
        self.head = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 11))

    def forward(self, x: Tensor) -> Tensor:
        """[..., 20] -> [..., 11]."""
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x)
        return out


class Row(nn.Module):
    """What is given, in a container that is called."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 20] -> what the last part makes."""
        out: Tensor = self.body(x)
        return out


def captured(model: nn.Module) -> GraphModule:
    return annotated(export_model(model.eval(), X))


def targeted(gm: GraphModule) -> list[str]:
    return [site.name for _, site in targets(gm)]


def test_numbers_in_the_name_of_a_head_are_no_layers() -> None:
    gm = captured(Stack())
    assert layers_of(gm) == {"layers.0", "layers.1"}
    assert targeted(gm) == [f"layers.{layer}.mlp.{part}" for layer in (0, 1) for part in (0, 2)]


def test_the_head_of_a_language_model_made_of_two_linears_is_not_targeted() -> None:
    model: Any = FAMILIES["llama"].make()
    model.lm_head = nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 97))
    names = targeted(annotated(export_model(model)))
    assert len(names) == 14 and not any("head" in name for name in names)


def test_a_single_layer_is_one() -> None:
    assert layers_of(captured(Stack(1))) == {"layers.0"}


def test_blocks_of_one_class_are_layers_even_in_a_container_that_is_called() -> None:
    assert layers_of(captured(Row(nn.Linear(20, 20), Block(), Block()))) == {"body.1", "body.2"}
    assert layers_of(captured(Row(Block(), nn.Linear(20, 20)))) == set()


def test_a_linear_in_a_list_is_a_layer_as_it_always_was() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.ModuleList([nn.Linear(20, 20) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            for step in (*self.steps, self.steps[0]):
                x = step(x)
            return x

    gm = captured(Listed())
    assert layers_of(gm) == {"steps.0", "steps.1"}
    assert targeted(gm) == ["steps.0", "steps.1", "steps.0"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_graph_that_a_user_exported_knows_its_layers(strict: bool) -> None:
    gm = torch.export.export(Stack().eval(), (), X, strict=strict).module()
    assert isinstance(gm, GraphModule)
    assert layers_of(gm) == {"layers.0", "layers.1"}
    assert len(targeted(annotated(gm))) == 4


def test_a_name_is_split_at_its_layer() -> None:
    assert split_layer("model.layers.3.mlp.up_proj") == ("model.layers", "3", "mlp.up_proj")
    assert split_layer("model.layers.3.mlp.0") == ("model.layers", "3", "mlp.0")
    assert split_layer("lm_head.0") == ("", "", "lm_head.0")
    assert split_layer("lm_head") == ("", "", "lm_head")


def test_two_linears_of_one_layer_are_of_two_kinds() -> None:
    kinds = [kind_of(f"layers.{layer}.mlp.{part}") for layer in (0, 1) for part in (0, 2)]
    assert kinds == ["layers.*.mlp.0", "layers.*.mlp.2"] * 2


def test_an_inspection_folds_layers_and_names_the_parts_of_a_head() -> None:
    seen = annotate_graph(export_model(Stack().eval(), X), load("h200"), Workload(), "stack")
    assert [(row.layers, row.name) for row in seen.folded()] == [
        ("0-1", "mlp.0"),
        ("0-1", "mlp.2"),
        ("", "head.0"),
        ("", "head.1"),
    ]


def test_an_inspection_takes_no_number_outside_the_layers_for_one() -> None:
    gm = export_model(Row(Block(), nn.Linear(20, 20)).eval(), X)
    seen = annotate_graph(gm, load("h200"), Workload(), "row")
    assert [(row.layers, row.name) for row in seen.folded()] == [
        ("", "body.0.mlp.0"),
        ("", "body.0.mlp.2"),
        ("", "body.1"),
    ]
