"""One table of spellings: exported and dynamo graphs read alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from gacfx.graph import ops
from gacfx.graph.ops import Op
from tests.passes.graphs import Net, ids, net

aten = torch.ops.aten


def call(target: Callable[..., Any], *args: Any) -> Node:
    return Graph().call_function(target, args)


def nodes(gm: GraphModule, op: Op) -> list[Node]:
    return [n for n in gm.graph.nodes if ops.op_of(n) is op]


@pytest.fixture(scope="module")
def dynamo() -> GraphModule:
    """The toy net as torch.compile hands it to a backend."""
    seen: list[GraphModule] = []

    def backend(gm: GraphModule, _: object) -> Callable[..., Any]:
        seen.append(gm)
        return gm.forward

    torch._dynamo.reset()
    torch.compile(Net().eval(), backend=backend)(ids())
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize(
    ("target", "op"),
    [
        (aten.linear.default, Op.LINEAR),
        (nn.functional.linear, Op.LINEAR),
        (torch._C._nn.linear, Op.LINEAR),
        (aten.addmm.default, Op.ADDMM),
        (aten.bmm.default, Op.MATMUL),
        (torch.matmul, Op.MATMUL),
        (aten._grouped_mm.default, Op.GROUPED_MM),
        (aten.scaled_dot_product_attention.default, Op.ATTENTION),
        (aten._scaled_dot_product_efficient_attention.default, Op.ATTENTION),
        (aten.relu.default, None),
        (aten.mul.Tensor, None),
    ],
)
def test_operators_by_any_spelling(target: Callable[..., Any], op: Op | None) -> None:
    assert ops.op_of(call(target)) is op


def test_what_is_no_call_of_a_function_has_no_operator() -> None:
    graph = Graph()
    assert ops.op_of(graph.placeholder("linear")) is None
    assert ops.op_of(graph.call_module("linear")) is None


@pytest.mark.parametrize("op", [Op.LINEAR, Op.ATTENTION])
def test_dynamo_and_export_find_the_same_operators(dynamo: GraphModule, op: Op) -> None:
    ours, theirs = nodes(net(), op), nodes(dynamo, op)
    assert len(ours) == {Op.LINEAR: 5, Op.ATTENTION: 2}[op]
    assert [ops.shape(n) for n in theirs] == [ops.shape(n) for n in ours]
    assert [ops.dtype_name(n) for n in theirs] == [ops.dtype_name(n) for n in ours]


def test_module_stacks_are_clean_names_outermost_first(dynamo: GraphModule) -> None:
    for gm in (net(), dynamo):
        last = [ops.module_stack(n) for n in nodes(gm, Op.LINEAR)][2]
        assert last[-1] == ("layers.1.qkv", "Linear")
        assert ("layers.1", "Layer") in last


def test_a_node_without_modules_has_no_stack() -> None:
    assert ops.module_stack(call(aten.relu.default)) == ()


def test_a_node_without_a_value_has_no_shape() -> None:
    node = call(aten.relu.default)
    assert ops.value(node) is None and ops.shape(node) is None
    node.meta["val"] = (torch.ones(2), torch.ones(3))
    assert ops.value(node) is None and ops.shape(node) is None


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float32, "fp32"),
        (torch.bfloat16, "bf16"),
        (torch.float16, "fp16"),
        (torch.int64, "torch.int64"),
    ],
)
def test_dtypes_have_short_names(dtype: torch.dtype, name: str) -> None:
    node = call(aten.relu.default)
    node.meta["val"] = torch.zeros(1, dtype=dtype)
    assert ops.dtype_name(node) == name


def test_short_names_of_operators() -> None:
    assert ops.short_name(call(aten.linear.default)) == "linear"
    assert ops.short_name(call(aten.add.Tensor)) == "add"
    assert ops.short_name(call(torch.matmul)) == ""


def test_a_weight_is_found_behind_transposes_and_casts() -> None:
    graph = Graph()
    weight = graph.get_attr("a.weight")
    turned = graph.call_function(aten.transpose.int, (weight, 0, 1))
    cast = graph.call_function(aten.to.dtype, (turned, torch.float16))
    assert ops.weight_name(weight) == "a.weight"
    assert ops.weight_name(cast) == "a.weight"


def test_a_weight_that_is_computed_has_no_name() -> None:
    graph = Graph()
    weight = graph.get_attr("a.weight")
    scaled = graph.call_function(aten.mul.Tensor, (weight, 2))
    assert ops.weight_name(scaled) is None
    assert ops.weight_name(graph.placeholder("x")) is None
    assert ops.weight_name(3.0) is None
