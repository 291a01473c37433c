"""Runs of copies: found by the layer that they are in, whatever captured the graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.graph import ops
from gacfx.graph.copies import copy_runs, word
from gacfx.modules.pivot import PivotLinear
from gacfx.tracing.export import export_model

X = torch.zeros(3, 17, 24)


class Odd(nn.Module):
    """Operators of every sort around two products."""

    at: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(24, 24), nn.Linear(24, 12)
        self.register_buffer("at", torch.arange(24, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """[..., 24] -> [..., 12]."""
        x = torch.tanh(x[..., :24]).transpose(-1, -2).transpose(-1, -2)
        x = self.one(x).view(*x.shape)
        x = x.index_select(-1, self.at.long().abs()).double().float()
        out: Tensor = self.two(x.reshape(*x.shape).contiguous())
        return out


def net(*layers: nn.Module) -> nn.Module:
    """The layers, with copies of the model's own between them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                y = part(x)
                x = torch.cat([y, y, y], -1)[..., :24] + 1
            return x

    return Net().eval()


def by_dynamo(model: nn.Module) -> GraphModule:
    """The graph as torch.compile hands it to a backend."""
    seen: list[GraphModule] = []

    def backend(gm: GraphModule, _: object) -> Callable[..., Any]:
        seen.append(gm)
        return gm.forward

    torch._dynamo.reset()
    torch.compile(model, backend=backend)(X)
    return seen[0]


def by_export(model: nn.Module) -> GraphModule:
    return export_model(model, {"x": X})


def words(gm: GraphModule, *layers: str) -> list[tuple[str, list[str]]]:
    return [
        (name.rpartition("parts")[2].strip(".[]'"), [word(node) for node in nodes])
        for name, nodes in copy_runs(gm, frozenset(layers))
    ]


@pytest.mark.parametrize("trace", [by_export, by_dynamo])
def test_runs_of_pivots(trace: Callable[[nn.Module], GraphModule]) -> None:
    shapes = ((12, True), (12, False), (30, True))
    gm = trace(net(*(PivotLinear(24, out, 5, bias) for out, bias in shapes)))
    assert words(gm, "PivotLinear") == [
        ("0", ["join", "gather", "sum"]),
        ("1", ["join", "gather"]),
        ("2", ["gather"]),
        ("2", ["sum"]),
    ]
    assert words(gm) == words(gm, "Linear") == []


@pytest.mark.parametrize("trace", [by_export, by_dynamo])
def test_views_indices_and_products_are_no_copies(
    trace: Callable[[nn.Module], GraphModule],
) -> None:
    gm = trace(net(Odd()))
    (before, first), (after, second) = words(gm, "Odd")
    assert (before, after, first, second[0]) == ("0", "0", ["tanh"], "gather")


def test_a_cast_is_a_copy_and_a_cast_to_the_same_is_none() -> None:
    gm = by_export(net(Odd()))
    assert words(gm, "Odd")[1] == ("0", ["gather", "to", "to"])
    same = torch.fx.Graph()
    x = same.placeholder("x")
    x.meta["val"] = X
    for target, moves in ((torch.ops.aten.to.dtype, False), (torch.ops.aten.add_.Tensor, True)):
        node = same.call_function(target, (x, torch.float32))
        node.meta["val"] = X
        assert ops.moves(node) is moves


def test_a_value_that_nobody_knows_is_no_copy() -> None:
    graph = torch.fx.Graph()
    node = graph.call_function(torch.cat, ([graph.placeholder("x")],))
    assert not ops.moves(node)
