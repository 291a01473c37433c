"""clean: dead nodes and unread parameters go, everything that is read stays."""

import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from gacfx.graph import edit
from gacfx.graph.notes import facts
from gacfx.passes.rewrite.clean import Clean, unread_parameters
from tests.passes.graphs import annotated, ids, llama, net, snapshot, text_of

aten = torch.ops.aten


def test_a_parameter_that_nothing_reads_is_removed() -> None:
    gm = net()
    edit.set_parameter(gm, "layers.0.qkv.old", torch.ones(3))
    assert Clean()(gm).modified
    assert "layers.0.qkv.old" not in dict(gm.named_parameters())
    assert text_of(gm) == text_of(net())


def test_dead_nodes_go_together_with_the_parameters_that_only_they_read() -> None:
    gm = net()
    output = gm.graph.output_node()
    edit.set_parameter(gm, "spare.weight", torch.ones(3))
    spare = edit.parameter_node(gm, "spare.weight", like=output)
    edit.Build(gm, output, "spare", "Toy").call(aten.relu.default, (spare,), child="act")
    assert Clean()(gm).modified
    assert text_of(gm) == text_of(net())


def test_both_names_of_an_unread_tied_parameter_go() -> None:
    gm = net()
    tied = nn.Parameter(torch.ones(3))
    for name in ("one.weight", "two.weight"):
        edit.set_parameter(gm, name, tied)
    assert unread_parameters(gm) == ["one.weight", "two.weight"]
    Clean()(gm)
    assert text_of(gm) == text_of(net())


def test_the_second_name_of_a_read_parameter_goes_and_the_first_stays() -> None:
    gm = net()
    edit.set_parameter(gm, "other.weight", gm.get_parameter("head.weight"))
    assert Clean()(gm).modified
    assert "head.weight" in dict(gm.named_parameters())
    assert unread_parameters(gm) == []


def test_a_clean_graph_is_left_alone() -> None:
    gm = annotated(llama())
    before = snapshot(gm)
    assert not Clean()(gm).modified
    assert snapshot(gm) == before
    assert facts(gm) == before[2]


def test_what_is_computed_stays_the_same() -> None:
    gm = net()
    before = gm(ids())
    edit.set_parameter(gm, "spare.weight", torch.ones(3))
    Clean()(gm)
    assert torch.equal(gm(ids()), before)


def test_parameters_of_modules_that_the_graph_calls_are_read() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(3, 4)
            self.unused = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(x)
            return out

    gm = symbolic_trace(Calls())
    gm.add_module("unused", nn.Linear(3, 4))
    before = gm(torch.ones(2, 3))
    assert Clean()(gm).modified
    assert [name for name, _ in gm.named_parameters()] == ["up.weight", "up.bias"]
    assert torch.equal(gm(torch.ones(2, 3)), before)


def test_twice_is_once() -> None:
    gm = net()
    edit.set_parameter(gm, "spare.weight", torch.ones(3))
    Clean()(gm)
    before = snapshot(gm)
    assert not Clean()(gm).modified
    assert snapshot(gm) == before
