"""Weights rounded to nearest in a storage format, and the bytes that they take, scales included.

Symmetric, one scale for each group along the inputs, no zero points, no calibration:

    scale = max |w| / ((2^bits - 1) / 2), in bfloat16
    code  = round(w (1 / scale)), from -2^(bits-1) to 2^(bits-1) - 1

These are the numbers of ``IntxWeightOnlyConfig`` of torchao, to the last bit, and a last group may
be shorter, which torchao refuses. Formats that calibrate (GPTQ, AWQ) lose less.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from torch import Tensor, nn
from torch.nn import functional

SCALE_BYTES, ORDER_BYTES = 2, 4
"""A scale is bfloat16; the order of a pivot's outputs or inputs is int32."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the numbers of a weight are stored."""

    name: str
    bits: int
    group: int = 0
    """Inputs that share a scale; 0 for a whole row, and for none in bfloat16."""

    def nbytes(self, rows: int, columns: int) -> int:
        """Of a weight [rows, columns]."""
        codes = ceil(rows * columns * self.bits / 8)
        groups = ceil(columns / (self.group or columns)) if columns and self.bits < 16 else 0
        return codes + SCALE_BYTES * rows * groups

    def rounded(self, weight_ON: Tensor) -> Tensor:
        """What is left of a weight, in its own dtype."""
        if self.bits == 16:
            return weight_ON.bfloat16().to(weight_ON.dtype)
        columns = weight_ON.shape[1]
        group = self.group or columns
        whole = functional.pad(weight_ON, (0, -columns % group)).unflatten(1, (-1, group))
        most = 2 ** (self.bits - 1)
        scale = (whole.abs().amax(-1, keepdim=True) / (most - 0.5)).clamp_min(1e-30)
        scale = scale.bfloat16()
        codes = (whole * (1 / scale)).round().clamp(-most, most - 1)
        made: Tensor = (codes * scale.to(weight_ON.dtype)).flatten(1)[:, :columns]
        return made


BF16, INT8 = Format("bf16", 16), Format("int8", 8)
INT4 = tuple(Format(f"int4-g{group}", 4, group) for group in (32, 64, 128))


def store_(model: nn.Module, modules: Iterable[str], form: Format) -> int:
    """Rounds everything that stands in the place of these linears, in place.

    Args:
        model: dense or compressed.
        modules: names of its targeted linears; those that are gone take no bytes.
        form: of their numbers.

    Returns:
        Bytes of them all, without biases.
    """
    nbytes = 0
    for layer in _there(model, modules):
        for linear in (each for each in layer.modules() if isinstance(each, nn.Linear)):
            weight = linear.weight.detach()
            nbytes += form.nbytes(*weight.shape)
            linear.weight = nn.Parameter(form.rounded(weight), requires_grad=False)
        nbytes += sum(ORDER_BYTES * b.numel() for n, b in layer.named_buffers() if n == "order")
    return nbytes


def _there(model: nn.Module, modules: Iterable[str]) -> Iterable[nn.Module]:
    known = dict(model.named_modules())
    return [known[name] for name in modules if name in known]
