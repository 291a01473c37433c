"""Who reads and who writes the residual stream: GraphModule -> Residual.

    model.embed_tokens          writes
    layers.0.input_layernorm    q_proj, k_proj, v_proj read it through this norm
    layers.0.self_attn.o_proj   writes

A stream may be turned by any orthogonal matrix if only these parts know its coordinates: what lies
between them adds vectors of the stream, scales whole vectors, or moves tokens. Every node that
carries the stream is looked at, and the first one that does anything else refuses the model.
Source: SliceGPT (arXiv 2401.15024), computational invariance.
"""

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from gacfx.coupling.interpreter import Interpreter
from gacfx.coupling.terms import Axes, Kind, Term, atoms, find
from gacfx.errors import UnsupportedModel
from gacfx.graph import ops
from gacfx.graph.ops import Op

STREAM = ""
"""What a node carries that carries the stream itself; else the name of the norm it comes from."""

_MOVES = ("alias", "expand", "index", "reshape", "select", "slice", "squeeze", "unsqueeze", "view")
_COPIES = ("clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "to", "_to_copy")
_KEEPS = frozenset((*_MOVES, *_COPIES, "_unsafe_view"))
"""Operators that move or cast whole vectors, as long as the last axis stays what it was."""
_SCALES = frozenset(("mul", "mul_", "div", "div_"))
_ADDS = frozenset(("add", "add_", "sub", "sub_"))
_PRODUCTS = (Op.LINEAR, Op.ADDMM, Op.MATMUL)


@dataclass(frozen=True)
class Residual:
    """The parts of a model that know the coordinates of its residual stream, by module name."""

    size: int
    """Coordinates of the stream."""
    embeddings: tuple[str, ...]
    """Tables whose rows are put into the stream."""
    writers: tuple[str, ...]
    """Linear layers whose outputs are added to it, in graph order."""
    readers: dict[str, str]
    """Linear layer -> norm that it reads the stream through, in graph order."""
    norms: tuple[str, ...]
    """Norms of the stream, in graph order."""


def residual_stream(gm: GraphModule, embedding: str) -> Residual:
    """The residual stream of a captured model.

    Args:
        gm: an exported aten graph, from real or meta tensors.
        embedding: name of the module that puts tokens into the stream.

    Raises:
        UnsupportedModel: there is none, or something else than norms, linear layers and sums knows
            its coordinates; says what and where.
        CaptureError: the graph has no fake values.
    """
    interpreter = Interpreter(gm)
    interpreter.run()
    return _Walk(gm, interpreter, embedding).run()


class _Walk:
    """One pass over the nodes, in graph order."""

    def __init__(self, gm: GraphModule, interpreter: Interpreter, embedding: str) -> None:
        self._nodes, self._values = tuple(gm.graph.nodes), interpreter.values
        self._params = interpreter.params
        self._axis = self._of_embedding(embedding)
        self._seen: set[str] = set()
        """Parameters that are accounted for."""
        self._norm_modules = self._norm_parameters()
        self._carries: dict[Node, str] = {}
        self._embeddings: dict[str, None] = {}
        self._writers: dict[str, None] = {}
        self._readers: dict[str, str] = {}
        self._norms: dict[str, None] = {}

    def run(self) -> Residual:
        """The parts that were found, once nothing is left that knows the stream."""
        for node in self._nodes:
            if node.op == "call_function":
                self._look(node)
            elif node.op == "output":
                self._check_unread(node)
        for name in self._params:
            if self._shows(self._params[name]) and name not in self._seen:
                raise UnsupportedModel(
                    f"{name}: has the hidden size and neither reads nor writes the residual stream "
                    "as a linear layer, an embedding or a norm does"
                )
        return Residual(
            self._axis.size,
            tuple(self._embeddings),
            tuple(self._writers),
            self._readers,
            tuple(self._norms),
        )

    def _of_embedding(self, embedding: str) -> Term:
        """The atom that the coordinates of the stream are."""
        for node in self._nodes:
            if ops.short_name(node) == "embedding" and _path(node) == embedding:
                axis = find(self._axes(node)[-1])
                if axis.kind is not Kind.ATOM:
                    raise UnsupportedModel(
                        f"{embedding}: its vectors are taken apart, so they cannot be turned"
                    )
                if axis.frozen:
                    raise UnsupportedModel(f"the hidden size is fixed: {axis.frozen}")
                return axis
        raise UnsupportedModel(f"{embedding}: no token becomes a vector there")

    def _norm_parameters(self) -> dict[str, list[str]]:
        """Module -> its vectors along the stream that are no biases of a product."""
        found: dict[str, list[str]] = {}
        for node in self._nodes:
            if node.op != "get_attr" or str(node.target) not in self._params:
                continue
            axes = self._params[str(node.target)]
            module = str(node.target).rpartition(".")[0]
            along = len(axes) == 1 and self._is_stream(axes)
            if module and along and not any(map(_adds_bias, node.users)):
                found.setdefault(module, []).append(str(node.target))
        return found

    def _axes(self, node: object) -> Axes:
        value = self._values.get(node) if isinstance(node, Node) else None
        return tuple(map(find, value)) if isinstance(value, tuple) else ()

    def _is_stream(self, axes: Axes) -> bool:
        return bool(axes) and find(axes[-1]) is find(self._axis)

    def _shows(self, axes: Axes) -> bool:
        own = find(self._axis)
        return any(atom is own for axis in axes for atom in atoms(axis))

    def _look(self, node: Node) -> None:
        """What a node carries, and which part of the model it is."""
        inputs = {
            each: self._carries[each] for each in node.all_input_nodes if each in self._carries
        }
        if ops.op_of(node) in _PRODUCTS and ops.weight_name(ops.operands(node)[1]) in self._params:
            self._product(node, inputs)
        elif ops.short_name(node) == "embedding" and self._is_stream(self._axes(node)):
            self._embedding(node)
        elif inputs and self._axes(node):
            self._between(node, inputs)

    def _product(self, node: Node, inputs: dict[Node, str]) -> None:
        """A linear layer reads the stream, or writes it, or both, or neither."""
        source, weight = ops.operands(node)
        held, path = ops.origin(weight), _path(node)
        assert held is not None
        reads = isinstance(source, Node) and source in inputs
        writes = self._is_stream(self._axes(node))
        if not reads and not writes and not inputs and not self._shows(self._axes(held)):
            return
        if len(self._axes(held)) != 2 or len(inputs) > reads:
            raise UnsupportedModel(f"{path}: is no linear layer, and works on the residual stream")
        self._seen |= {str(each.target) for each in node.all_input_nodes if each.op == "get_attr"}
        self._seen.add(str(held.target))
        if reads:
            norm = inputs[source]  # type: ignore[index]
            if norm == STREAM:
                raise UnsupportedModel(
                    f"{path}: reads the residual stream without a norm, so that lost coordinates "
                    "would not be made up for"
                )
            if self._readers.setdefault(path, norm) != norm:
                raise UnsupportedModel(f"{path}: reads through {norm} and {self._readers[path]}")
        if writes:
            self._writers[path] = None
            self._carries[node] = STREAM

    def _embedding(self, node: Node) -> None:
        held = ops.origin(node.args[0])
        assert held is not None
        self._seen.add(str(held.target))
        self._embeddings[_path(node)] = None
        self._carries[node] = STREAM

    def _between(self, node: Node, inputs: dict[Node, str]) -> None:
        """Anything else that is given vectors of the stream."""
        name, kinds = ops.short_name(node), set(inputs.values())
        same = self._is_stream(self._axes(node))
        if same and len(inputs) == 1 and (name in _KEEPS or self._scales(node, name, inputs)):
            self._carries[node] = kinds.pop()
            return
        norm = _path(node) if _path(node) in self._norm_modules else None
        if norm is not None and kinds <= {STREAM, norm}:
            self._norms[norm] = None
            self._seen |= set(self._norm_modules[norm])
            if same:
                self._carries[node] = norm
            return
        if name in _ADDS and same and kinds == {STREAM} and self._only(node, inputs):
            self._carries[node] = STREAM
            return
        raise UnsupportedModel(_why(node, name, kinds))

    def _only(self, node: Node, inputs: dict[Node, str]) -> bool:
        """Nothing but vectors of the stream goes in."""
        return len(node.args) == 2 and all(each in inputs for each in node.args)

    def _scales(self, node: Node, name: str, inputs: dict[Node, str]) -> bool:
        """A whole vector is multiplied by one number."""
        if name not in _SCALES or (name.startswith("div") and node.args[0] not in inputs):
            return False
        if sum(each in inputs for each in node.args if isinstance(each, Node)) != 1:
            return False  # a square
        others = [each for each in node.all_input_nodes if each not in inputs]
        return all((ops.shape(each) or (1,))[-1] == 1 for each in others)

    def _check_unread(self, node: Node) -> None:
        if any(each in self._carries for each in node.all_input_nodes):
            raise UnsupportedModel(
                "the model gives vectors of its residual stream to its caller, who would get "
                "others; take its causal language model"
            )


def _why(node: Node, name: str, kinds: set[str]) -> str:
    """Why a node that is given vectors of the stream ends the analysis."""
    where = _path(node) or "the model"
    norms = sorted(kinds - {STREAM})
    if name in _ADDS and norms and STREAM in kinds:
        return (
            f"{norms[0]}: is a norm whose output goes into the residual stream ({where}), where "
            "its scale cannot be folded into the layers that read"
        )
    if ops.op_of(node) is Op.GROUPED_MM or "grouped_mm" in name:
        return f"{where}: experts in one tensor read the residual stream; only Linear layers can"
    what = f"the output of {norms[0]}" if norms else "the residual stream"
    return (
        f"{where}: {name} works on {what} coordinate by coordinate, which no rotation leaves alone"
    )


def _adds_bias(user: Node) -> bool:
    """The node is a product that a vector is added to, or an assertion about it."""
    return ops.op_of(user) in (Op.LINEAR, Op.ADDMM)


def _path(node: Node) -> str:
    stack = ops.module_stack(node)
    return stack[-1][0] if stack else ""
