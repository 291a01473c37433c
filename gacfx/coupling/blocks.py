"""The module that a structure lives in, and whether it can be taken out as a whole."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from torch.fx import Node

from gacfx.coupling.terms import find
from gacfx.coupling.weights import Weight, Weights
from gacfx.graph import ops

_KEEP_ZERO = ("to", "_to_copy", "type_as", "dropout", "mul", "div", "view", "reshape", "clone")
_ORDER = ("contiguous", "transpose", "permute", "unsqueeze", "squeeze", "detach", "_unsafe_view")
_NORMS = ("layer_norm", "rms_norm", "pow", "mean", "rsqrt")
_LOOKS = "_assert_tensor_metadata"


def block_of(modules: Iterable[str]) -> str:
    """Name of the innermost module that holds all of these; empty for the model itself."""
    steps = zip(*(module.split(".")[:-1] for module in modules), strict=False)
    return ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))


def name_of(
    weights: Weights, kind: str, members: Sequence[Weight], layer: str, taken: Iterable[str]
) -> str:
    """Name of a structure: its block's, or that of its layer and of all its modules.

    Args:
        weights: of the graph.
        kind: of the structure.
        members: weights of the structure.
        layer: the repeated layer around it; empty outside of all. It is an attention itself where
            it holds no other matrix (XLM has a list of attentions and one of MLPs), or lies in
            another layer (LongCat-Flash has two attentions in each).
        taken: names of other structures.
    """
    modules = [member.module for member in members]
    block = block_of(modules)
    inside = any(layer.startswith(f"{other}.") for other in weights.layers)
    alone = kind == "heads" and (inside or not _other_weights(weights, block, members))
    if block and (block != layer or alone) and block not in taken:
        return block
    inner = [module.removeprefix(f"{block}.") for module in modules]
    return ".".join(filter(None, (block, "+".join(inner))))


def why_kept(weights: Weights, name: str, members: Sequence[Weight], closing: Weight) -> str:
    """Why zeros cannot stand for the module ``name``; empty if they can.

    They can where the module gives what the closing weight gives and nothing else, in the width of
    what goes in, and where only the residual stream adds it up.
    """
    if not _is_inside(closing.node, name):
        return "it has no module of its own"
    if others := _other_weights(weights, name, members):
        return f"its module also holds {', '.join(others)}"
    if sum(_is_inside(attention.node, name) for attention in weights.attentions) > 1:
        return "its module has several attentions"
    enters, leaves = weights.axes(members[0].source)[-1:], weights.axes(closing.node)[-1:]
    if list(map(find, enters)) != list(map(find, leaves)):
        return "its outputs are not the channels that it reads"
    return _other_use(closing.node, name)


def _is_inside(node: Node, name: str) -> bool:
    return any(path == name for path, _ in ops.module_stack(node))


def _other_weights(weights: Weights, name: str, members: Sequence[Weight]) -> list[str]:
    """Matrices in the module that are no members, by their names inside."""
    own = {member.name for member in members}
    params = weights.interpreter.params.items()
    inside = [p for p, axes in params if p.startswith(f"{name}.") and len(axes) > 1]
    return [p.removeprefix(f"{name}.").removesuffix(".weight") for p in inside if p not in own]


def _other_use(closing: Node, name: str) -> str:
    """What else than an addition outside the module reads the result; empty if nothing does."""
    seen, todo = {closing}, [closing]
    while todo:
        for user in _users(todo.pop()):
            inside = _is_inside(user, name)
            if _adds(user):
                if inside:
                    return "its module adds to the residual stream itself"
                continue
            known = (*_KEEP_ZERO, *_ORDER) if inside else (*_KEEP_ZERO, *_ORDER, *_NORMS, "add")
            if ops.short_name(user) not in known:
                return f"its outputs also go into {ops.call_name(user)}"
            if user not in seen:
                seen.add(user)
                todo.append(user)
    return ""


def _users(node: Node) -> Iterator[Node]:
    return (user for user in node.users if ops.short_name(user) != _LOOKS)


def _adds(node: Node) -> bool:
    """Two tensors are added, not a number."""
    return ops.short_name(node) in ("add", "add_") and len(node.all_input_nodes) > 1
