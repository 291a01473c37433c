"""Abstract interpreter of an exported aten graph: node -> terms of its axes.

Unknown operators are never guessed: their inputs are frozen, their outputs are new frozen axes, and
a note names them.
"""

import inspect
import operator
from typing import Any

import torch
from torch import SymInt, Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from gacfx.coupling import rules_index, rules_norm, rules_shape  # noqa: F401 - for their rules
from gacfx.coupling.rules import RULES, Call, NotFollowed, Rule, Value
from gacfx.coupling.rules_compute import elementwise
from gacfx.coupling.terms import Axes, Conflict, Term, Terms, freeze
from gacfx.errors import CaptureError
from gacfx.graph.symbols import concrete, numbers


class Interpreter:
    """Runs a graph over axis terms.

    Attributes:
        params: parameter name -> its axes, in graph order; tied names share their terms.
        values: node -> the axes of its tensor, a list of them where it gives several tensors, None
            where it gives none; ask ``find`` for what an axis is made of once all is known.
    """

    def __init__(self, gm: GraphModule) -> None:
        self.params: dict[str, Axes] = {}
        self._gm = gm
        self._terms = Terms()
        self.values: dict[Node, Value] = {}
        self._tensors: dict[int, Axes] = {}
        self._problems: dict[str, list[str]] = {}

    def run(self) -> None:
        """Interpret every node once, in graph order.

        Raises:
            CaptureError: the graph has no fake values.
        """
        for node in self._gm.graph.nodes:
            self.values[node] = self._value(node)
            for remark in self._terms.remarks:
                self._note(node, remark)
            self._terms.remarks.clear()

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be followed and was therefore frozen, one line for each problem."""
        return tuple(
            f"{problem}, at {nodes[0]}" + (f" and {len(nodes) - 1} more" if nodes[1:] else "")
            for problem, nodes in self._problems.items()
        )

    def _note(self, node: Node, problem: str) -> None:
        self._problems.setdefault(problem, []).append(node.name)

    def _value(self, node: Node) -> Value:
        if node.op == "placeholder":
            return _call(node, self._terms, ()).fresh(f"input {node.target}")
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op == "output":
            # What leaves the model is seen by its caller, as what enters it.
            freeze((term for axes in self._inputs(node) for term in axes), "output")
            return None
        if node.target is operator.getitem:
            return self._item(*node.args)
        return self._computed(node)

    def _attribute(self, name: str) -> Axes | None:
        tensor = operator.attrgetter(name)(self._gm)
        if not isinstance(tensor, Tensor):
            return None
        is_param = isinstance(tensor, torch.nn.Parameter)
        if id(tensor) not in self._tensors:
            why = "" if is_param else f"buffer {name}"
            self._tensors[id(tensor)] = tuple(Term(size, why) for size in tensor.shape)
        if is_param:
            self.params[name] = self._tensors[id(tensor)]
        return self._tensors[id(tensor)]

    def _item(self, source: Any, at: Any) -> Value:
        values = self.values[source]
        return values[at] if isinstance(values, list) else None

    def _computed(self, node: Node) -> Value:
        call = _call(node, self._terms, self._inputs(node))
        if any(map(_depends_on_data, (*node.all_input_nodes, node))):
            return self._give_up(call, "sizes that depend on data")
        rule = _find_rule(node.target)
        if rule is None:
            return self._give_up(call, "unknown operator") if _has_effect(call) else None
        args, options = _by_schema(node)
        try:
            value = _apply(rule, call, self._bind(args), self._bind(options))
        except (Conflict, NotFollowed) as error:
            return self._give_up(call, f"not followed ({error})")
        except Exception as error:  # one rule that is wrong here must not end the analysis
            return self._give_up(call, f"not followed ({type(error).__name__}: {error})")
        if _sizes(value) != list(call.shapes):
            return self._give_up(call, "not followed (other shape)")
        return value

    def _give_up(self, call: Call, problem: str) -> Value:
        target = str(call.node.target)
        self._note(call.node, f"{problem}: {target}")
        freeze((term for axes in call.inputs for term in axes), f"opaque {target}")
        # Sizes inside the operator are literal as far as anybody knows, so results stay as well.
        return call.fresh(f"opaque {target}")

    def _inputs(self, node: Node) -> tuple[Axes, ...]:
        found: list[Axes] = []
        for source in node.all_input_nodes:
            if source.op != "get_attr" and "val" not in source.meta:
                raise CaptureError(
                    f"node {source.name} has no fake value; capture the model with "
                    "torch.export.export(..., strict=False).module(check_guards=False)"
                )
            found += _tensors(self.values[source])
        return tuple(found)

    def _bind(self, arg: Any) -> Any:
        """The argument as a rule sees it: axes for a tensor, plain values otherwise."""
        if isinstance(arg, Node):
            value = self.values[arg]
            return _plain(arg.meta.get("val")) if value is None else value
        if isinstance(arg, dict):
            return {name: self._bind(item) for name, item in arg.items()}
        return [self._bind(item) for item in arg] if isinstance(arg, list | tuple) else arg


def _call(node: Node, terms: Terms, inputs: tuple[Axes, ...]) -> Call:
    value = node.meta.get("val")
    several = value if isinstance(value, list | tuple) else [value]
    shapes = tuple(map(_shape, several))
    return Call(node, terms, inputs, shapes, single=several is not value)


def _shape(value: object) -> tuple[int, ...] | None:
    """None for what is no tensor, and for a tensor with a size that depends on data."""
    if not isinstance(value, Tensor):
        return None
    return numbers(value.shape)


def _plain(value: Any) -> Any:
    """A number that is computed from open sizes, as a number."""
    return concrete(value) if isinstance(value, SymInt) else value


def _depends_on_data(node: Node) -> bool:
    value = node.meta.get("val")
    several = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, Tensor) and _shape(each) is None for each in several)


def _by_schema(node: Node) -> tuple[list[Any], dict[str, Any]]:
    """Positional arguments and the others as the operator's schema has them, however they came."""
    args, given = list(node.args), dict(node.kwargs)
    assert isinstance(node.target, OpOverload)
    places = [each for each in node.target._schema.arguments if not each.kwarg_only]
    last = max((at for at, each in enumerate(places) if each.name in given), default=-1)
    for each in places[len(args) : last + 1]:
        args.append(given.pop(each.name, each.default_value))
    return args, given


def _find_rule(target: object) -> Rule | None:
    if not isinstance(target, OpOverload):
        return None
    name = str(target).rpartition(".")[0]
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and torch.Tag.pointwise in target.tags:
        # With fewer elements a generator gives other numbers.
        return None if torch.Tag.nondeterministic_seeded in target.tags else elementwise
    return rule


def _apply(rule: Rule, call: Call, args: list[Any], options: dict[str, Any]) -> Value:
    try:
        return rule(call, *args, **options)
    except TypeError as error:
        try:
            inspect.signature(rule).bind(call, *args, **options)
        except TypeError as mismatch:
            # An overload that the rule was not written for.
            raise NotFollowed(str(mismatch)) from error
        raise


def _has_effect(call: Call) -> bool:
    """The node makes or changes a tensor; assertions and sizes do not."""
    target = call.node.target
    changes = isinstance(target, OpOverload) and target._schema.is_mutable
    return changes or any(shape is not None for shape in call.shapes)


def _tensors(value: Value) -> list[Axes]:
    if isinstance(value, list):
        return [axes for axes in value if axes is not None]
    return [] if value is None else [value]


def _sizes(value: Value) -> list[tuple[int, ...] | None]:
    """Shape of every result, to be compared with what torch says."""
    several = value if isinstance(value, list) else [value]
    return [None if axes is None else tuple(term.size for term in axes) for axes in several]
