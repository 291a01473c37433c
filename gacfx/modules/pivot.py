"""PivotLinear: a product of rank R stored with R pivots on the short side of the weight.

W = up down has S = min(O, D) entries on its short side, and every one of them is a combination of R
pivots P. With the rest Q, and ``side`` = up for O <= D, else down transposed:

    coefficients = side[Q] side[P]^-1                     product = W[P] for O <= D, else W[:, P]
    O <= D   p = product x    q = coefficients p          y = p and q, in the order of the outputs
    O >  D   hidden = x[P] + coefficients^T x[Q]          y = product hidden

No R x R identity is stored, so that R (O + D - R) parameters remain, and the product is the same
one. Sources: PIFA (ICML 2025), arXiv 2512.03062.
"""

# R rank, D input features, O output features, S short side, L long side, P pivots [R], Q rest [S-R]

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.decision import Pivot, on_outputs
from gacfx.errors import DecompositionFailed
from gacfx.graph.edit import Build
from gacfx.graph.ops import aten
from gacfx.modules.carrier import Carrier, Source

LARGEST_COEFFICIENT = 100.0
"""Coefficients multiply what the first product was rounded by. Elimination with partial pivoting
leaves the largest one between 1.6 and 2.5, whatever the weight and its size; only matrices that are
made for the purpose grow. At 100 one entry alone adds 40 % of a bf16 pivot to its output."""
LARGEST_ERROR = 1e-9
"""Of the product in float64, relative to the pair's; elimination leaves 1e-14."""


class PivotLinear(Carrier):
    """Two ordinary ``nn.Linear`` children, and the order of outputs or inputs."""

    order: Tensor
    """int32. O <= D: where in (p, q) each output is, [O]. O > D: the inputs P, then Q, [D]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.rank = rank
        self.on_outputs = on_outputs(out_features, in_features)
        rest = min(in_features, out_features) - rank
        made: Any = {"device": device, "dtype": dtype}
        if self.on_outputs:
            self.product = nn.Linear(in_features, rank, bias=False, **made)
            self.coefficients = nn.Linear(rank, rest, bias=False, **made)
            own = nn.Parameter(torch.zeros(out_features, **made)) if bias else None
            self.register_parameter("bias", own)
        else:
            self.coefficients = nn.Linear(rest, rank, bias=False, **made)
            self.product = nn.Linear(rank, out_features, bias=bias, **made)
        order = torch.arange(rest + rank, dtype=torch.int32, device=device)
        self.register_buffer("order", order)

    @property
    def decision(self) -> Pivot:
        """The rank."""
        return Pivot(self.rank)

    @classmethod
    def bare(
        cls,
        decision: Pivot,
        rows: int,
        columns: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Two linears of the rank, and nothing reordered."""
        return cls(columns, rows, decision.rank, bias=False, device=device, dtype=dtype)

    @classmethod
    def bias_name(cls, rows: int, columns: int) -> str:
        """The layer itself adds it to outputs that are in order; else the last product does."""
        return "bias" if on_outputs(rows, columns) else "product.bias"

    @classmethod
    def make(cls, decision: Pivot, source: Source) -> dict[str, Tensor]:
        """Product, coefficients and order, by elimination in float64.

        Raises:
            DecompositionFailed: coefficients too large to be stored in half precision, or a product
                that is not the pair's.
        """
        outputs = on_outputs(*source.weight_MN.shape)
        return with_pivots(source, decision, outputs=outputs)

    @classmethod
    def reordered(
        cls, decision: Pivot, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """Outputs are gathered anyway; else the product has them."""
        name = "order" if len(tensors["order"]) == len(order_O) else "product"
        return {**tensors, name: tensors[name][order_O]}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        out: Tensor
        if self.on_outputs:
            p = self.product(x)
            q = self.coefficients(p)
            out = torch.cat([p, q], -1).index_select(-1, self.order)
            return out if self.bias is None else out + self.bias
        x = x.index_select(-1, self.order)
        pivots, rest = x.split_with_sizes([self.rank, self.in_features - self.rank], -1)
        out = self.product(pivots + self.coefficients(rest))
        return out

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: Pivot,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """The operators of ``forward``."""
        product, coefficients, order = (tensors[n] for n in ("product", "coefficients", "order"))
        if on_outputs(rows, columns):
            p = build.linear(x, product, child="product")
            q = build.linear(p, coefficients, child="coefficients")
            both = build.call(aten.cat.default, ([p, q], -1))
            out = build.call(aten.index_select.default, (both, -1, order))
            return out if bias is None else build.call(aten.add.Tensor, (out, bias))
        x = build.call(aten.index_select.default, (x, -1, order))
        sizes = [decision.rank, columns - decision.rank]
        parts = build.call(aten.split_with_sizes.default, (x, sizes, -1))
        pivots, rest = (build.item(parts, at) for at in (0, 1))
        more = build.linear(rest, coefficients, child="coefficients")
        hidden = build.call(aten.add.Tensor, (pivots, more))
        return build.linear(hidden, product, bias, child="product")


def with_pivots(source: Source, decision: Pivot, *, outputs: bool) -> dict[str, Tensor]:
    """Product, coefficients and order of a decision, with pivots among the outputs or the inputs.

    Raises:
        DecompositionFailed: coefficients too large to be stored in half precision, or a product
            that is not the pair's.
    """
    up_OR, down_RD = source.pair(decision.rank)
    side_SR, other_RL = (up_OR, down_RD) if outputs else (down_RD.T, up_OR.T)
    pivots_R, rest_Q, coefficients_QR = eliminated(side_SR)
    if problem := _problem(side_SR, other_RL, pivots_R, rest_Q, coefficients_QR):
        raise DecompositionFailed(source.module, f"{decision}: {problem}")
    product_RL = side_SR[pivots_R] @ other_RL
    order_S = torch.cat([pivots_R, rest_Q])
    if not outputs:
        return _named(product_RL.T, coefficients_QR.T, order_S)
    return _named(product_RL, coefficients_QR, order_S.argsort())


def eliminated(side_SR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pivots [R], the rest [S-R], coefficients [S-R, R]) with side[rest] = coefficients side[P].

    side = (L_P; L_Q) U with the largest remaining entry of each column as its pivot, so the
    coefficients are L_Q L_P^-1: U and its condition do not come in, and a side of lower rank has
    coefficients as well. Pivots of chance may have coefficients in the hundreds.
    """
    rank = side_SR.shape[1]
    lu_SR, swaps_R, _ = torch.linalg.lu_factor_ex(side_SR)
    order = list(range(len(side_SR)))
    for step, swap in enumerate(swaps_R.tolist()):
        order[step], order[swap - 1] = order[swap - 1], order[step]
    lower_RR, lower_QR = lu_SR[:rank], lu_SR[rank:]
    coefficients_QR = torch.linalg.solve_triangular(
        lower_RR, lower_QR, upper=False, left=False, unitriangular=True
    )
    at_S = torch.tensor(order, device=side_SR.device)
    rest_Q, sorting_Q = at_S[rank:].sort()
    return at_S[:rank], rest_Q, coefficients_QR[sorting_Q]


def _problem(
    side_SR: Tensor, other_RL: Tensor, pivots_R: Tensor, rest_Q: Tensor, coefficients_QR: Tensor
) -> str:
    """Why these pivots do not give the weight back; empty if they do."""
    largest = float(coefficients_QR.abs().max())
    if not largest <= LARGEST_COEFFICIENT:
        return f"its largest coefficient is {largest:.1e}, over {LARGEST_COEFFICIENT:.0f}"
    gram_RR = other_RL @ other_RL.T
    gap_QR = side_SR[rest_Q] - coefficients_QR @ side_SR[pivots_R]
    error, size = _norm(gap_QR, gram_RR), _norm(side_SR, gram_RR)
    if not error <= LARGEST_ERROR * size:
        return f"its product is {error / size:.1e} away from that of the pair"
    return ""


def _norm(left_XR: Tensor, gram_RR: Tensor) -> float:
    """Norm of left right, where right right^T is the Gram matrix."""
    return float(((left_XR @ gram_RR) * left_XR).sum().clamp_min(0).sqrt())


def _named(product: Tensor, coefficients: Tensor, order: Tensor) -> dict[str, Tensor]:
    return {"product": product, "coefficients": coefficients, "order": order.int()}
