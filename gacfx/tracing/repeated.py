"""One layer of each kind is traced, and stands for all layers of its kind.

    layers 0-31 of one kind                      traced: 0, 1         1 is copied for 2-31
    sliding, sliding, full, sliding, ... (42)    traced: 0, 1, 2      1 and 2 are copied

Tracing a layer takes a hundred times as long as copying its nodes. It is for skeletons: what tells
two layers apart may be code that reads the number of a layer, and a graph of values would show it.
Wherever a stack of layers is not a plain chain, nothing is copied and all of it is traced.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from gacfx.core.model_class import text_config
from gacfx.graph import edit, ops

LEAST = 6
"""Layers; fewer are traced in no time."""
_NUMBERS = ("layer_idx", "layer_id", "layer_number", "layer_index", "block_idx")


@dataclass(frozen=True)
class Stack:
    """The layers of a model, and which of them are traced."""

    name: str
    """Of the list that they are in."""
    kinds: tuple[object, ...]
    """Equal for layers that compute alike."""

    @property
    def traced(self) -> tuple[int, ...]:
        """The first layer, whose input is no other one's output, and one of each kind after it."""
        first: dict[object, int] = {}
        for number, kind in enumerate(self.kinds[1:], start=1):
            first.setdefault(kind, number)
        return (0, *sorted(first.values()))

    def place(self, path: str) -> int | None:
        """The layer in whose name a path starts."""
        hit = re.match(rf"{re.escape(self.name)}\.(\d+)(?:\.|$)", path)
        return None if hit is None else int(hit[1])

    def renamed(self, path: str, number: int) -> str:
        """The same path in another layer."""
        return re.sub(rf"^({re.escape(self.name)}\.)\d+", rf"\g<1>{number}", path)


class NotAChain(Exception):  # noqa: N818 - says what the layers are
    """The layers of a traced graph cannot be told from what is between them."""


def stack_of(model: nn.Module) -> Stack | None:
    """The layers of a model, where tracing some of them is enough."""
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    long = [(name, found) for name, found in lists if len(found) >= LEAST]
    outermost = [(n, m) for n, m in long if not any(n.startswith(f"{o}.") for o, _ in long)]
    if len(outermost) != 1:
        return None
    name, layers = outermost[0]
    rows = _by_layer(text_config(getattr(model, "config", None)), len(layers))
    stack = Stack(name, tuple((kind_of(m), *rows[at]) for at, m in enumerate(layers)))
    return stack if len(stack.traced) <= len(layers) // 2 else None


def _by_layer(config: Any, count: int) -> list[tuple[object, ...]]:
    """What a configuration lists for each layer."""
    lists = [list(map(repr, each)) for _, each in _lists(config, count)]
    return [tuple(each[at] for each in lists) for at in range(count)]


def _lists(config: Any, count: int) -> list[tuple[str, Any]]:
    found = sorted(vars(config).items()) if config is not None else []
    return [(n, v) for n, v in found if isinstance(v, list | tuple) and len(v) == count]


def kind_of(layer: nn.Module) -> object:
    """Classes, settings and shapes of a layer and all that is in it."""
    return tuple(
        (name, type(module), _settings(module), _shapes(module))
        for name, module in layer.named_modules()
    )


def _settings(module: nn.Module) -> object:
    own = (pair for pair in vars(module).items() if not pair[0].startswith("_"))
    return tuple(sorted((name, _said(value)) for name, value in own if name not in _NUMBERS))


def _said(value: object) -> str:
    """Equal only for what is surely equal: an object of another class is itself alone."""
    plain = (int, float, str, bool, type(None), list, tuple, dict)
    if isinstance(value, partial):
        return repr((id(value.func), value.args, value.keywords))
    return repr(value) if isinstance(value, plain) else str(id(value))


def _shapes(module: nn.Module) -> object:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in own)


@contextmanager
def shortened(model: nn.Module, stack: Stack) -> Iterator[None]:
    """Inside, the model has the traced layers only; afterwards all of them again."""
    layers, count = model.get_submodule(stack.name), len(stack.kinds)
    whole = dict(layers._modules)
    config = text_config(getattr(model, "config", None))
    before = dict(_lists(config, count))
    if getattr(config, "num_hidden_layers", None) == count:
        before["num_hidden_layers"] = count
    layers._modules = {str(p): whole[str(n)] for p, n in enumerate(stack.traced)}
    try:
        for name, value in before.items():
            short = len(stack.traced) if isinstance(value, int) else _picked(value, stack)
            setattr(config, name, short)
        yield
    finally:
        layers._modules = whole
        for name, value in before.items():
            setattr(config, name, value)


def _picked(values: Any, stack: Stack) -> Any:
    return type(values)(values[number] for number in stack.traced)


@dataclass(frozen=True, eq=False)
class _Chain:
    """The traced layers in a graph, each of which reads what the one before gives."""

    nodes: tuple[tuple[Node, ...], ...]
    """Of each layer, in graph order."""
    outs: tuple[Node, ...]
    """The one result of each layer."""
    after: Node
    """What comes after all of them."""

    @staticmethod
    def of(gm: GraphModule, stack: Stack) -> "_Chain":
        """
        Raises:
            NotAChain: a layer has several results, or reads those of other layers.
        """
        order = list(gm.graph.nodes)
        layer = {node: at for node in order if (at := _layer(node, stack)) is not None}
        count = len(stack.traced)
        nodes = tuple(tuple(n for n in order if layer.get(n) == p) for p in range(count))
        calls = [at for at, n in enumerate(order) if n in layer and n.op != "get_attr"]
        early = {*order[: calls[0]]} if calls else set()
        outs: list[Node] = []
        for p, own in enumerate(nodes):
            read = {source for node in own for source in node.all_input_nodes}
            foreign = {n for n in read if layer.get(n) != p and n.op != "get_attr"} - {*outs[-1:]}
            given = [n for n in own if any(layer.get(user) != p for user in n.users)]
            if len(given) != 1 or not foreign <= early - layer.keys():
                raise NotAChain(f"layer {p} is no link of a chain")
            readers = {layer.get(user, count) for user in given[0].users} - {p}
            if readers != {p + 1}:
                raise NotAChain(f"what layer {p} gives is read elsewhere")
            outs.append(given[0])
        return _Chain(nodes, tuple(outs), order[calls[-1] + 1])


def expand(gm: GraphModule, model: nn.Module, stack: Stack) -> None:
    """Copies the traced layers until the graph is that of the whole model, in place.

    Args:
        gm: traced while the model was shortened.
        model: with all its layers.
        stack: of the model.

    Raises:
        NotAChain: the graph was left as it is.
    """
    chain = _Chain.of(gm, stack)
    template = {stack.kinds[number]: p for p, number in enumerate(stack.traced) if p}
    _check(chain, model, stack, template)
    hidden = chain.outs[0]
    # Parameters stand in front of buffers, each in the order of the layers.
    spent = [node for own in chain.nodes[1:] for node in own]
    buffers = {n: not _is_parameter(gm, n) for n in spent if n.op == "get_attr"}
    first = {is_buffer: node for node, is_buffer in reversed(buffers.items())}
    for p in range(1, len(stack.traced)):
        edit.delete_module(gm, f"{stack.name}.{p}")
    for number in range(1, len(stack.kinds)):
        p = template[stack.kinds[number]]
        values = {chain.outs[p - 1]: hidden}
        for node in chain.nodes[p]:
            before = first[buffers[node]] if node in buffers else chain.after
            values[node] = new = edit.copy_node(gm, node, values, before=before)
            _move(gm, model, new, stack, number)
        hidden = values[chain.outs[p]]
    inside = {*spent, *chain.nodes[0]}
    chain.outs[-1].replace_all_uses_with(hidden, delete_user_cb=lambda user: user not in inside)
    for node in reversed(spent):
        gm.graph.erase_node(node)
    gm.graph.lint()
    gm.recompile()


def _check(chain: _Chain, model: nn.Module, stack: Stack, template: dict[object, int]) -> None:
    """Raises NotAChain where layers of one kind were traced unlike, or hold foreign tensors."""
    like = template.get(stack.kinds[0])
    if like is not None:
        first, second = ([_spelled(n, stack) for n in chain.nodes[p]] for p in (0, like))
        if first != second:
            raise NotAChain("layers of one kind compute unlike things")
    held = {*dict(model.named_parameters(remove_duplicate=False)), *dict(model.named_buffers())}
    for p, number in enumerate(stack.traced):
        reads = (str(n.target) for n in chain.nodes[p] if n.op == "get_attr")
        if lacking := [name for name in reads if stack.renamed(name, number) not in held]:
            raise NotAChain(f"{lacking[0]} is no tensor of the model")


def _spelled(node: Node, stack: Stack) -> tuple[str, str, str]:
    shape = ops.shape(node)
    return node.op, stack.renamed(str(node.target), 0), str(shape)


def _layer(node: Node, stack: Stack) -> int | None:
    """The traced layer that a node is in, or whose tensor it reads."""
    if node.op == "get_attr":
        return stack.place(str(node.target))
    around = (stack.place(path) for path, _ in ops.module_stack(node))
    return next((at for at in around if at is not None), None)


def _is_parameter(gm: GraphModule, node: Node) -> bool:
    return isinstance(attrgetter(str(node.target))(gm), nn.Parameter)


def _move(gm: GraphModule, model: nn.Module, node: Node, stack: Stack, number: int) -> None:
    """Makes a copied node one of another layer."""
    around = node.meta.get("nn_module_stack")
    if around:
        node.meta["nn_module_stack"] = {
            key: (stack.renamed(str(path), number), kind) for key, (path, kind) in around.items()
        }
    if node.op == "get_attr":
        name = stack.renamed(str(node.target), number)
        node.target = name
        owner, _, leaf = name.rpartition(".")
        tensor = getattr(model.get_submodule(owner), leaf)
        (edit.set_parameter if isinstance(tensor, nn.Parameter) else edit.set_buffer)(
            gm, name, tensor
        )
