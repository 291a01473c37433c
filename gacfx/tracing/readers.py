"""Which linears have their weight read by the code around them, without being called.

    self.dt_proj(x)                    a call: another layer in its place is called as well
    self.dt_proj.weight @ x            a read: another layer has no such weight
    x.to(self.dt_proj.weight.dtype)    a look: any layer answers that

The graph shows what one forward did; the code also says what another device or a cache would do.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache

from torch import nn

_LOOKS = ("dtype", "device", "is_meta", "is_cuda", "requires_grad")
_ASKS = ("isinstance", "hasattr")
_APART = re.compile(r"__init__|_?(init|reset|tie|set|get|resize|load|prune|save|convert)_")
"""Methods that are no part of a forward."""
_TRAINS = re.compile(r"(?<![\w.])(?<!not )(self\.)?(training|pretraining_tp)\b")
"""In a condition: what follows runs in training only, or as Bloom did while it was trained."""


def read_weights(model: nn.Module) -> dict[str, str]:
    """Name of a weight -> class whose code reads it, for all that are read without a call."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        cls: object = type(module)
        for path in sorted(_reads(cls)):
            weight = ".".join(filter(None, (name, path, "weight")))
            if _is_held(module, path):
                found.setdefault(weight, type(module).__name__)
    return found


def _is_held(module: nn.Module, path: str) -> bool:
    inner: object = module
    for name in path.split("."):
        inner = getattr(inner, name, None)
    return isinstance(inner, nn.Module)


@cache
def _reads(cls: object) -> frozenset[str]:
    """Paths below ``self`` whose weight a class reads, its bases included."""
    assert isinstance(cls, type)
    found: set[str] = set()
    for base in cls.__mro__:
        if base in (nn.Module, object):
            break
        tree = _source(base.__module__)
        code = None if tree is None else _class_in(tree, base.__qualname__)
        if code is not None:
            found.update(path for method in _methods(code) for path in _read_in(method))
    return frozenset(found)


@cache
def _source(module: str) -> ast.Module | None:
    """None where there is no source: what such a class reads is not known."""
    try:
        return ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return None


def _class_in(tree: ast.Module, name: str) -> ast.ClassDef | None:
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return next((each for each in classes if each.name == name), None)


def _methods(code: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for node in code.body:
        if isinstance(node, ast.FunctionDef) and not _APART.match(node.name):
            yield node


def _read_in(node: ast.AST, parent: ast.AST | None = None) -> Iterator[str]:
    """Paths whose weight is read below a node; what only runs in training is left out."""
    if isinstance(node, ast.If) and _TRAINS.search(ast.unparse(node.test)):
        for otherwise in node.orelse:
            yield from _read_in(otherwise, node)
        return
    if isinstance(node, ast.Attribute) and node.attr == "weight" and not _is_look(node, parent):
        path = ast.unparse(node.value)
        if re.fullmatch(r"self(\.\w+)+", path):
            yield path.removeprefix("self.")
    for each in ast.iter_child_nodes(node):
        yield from _read_in(each, node)


def _is_look(node: ast.Attribute, parent: ast.AST | None) -> bool:
    if not isinstance(node.ctx, ast.Load):
        return True
    if isinstance(parent, ast.Attribute):
        return parent.attr in _LOOKS
    return isinstance(parent, ast.Call) and ast.unparse(parent.func) in _ASKS
