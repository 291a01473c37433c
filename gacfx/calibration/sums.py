"""Sums over tokens that become the moments of a weight.

One :class:`LinearSums` hangs on each measured module through its hooks; input moments go
through one :class:`InputSums`, so that modules which are fed the same tensor (gate and up) share a
matrix. Sums over calls are float64; inside one call, sizes are summed in float32. Products are
float64 where a moment gets roots and inverses, the short side of a float32 model. They are float32
for the long side, whose products cost most, and for a model in half precision, which rounds what it
multiplies by 2^-9 itself.
"""

# T tokens, M outputs, N inputs, S = min(M, N), L = max(M, N)

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gacfx.calibration.counting import Call
from gacfx.core.statistics import Moments, input_count
from gacfx.modules.dense import dense_weight

LEAST_ROWS = 192
"""Of a block of products: smaller ones cost more than they save."""


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which products of the short side are formed, for a model of this dtype."""
    return torch.float32 if dtype.itemsize < 4 else torch.float64


def _add_products(sum_NN: Tensor, rows_TN: Tensor) -> None:
    """Add x x^T of all tokens, on and above the diagonal; below it stands something else."""
    size = max(LEAST_ROWS, len(sum_NN) // 8)
    for at in range(0, len(sum_NN), size):
        sum_NN[at : at + size, at:] += rows_TN[:, at : at + size].T @ rows_TN[:, at:]


def _squares(rows_TN: Tensor) -> Tensor:
    """[N] sums of x^2 over the rows of one call, in float32 at least."""
    rows_TN = rows_TN.to(torch.promote_types(rows_TN.dtype, torch.float32))
    return (rows_TN * rows_TN).sum(0)


def _products_of(rows_TN: Tensor, others_TN: Tensor) -> Tensor:
    """Sum of |a b| over the numbers of one call, in float32 at least."""
    dtype = torch.promote_types(rows_TN.dtype, torch.float32)
    return (rows_TN.to(dtype) * others_TN.to(dtype)).abs_().sum(0).sum(dtype=torch.float64)


def _whole(sum_NN: Tensor) -> Tensor:
    """The symmetric matrix of which a sum has what is on and above the diagonal."""
    whole_NN = sum_NN.triu()
    whole_NN += sum_NN.triu(1).T
    return whole_NN


def own_tensor(output: Tensor) -> Tensor:
    """What an output [..., M] is a view of, if that has the same rows; else itself.

    No gradient would come to a view that its model changes in place; to what is viewed one comes,
    of the values before.
    """
    base = output._base
    alike = base is not None and base.grad_fn is not None and base.numel() == output.numel()
    if base is None or not alike or base.shape[-1] != output.shape[-1]:
        return output
    return base if base.is_contiguous() and output.is_contiguous() else output


class InputSums:
    """Sums of x x^T, one [N, N] for each set of modules that are fed the same tensors."""

    def __init__(self, clip: float | None = None) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._means: dict[tuple[tuple[str, ...], int], Tensor] = {}
        self._fed: Tensor | None = None
        self._version = 0
        self._rows_TN = torch.empty(0)
        self._names: list[str] = []
        self.counts: Tensor | None = None
        """[B x T] where the tokens of the batch are that count; None where all do."""
        self.shape = (1, 0)
        """(B, T) of the batch."""
        self.clip = clip
        """Most of the gradient of a token: :attr:`gacfx.calibration.counting.Counting.clip`."""

    def call(self, module: str) -> Call:
        """What a call of a module in this batch counts."""
        return Call(module, self.counts, self.clip, self.shape)

    def add(self, name: str, fed: Tensor, rows_TN: Tensor) -> None:
        """Count the input of one call.

        Args:
            name: module that was called.
            fed: the very tensor that it was called with.
            rows_TN: private copy of it, one row per token; its dtype is that of the product.
        """
        # A tensor that was changed in place between two calls is another input.
        if fed is not self._fed or fed._version != self._version:
            self.flush()
            self._fed, self._version, self._rows_TN = fed, fed._version, rows_TN
        elif rows_TN.dtype == torch.float64:
            self._rows_TN = rows_TN
        self._names.append(name)

    def flush(self) -> None:
        """Count what waits for further modules with the same input; call after each forward."""
        if self._names:
            key, columns = tuple(self._names), self._rows_TN.shape[1]
            if key not in self._sums:
                zeros_NN = self._rows_TN.new_zeros(columns, columns, dtype=torch.float64)
                self._sums[key] = zeros_NN
            _add_products(self._sums[key], self._rows_TN)
        self._fed, self._names, self._rows_TN = None, [], torch.empty(0)

    def mean(self, name: str, count: int) -> Tensor | None:
        """Sum of x x^T over all calls of a module, divided by ``count``; None when never called.

        Modules that were always fed together get the same tensor.
        """
        keys = [key for key in self._sums if name in key]
        if not keys:
            return None
        if len(keys) > 1 or keys[0].count(name) > 1:
            parts = torch.stack([self._sums[key] * key.count(name) for key in keys])
            return _whole(parts.sum(0)).div_(count)
        shared = (keys[0], count)
        if shared not in self._means:
            self._means[shared] = _whole(self._sums[keys[0]]).div_(count)
        return self._means[shared]


class LinearSums:
    """Sums of one module over all its calls; float64."""

    def __init__(
        self, name: str, module: nn.Module, inputs: InputSums, *, both_sides: bool = False
    ) -> None:
        self.name, self.inputs, self.both_sides = name, inputs, both_sides
        self.weight_MN = dense_weight(module)
        self.bias = module.bias.detach().double() if isinstance(module.bias, Tensor) else None
        self.rows, self.columns = self.weight_MN.shape
        self.wide = self.rows > self.columns
        self.products = product_dtype(self.weight_MN.dtype)
        short = min(self.rows, self.columns)
        device = self.weight_MN.device
        self.projected_SS = torch.zeros(short, short, dtype=torch.float64, device=device)
        self.side_SS = torch.zeros_like(self.projected_SS) if not self.wide else None
        """Sum of g g^T, on and above the diagonal as all sums of products; the input moments are
        kept in ``inputs``."""
        self.long_LL: Tensor | None = None
        """The same for a wide weight, whose outputs are the long side."""
        if both_sides and self.wide:
            self.long_LL = self.projected_SS.new_zeros(self.rows, self.rows)
        self.abs_N = self.projected_SS.new_zeros(self.columns)
        self.largest_N = self.projected_SS.new_zeros(self.columns)
        self.square_N = self.projected_SS.new_zeros(self.columns)
        self.grad_square = self.projected_SS.new_zeros(())
        self.grad_output = self.projected_SS.new_zeros(())
        """Sum of |g h| over tokens and outputs, h the output."""
        self.output_kept = True
        """No output was changed in place before its gradient came."""
        self.calls_rows = 0
        self._fed: Tensor | None = None
        self._own: Tensor | None = None
        self._call = inputs.call(name)

    def attach(self, module: nn.Module) -> list[RemovableHandle]:
        """Count what the module does from now on, until the handles are removed."""
        before = [module.register_forward_pre_hook(self._before)] if self.lends else []
        return [*before, module.register_forward_hook(self._after)]

    @property
    def lends(self) -> bool:
        """The model's own backward makes what is wanted, W^T g; float16 alone might overflow."""
        return self.wide and self.weight_MN.dtype != torch.float16

    def _before(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give the module the same input under another name, whose gradient is W^T g of it alone;
        without one where there are no gradients."""
        self._fed, self._own, self._call = args[0], None, self.inputs.call(self.name)
        if not (torch.is_grad_enabled() and args[0].requires_grad):
            return None
        self._own = args[0].view_as(args[0])
        self._own.register_hook(partial(self._count_lent, self._call))
        return (self._own, *args[1:])

    def _after(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Count the input; the output starts the graph of gradients where none exists yet."""
        lent = self._own is not None and output.requires_grad
        fed = args[0] if self._fed is None else self._fed
        call = self._call if lent else self.inputs.call(self.name)
        self._fed = self._own = None
        seen_TN = call.rows(args[0].detach(), self.columns)
        self.calls_rows += len(seen_TN)
        sizes_TN = seen_TN.abs()
        self.abs_N += sizes_TN.sum(0, dtype=torch.promote_types(seen_TN.dtype, torch.float32))
        if len(seen_TN):  # an expert may see no token
            self.largest_N = torch.maximum(self.largest_N, sizes_TN.amax(0).double())
        del sizes_TN
        self.square_N += _squares(seen_TN)
        if self.wide:
            self.inputs.add(self.name, fed, seen_TN.to(self.products, copy=True))
        else:
            y_TM = call.rows(output.detach(), self.rows).to(self.products)
            y_TM = y_TM if self.bias is None else y_TM - self.bias.to(self.products)
            _add_products(self.projected_SS, y_TM)
            if self.both_sides:
                dtype = torch.promote_types(args[0].dtype, torch.float32)
                self.inputs.add(self.name, fed, seen_TN.to(dtype, copy=True))
        if not torch.is_grad_enabled():
            return output  # its model runs it so, and nothing comes back through it
        made = output.detach()
        if not output.requires_grad:
            # A clone is no leaf, so what follows may still change it in place.
            output = output.detach().requires_grad_().clone()
        count = partial(self._count_gradient, call, lent, made, made._version)
        own_tensor(output).register_hook(count)
        return output

    def _count_lent(self, call: Call, grad: Tensor) -> None:
        """Count W^T g, which the backward of the model made."""
        self._count_projected(call.cut_alike(grad))

    def _count_projected(self, rows_TN: Tensor) -> None:
        """Count W^T g, the gradient at the input."""
        _add_products(self.projected_SS, rows_TN.to(self.products))

    def _count_gradient(
        self, call: Call, lent: bool, output: Tensor, version: int, grad: Tensor
    ) -> None:
        """Count the gradient at the output; ``lent``: W^T g of it comes from the backward.

        ``output`` has the values of the call only as long as it is of that ``version``.
        """
        grad = grad.detach()
        self.output_kept &= output._version == version
        self.grad_output += _products_of(call.rows(grad, self.rows), call.rows(output, self.rows))
        g_TM = call.cut(grad)
        if self.long_LL is not None:
            dtype = torch.promote_types(g_TM.dtype, torch.float32)
            _add_products(self.long_LL, g_TM.to(dtype))
        self.grad_square += _squares(g_TM).sum()
        if self.side_SS is None and not lent:
            # As the model's own backward does it; float16 alone might overflow.
            own = self.weight_MN.dtype
            dtype = own if own == torch.bfloat16 else torch.promote_types(own, torch.float32)
            self._count_projected(g_TM.to(dtype) @ self.weight_MN.to(dtype))
        elif self.side_SS is not None:
            _add_products(self.side_SS, g_TM.to(self.products))

    def moments(self, tokens: int) -> Moments:
        """Means per token.

        Gradient sums are divided by all ``tokens``, input sums by the tokens that the module saw:
        for an expert that gets one token in eight, the product of both then weighs one in eight.
        A module that is called several times per token counts the sum of its calls.
        """
        seen = input_count(self.calls_rows, tokens)
        input_NN, projected_SS = self.inputs.mean(self.name, seen), _whole(self.projected_SS)
        if self.side_SS is None:
            side_SS = torch.zeros_like(self.projected_SS) if input_NN is None else input_NN
            projected_SS /= tokens
            long_LL = None if self.long_LL is None else _whole(self.long_LL).div_(tokens)
        else:
            side_SS = _whole(self.side_SS).div_(tokens)
            projected_SS /= seen
            long_LL = input_NN
            if self.both_sides and long_LL is None:
                long_LL = side_SS.new_zeros(self.columns, self.columns)
        grad_output = float(self.grad_output) / tokens / self.rows
        return Moments(
            rows=self.rows,
            columns=self.columns,
            projected_moment=projected_SS,
            side_moment=side_SS,
            input_abs_mean=self.abs_N / seen,
            input_square_mean=self.square_N / seen,
            grad_square_mean=float(self.grad_square) / tokens / self.rows,
            long_moment=long_LL,
            tokens_seen=self.calls_rows,
            grad_output_mean=grad_output if self.output_kept else None,
            input_abs_max=self.largest_N,
        )
