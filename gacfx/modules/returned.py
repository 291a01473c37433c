"""What a block returns, read from its code: whether zeros can take its place, and in which shape.

A block can be skipped when what it returns first is the output of its closing layer and nothing
more: ``return self.down_proj(x)``, ``x = self.o_proj(x); return x, weights``. A residual sum or a
norm behind the closing layer would be lost.
"""

import ast
import inspect
import textwrap
from dataclasses import dataclass

from torch import nn

from gacfx.errors import UnsupportedModel
from gacfx.modules.dense import is_conv1d


@dataclass(frozen=True)
class Returned:
    """How a block is called, and what it gives back."""

    closing: str
    """Name in the block of the layer whose output is returned."""
    size: int | None
    """Length of the tuple that is returned; None for the tensor itself."""
    arguments: tuple[str, ...]
    """Names of what it takes, in order."""


def returned_of(name: str, block: nn.Module) -> Returned:
    """What the forward of a block returns.

    Raises:
        UnsupportedModel: it cannot be read, or returns something else than the output of a layer.
    """
    forward = inspect.unwrap(type(block).forward)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError) as error:
        raise UnsupportedModel(
            f"{name}: the code of {type(block).__name__} cannot be read, so nothing can take its "
            "place; leave the block in"
        ) from error
    found = {_read(block, tree, each) for each in ast.walk(tree) if isinstance(each, ast.Return)}
    if len(found) != 1 or None in found:
        raise UnsupportedModel(
            f"{name}: {type(block).__name__} does not simply return the output of its last layer, "
            "so zeros cannot take its place; leave the block in"
        )
    closing, size = found.pop() or ("", None)
    arguments = tuple(inspect.signature(forward).parameters)[1:]
    return Returned(closing, size, arguments)


def _read(block: nn.Module, tree: ast.AST, found: ast.Return) -> tuple[str, int | None] | None:
    """(closing layer, length of the tuple) of one return; None where it is something else."""
    value, size = found.value, None
    if isinstance(value, ast.Tuple):
        size = len(value.elts)
        value = value.elts[0] if value.elts else None
    closing = _closing(block, tree, value, found.lineno)
    return None if closing is None else (closing, size)


def _closing(block: nn.Module, tree: ast.AST, value: ast.expr | None, line: int) -> str | None:
    """The layer whose output a value is, through dropout; None where there is none."""
    if isinstance(value, ast.Name):
        before = _assigned(tree, value.id, line)
        return None if before is None else _closing(block, tree, before.value, before.lineno)
    if not isinstance(value, ast.Call) or len(value.args) != 1 or value.keywords:
        return None
    of = value.func
    if not (isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name)):
        return None
    layer = getattr(block, of.attr, None) if of.value.id == "self" else None
    if isinstance(layer, nn.Dropout):
        return _closing(block, tree, value.args[0], line)
    product = layer is not None and (isinstance(layer, nn.Linear) or is_conv1d(layer))
    return of.attr if product else None


def _assigned(tree: ast.AST, name: str, line: int) -> ast.Assign | None:
    """The last statement before a line that assigns to a name; None where it is no plain one, or
    does not always run."""
    writes = [
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        if each.id == name and each.lineno < line
    ]
    if not writes:
        return None
    last = max(writes, key=lambda each: each.lineno)
    function = next(each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
    for each in function.body:
        if isinstance(each, ast.Assign) and len(each.targets) == 1 and each.targets[0] is last:
            return each
    return None
