"""What of a model is in no row of an inspection: products without a site, and parameters of none.

not modelled: aten.conv1d in mixer 0-31 (a convolution in 96 groups)
6.5% of the parameters are in no site: model.embed_tokens 525 M, input_layernorm, model.norm
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from gacfx.graph import ops
from gacfx.graph.layers import in_layer, layers_of, ranges, split_layer
from gacfx.graph.notes import note, sites
from gacfx.graph.products import parameter_behind


@dataclass(frozen=True, slots=True)
class Remark:
    """Products that got no site, of equal layers together."""

    operator: str
    """``aten.conv1d``"""
    name: str
    """The innermost module around them, without its layer."""
    layers: str
    """``0-31``; empty outside the repeated layers."""
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Uncovered:
    """Parameters of one name in all layers that no site has."""

    name: str
    """``model.layers.*.input_layernorm.weight``"""
    params: int


def remarks(gm: GraphModule) -> tuple[Remark, ...]:
    """Every product of an annotated graph that has no site, in graph order."""
    layers = layers_of(gm)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for node in gm.graph.nodes:
        for reason in _reasons(node):
            stack = ops.module_stack(node)
            name = stack[-1][0] if stack else node.name
            at, rest = "", name
            if in_layer(node, layers):
                _, at, rest = split_layer(f"{name}.")
            key = (_operator(node), rest.removesuffix(".") or name, reason)
            groups.setdefault(key, []).append(at)
    return tuple(
        Remark(operator, name, ranges(int(at) for at in found if at), reason, len(found))
        for (operator, name, reason), found in groups.items()
    )


def uncovered(gm: GraphModule) -> tuple[Uncovered, ...]:
    """Parameters that no site of an annotated graph reads, most numbers first."""
    layers = layers_of(gm)
    read = {name for node, _ in sites(gm) for name in _read_by(node)}
    tensors = dict(gm.named_parameters(remove_duplicate=False))
    held = {id(tensors[name]) for name in read if name in tensors}
    sizes: dict[str, int] = {}
    for name, tensor in gm.named_parameters():
        if id(tensor) not in held:
            prefix, layer, rest = split_layer(name)
            folded = f"{prefix}.*.{rest}" if f"{prefix}.{layer}" in layers else name
            sizes[folded] = sizes.get(folded, 0) + tensor.numel()
    found = (Uncovered(name, params) for name, params in sizes.items())
    return tuple(sorted(found, key=lambda each: (-each.params, each.name)))


def _reasons(node: Node) -> Iterator[str]:
    known = note(node)
    if known.site is None:
        yield from (refusal.reason for refusal in known.refusals)


def _operator(node: Node) -> str:
    """``aten.conv1d``, whatever its overload."""
    if isinstance(node.target, OpOverload):
        return str(node.target).rpartition(".")[0]
    return ops.name_of(node)


def _read_by(node: Node) -> Iterable[str]:
    """Parameters that go into a node, in any shape: its weight and its bias."""
    found = (parameter_behind(each) for each in node.all_input_nodes)
    return (name for name in found if name is not None)
