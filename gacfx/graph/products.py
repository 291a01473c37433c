"""The sizes of a product of two tensors, whatever operator multiplies them.

linear(x [B, S, K], w [N, K])             rows B S, inner K, columns N
w [N, K] @ x [B, K, S]                    the same product, from the left
bmm(x [G, M, K], w.view(G, K, N))         the same G times
einsum("bqhd,bkhd->bhqk", q, k)           times B H, rows Q, inner D, columns K
conv2d(x [B, C, H, W], w [N, C, P, P])    rows B H/P W/P, inner C P P, columns N
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from torch.fx import Node

from gacfx.core.sites import Layout
from gacfx.graph import ops
from gacfx.graph.ops import Op

_SHOWS = (
    *("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "expand", "flatten", "unflatten"),
    *("select", "slice", "chunk", "split", "split_with_sizes", "unbind", "getitem", "narrow"),
    "index_select",
    *("transpose", "permute", "t", "T", "mT", "numpy_T", "swapaxes", "movedim"),
    *("to", "_to_copy", "float", "half", "bfloat16", "double", "type_as"),
    *("contiguous", "clone", "detach"),
)
"""Operators whose result is their input, in another shape or dtype, or a part of it."""

Sizes = tuple[int, ...]


class NotUnderstood(ValueError):  # noqa: N818 - names the situation
    """It multiplies, but the sizes cannot be told; carries the reason."""


@dataclass(frozen=True, slots=True)
class Product:
    """Y[M, N] = X[M, K] W[K, N], ``count`` times; each size by its factors, one for each axis."""

    count: Sizes
    m: Sizes
    k: Sizes
    n: Sizes
    layout: Layout
    weight: str | None = None
    """The parameter that W is, or is a view of; None when both are computed."""

    @property
    def outer(self) -> bool:
        """Nothing is summed over: each number is multiplied by itself."""
        return prod(self.k) == 1


def parameter_behind(node: object) -> str | None:
    """Name of the parameter that ``node`` is, in any shape or dtype, or a part of."""
    while isinstance(node, Node):
        if node.op == "get_attr":
            return str(node.target)
        if node.op not in ("call_function", "call_method") or ops.call_name(node) not in _SHOWS:
            return None
        node = next(iter(node.all_input_nodes), None)
    return None


def product_of(node: Node, op: Op) -> Product:
    """The product that a node computes.

    Args:
        node: of known shapes.
        op: what it is; no attention.

    Raises:
        NotUnderstood: more than two factors, or an axis that is summed in one of them alone.
    """
    x, y = ops.operands(node)
    if not isinstance(x, Node) or not isinstance(y, Node):
        raise NotUnderstood("a product of more or less than two tensors")
    a, b, out = ops.shape(x), ops.shape(y), ops.shape(node)
    if a is None or b is None or out is None:
        raise NotUnderstood("a product of tensors without shapes")
    if op is Op.CONV:
        return _convolution(node, a, b, out, parameter_behind(y))
    if op is Op.GROUPED_MM:
        if (len(a), len(b)) != (2, 3):
            raise NotUnderstood("a grouped product of other ranks")
        return Product(b[:1], a[:1], b[1:2], b[2:], Layout.EXPERTS, parameter_behind(y))
    b = b[::-1] if op is Op.LINEAR else b
    if op is Op.CONTRACTION:
        return _of_either(_contracted(node, a, b), parameter_behind(x), parameter_behind(y))
    found = _matrices(a, b)
    if (name := parameter_behind(y)) is not None:
        kept = Layout.LINEAR if op is Op.LINEAR or ops.transposed(y) else Layout.CONV1D
        stored = ops.weight_name(y) is not None and len(b) == 2
        return _weighted(found, name, kept if stored else Layout.RESHAPED, b[:-2])
    if (name := parameter_behind(x)) is not None:  # its rows are columns of the product turned over
        return _weighted(_turned(found), name, Layout.RESHAPED, a[:-2])
    return found


def _turned(found: Product) -> Product:
    return replace(found, m=found.n, n=found.m)


def _of_either(found: Product, left: str | None, right: str | None) -> Product:
    """A contraction, whose weight may be either factor."""
    if left is not None and right is None:
        found = _turned(found)
    weight = right or left
    layout = Layout.ACTIVATION if weight is None else Layout.RESHAPED
    return replace(found, layout=layout, weight=weight)


def _matrices(a: Sizes, b: Sizes) -> Product:
    """x [.., M, K] and y [.., K, N]; either may be a vector."""
    a, b = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    pairs = zip(_padded(a[:-2], b[:-2]), _padded(b[:-2], a[:-2]), strict=True)
    count = tuple(max(pair) for pair in pairs)
    return Product(count, a[-2:-1], a[-1:], b[-1:], Layout.ACTIVATION)


def _padded(sizes: Sizes, other: Sizes) -> Sizes:
    return (*(1 for _ in range(len(other) - len(sizes))), *sizes)


def _weighted(found: Product, weight: str, layout: Layout, own: Sizes) -> Product:
    """The product with a weight, one matrix for each of its ``own`` leading axes; the rows of all
    other axes go through the same one.
    """
    each = list(zip(found.count, _padded(own, found.count), strict=True))
    rows = tuple(n for n, mine in each if mine == 1)
    count = tuple(n for n, mine in each if mine != 1)
    return replace(found, count=count, m=(*rows, *found.m), layout=layout, weight=weight)


def _contracted(node: Node, a: Sizes, b: Sizes) -> Product:
    """Any axes of two tensors, told by labels."""
    first, second, out = _labels(node, len(a), len(b))
    size = dict(zip(first, a, strict=True)) | {
        label: n for label, n in zip(second, b, strict=True) if n != 1
    }
    if len({*first}) < len(first) or len({*second}) < len(second):
        raise NotUnderstood("a product along a diagonal")
    both, kept = {*first} & {*second}, {*out}
    if ({*first} ^ {*second}) - kept:
        raise NotUnderstood("a product of a sum")

    def of(labels: Sequence[str]) -> Sizes:
        return tuple(size[label] for label in labels)

    return Product(
        count=of([x for x in first if x in both and x in kept]),
        m=of([x for x in first if x not in both]),
        k=of([x for x in first if x in both and x not in kept]),
        n=of([x for x in second if x not in both]),
        layout=Layout.ACTIVATION,
    )


def _labels(node: Node, rank: int, other: int) -> tuple[list[str], list[str], list[str]]:
    """A letter for each axis of both factors and of the result; equal ones are one axis."""
    name = ops.name_of(node)
    if name == "einsum":
        equation = ops.argument(node, "equation", 0)
        if not isinstance(equation, str):
            raise NotUnderstood("axes that are told by numbers")
        return _of_equation(equation.replace(" ", ""), rank, other)
    first = [f"x{at}" for at in range(rank)]
    second = [f"y{at}" for at in range(other)]
    if name == "tensordot":
        dims = ops.argument(node, "dims", 2)
        pairs = dims if isinstance(dims, list | tuple) else (range(rank - dims, rank), range(dims))
        if len(node.args) > 3:
            pairs = (node.args[2], node.args[3])
        for mine, theirs in zip(*pairs, strict=True):
            second[theirs] = first[mine]
    elif other == 0 or rank == 0:
        raise NotUnderstood("a product with a number")
    else:  # inner sums the last axes, and so do products with a vector
        second[-1] = first[-1]
    shared = {*first} & {*second}
    return first, second, [x for x in (*first, *second) if x not in shared]


def _of_equation(equation: str, rank: int, other: int) -> tuple[list[str], list[str], list[str]]:
    inputs, arrow, out = equation.partition("->")
    texts = inputs.split(",")
    if len(texts) != 2:
        raise NotUnderstood("a product of more or less than two tensors")
    first, second = (_axes(text, n) for text, n in zip(texts, (rank, other), strict=True))
    if arrow:
        longest = max(rank - len(_letters(texts[0])), other - len(_letters(texts[1])))
        return first, second, _axes(out, len(_letters(out)) + ("..." in out) * longest)
    once = [x for x in (*first, *second) if (first + second).count(x) == 1]
    dots = [x for x in dict.fromkeys((*first, *second)) if x.startswith(".")]
    return first, second, [*dots, *once]


def _letters(text: str) -> str:
    return text.replace("...", "")


def _axes(text: str, rank: int) -> list[str]:
    """A letter for each axis; those behind three dots count from the last one of them."""
    if "..." not in text:
        return list(text)
    before, after = text.split("...")
    count = rank - len(before) - len(after)
    return [*before, *(f".{at}" for at in range(count, 0, -1)), *after]


def _convolution(node: Node, x: Sizes, w: Sizes, out: Sizes, weight: str | None) -> Product:
    """Each patch is a row; what it overlaps with others is read again."""
    axes = len(w) - 2
    long = ops.name_of(node) in ("convolution", "_convolution")
    if long and ops.argument(node, "transposed", 6):
        raise NotUnderstood("a transposed convolution")
    groups = ops.argument(node, "groups", 8 if long else 6) or 1
    if groups != 1:
        raise NotUnderstood(f"a convolution in {groups} groups")
    batch = out[: len(out) - axes - 1]
    return Product((), (*batch, *out[len(out) - axes :]), w[1:], w[:1], Layout.CONVOLUTION, weight)
