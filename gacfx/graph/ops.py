"""What a node is, whatever captured its graph: operator, value, shape, operands, modules around it.

Which operators multiply say the tables of :mod:`gacfx.graph.multiplying`.
"""

import operator
import re
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.passes.shape_prop import TensorMetadata

from gacfx.graph.multiplying import Op, name_of, op_of, without_site
from gacfx.graph.symbols import numbers

__all__ = ["Op", "name_of", "op_of", "without_site"]

aten = torch.ops.aten


_CHOSEN: dict[object, str] = {
    aten._scaled_dot_product_flash_attention.default: "flash",
    aten._scaled_dot_product_efficient_attention.default: "efficient",
    aten._scaled_dot_product_cudnn_attention.default: "cudnn",
    aten._scaled_dot_product_flash_attention_for_cpu.default: "",
}
"""Attention whose kernel torch has chosen -> its class on a GPU; these have several results."""

_SWAPS = ("transpose", "permute", "t", "numpy_T")
_VIEWS = (
    *_SWAPS,
    *("detach", "to", "_to_copy", "convert_element_type", "contiguous", "clone"),
)

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8",
    torch.int8: "int8",
}


def dtype_text(dtype: torch.dtype) -> str:
    """``bf16``; the name that torch has where we have no shorter one."""
    return DTYPES.get(dtype) or str(dtype).removeprefix("torch.")


VALUE_KEYS = ("val", "example_value", "tensor_meta")
"""Where torch.export, dynamo and ShapeProp leave what is known of a node's value, best first."""


def value(node: Node) -> Tensor | TensorMetadata | None:
    """The fake tensor that capture left on ``node``, or what ShapeProp says of its shape and dtype;
    None for anything that is no tensor."""
    found = next((node.meta[key] for key in VALUE_KEYS if key in node.meta), None)
    return found if isinstance(found, Tensor | TensorMetadata) else None


def shape(node: Node) -> tuple[int, ...] | None:
    """Shape of the node's value in elements; of an open size the prime of its symbol, None where
    one depends on data."""
    found = value(node)
    return None if found is None else numbers(found.shape)


def depends_on_data(node: Node) -> bool:
    """The node is a tensor whose sizes are only known once the model runs."""
    return value(node) is not None and shape(node) is None


def dtype_name(node: Node) -> str:
    """``bf16``, ``fp32``, ... of the node's value."""
    found = value(node)
    return "fp32" if found is None else DTYPES.get(found.dtype, str(found.dtype))


def short_name(node: Node) -> str:
    """``linear`` for ``aten.linear.default``; empty for anything that is no aten operator."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else ""


def call_name(node: Node) -> str:
    """``cat`` for ``aten.cat.default``, ``torch.cat`` and a method of that name."""
    return short_name(node) or str(getattr(node.target, "__name__", node.target))


def moves(node: Node) -> bool:
    """A call that writes numbers of its own: no view, no item of several results, no indices."""
    found = value(node) if node.op in ("call_function", "call_method") else None
    return found is not None and found.dtype in DTYPES and not _is_view(node)


def _is_view(node: Node) -> bool:
    """The operator hands out memory of its input; dynamo's spelling is judged by the name."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, OpOverload):
        packet = getattr(aten, call_name(node), None)
        return packet is not None and getattr(packet, packet.overloads()[0]).is_view
    cast = any(dtype_name(source) != dtype_name(node) for source in node.all_input_nodes[:1])
    return node.target.is_view and not cast


def origin(node: object) -> Node | None:
    """The node that ``node`` is a transpose or cast of, through any number of them; or itself."""
    while isinstance(node, Node):
        if node.op != "call_function" or short_name(node) not in _VIEWS:
            return node
        node = next(iter(node.all_input_nodes), None)
    return None


def transposed(node: object) -> bool:
    """The two axes of a weight are swapped on its way to ``node``."""
    swapped = False
    while isinstance(node, Node) and node.op == "call_function" and short_name(node) in _VIEWS:
        swapped ^= short_name(node) in _SWAPS
        node = node.args[0]
    return swapped


def weight_name(node: object) -> str | None:
    """Name of the parameter behind ``node``, looking through transposes and casts."""
    found = origin(node)
    return str(found.target) if found is not None and found.op == "get_attr" else None


_ADDED = {
    "addmm": ("mat1", "mat2"),
    "_addmm_activation": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
}
"""Names of the factors that come after what is added to their product."""


def operands(node: Node) -> tuple[object, object]:
    """(first factor, second one) of a product of two tensors, however they are passed."""
    name = name_of(node)
    if name == "einsum":
        given = [each for each in node.args[1:] if isinstance(each, Node | list | tuple)]
        listed = given[0] if given and isinstance(given[0], list | tuple) else given
        return (listed[0], listed[1]) if len(listed) == 2 else (None, None)
    names, at = (_ADDED[name], 1) if name in _ADDED else (None, 0)
    first, second = (*node.args[at : at + 2], None, None)[:2]
    for each in (names[0],) if names else ("input", "self"):
        first = node.kwargs.get(each, first)
    for each in (names[1],) if names else ("weight", "other", "mat2", "vec", "tensor"):
        second = node.kwargs.get(each, second)
    return first, second


def argument(node: Node, name: str, at: int) -> Any:
    """An argument that stands at a place, if it is not given by its name."""
    return node.kwargs.get(name, node.args[at] if at < len(node.args) else None)


def attention_arguments(node: Node) -> dict[str, object]:
    """Arguments of an attention by name, however they are passed; a bias is an ``attn_mask``."""
    schema = getattr(node.target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema else _ATTENTION
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {"attn_mask" if name == "attn_bias" else name: found for name, found in given.items()}


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def chosen_kernel(node: Node) -> str | None:
    """Class of the kernel that an attention calls by name: ``flash``, ``efficient``, ``cudnn``.

    Empty for one of a CPU, None where torch chooses when it runs.
    """
    return _CHOSEN.get(node.target) if node.op == "call_function" else None


_FOUND = re.compile(r"[LG]\[.*\]\.?")


def module_stack(node: Node) -> tuple[tuple[str, str], ...]:
    """(path, class name) of the modules around ``node``, outermost first.

    Dynamo begins a path with where it found the model: ``L['self']``, ``G['models'][0]``.
    """
    stack = node.meta.get("nn_module_stack") or {}
    rows = []
    for path, kind in stack.values():
        clean = _FOUND.sub("", str(path))
        name = kind.__name__ if isinstance(kind, type) else str(kind).rsplit(".", 1)[-1]
        rows.append((clean, name))
    return tuple(rows)
