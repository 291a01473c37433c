"""Matmuls: one shape, one dtype, one way of calling it."""

# M rows, N columns of the result, K inner size

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from gacfx.hardware.measure.cases.prepared import Prepared, normal, relative_error

CHECKED_ROWS = 32
"""Rows of the result that are compared with float64."""
WIDE_MARGIN = 8
"""``slice_off1`` cuts its operand out of rows this much wider, rounded up to 8 elements."""
BATCH = 4
"""Matrices of ``bmm``; they share the M rows."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """Y[M, N] = X[M, K] W."""

    m: int
    n: int
    k: int
    dtype: str = "bf16"
    op: str = "linear"
    """One of ``OPS``."""

    def prepare(self, device: torch.device) -> Prepared:
        """Fresh operands on ``device``.

        Raises:
            ValueError: no such op.
        """
        if self.op not in OPS:
            raise ValueError(f"op {self.op!r}: known are {', '.join(OPS)}")
        x_MK, w_NK, call = OPS[self.op](self, device)
        size_in, size_out = x_MK.element_size(), 2 if self.op == "fp8" else x_MK.element_size()
        if self.op == "int8":
            size_out = 4
        moved = size_in * self.k * (self.m + self.n) + size_out * self.m * self.n
        if self.op == "bmm":
            moved += size_in * (BATCH - 1) * self.k * self.n

        def error(found: Tensor) -> float:
            rows = x_MK[:CHECKED_ROWS].double()
            return relative_error(found.reshape(-1, self.n)[: len(rows)], rows @ w_NK.double().t())

        return Prepared(call, 2 * self.m * self.n * self.k, moved, self._rate(), error)

    def small(self) -> "Gemm":
        """A size for a CPU."""
        return replace(self, m=min(self.m, 32), n=min(self.n, 64), k=min(self.k, 64))

    def _rate(self) -> str:
        return self.op if self.op in ("fp8", "int8") else self.dtype


Made = tuple[Tensor, Tensor, Callable[[], Tensor]]
"""(X, W as [N, K] of the first matrix, the call)."""


def _linear(case: Gemm, device: torch.device) -> Made:
    x_MK = normal(case.m, case.k, dtype=case.dtype, device=device)
    w_NK = normal(case.n, case.k, dtype=case.dtype, device=device)
    return x_MK, w_NK, lambda: linear(x_MK, w_NK)


def _linear_bias(case: Gemm, device: torch.device) -> Made:
    x_MK, w_NK, _ = _linear(case, device)
    # Tiny against the sums: what is timed is the kernel, and the check needs no bias.
    b_N = normal(case.n, dtype=case.dtype, device=device) * 1e-3
    return x_MK, w_NK, lambda: linear(x_MK, w_NK, b_N)


def _slice_ld4096(case: Gemm, device: torch.device) -> Made:
    """K columns of rows 4096 wide: the stride stays aligned whatever K is."""
    x_MK = normal(case.m, 4096, dtype=case.dtype, device=device)[:, : case.k]
    w_NK = normal(case.n, 4096, dtype=case.dtype, device=device)[:, : case.k]
    return x_MK, w_NK, lambda: linear(x_MK, w_NK)


def _slice_off1(case: Gemm, device: torch.device) -> Made:
    """Aligned rows, but the first element is one off a 16-byte boundary."""
    width = -(-case.k // 8) * 8 + WIDE_MARGIN
    x_MK = normal(case.m, width, dtype=case.dtype, device=device)[:, 1 : case.k + 1]
    w_NK = normal(case.n, width, dtype=case.dtype, device=device)[:, 1 : case.k + 1]
    return x_MK, w_NK, lambda: linear(x_MK, w_NK)


def _mm_nn(case: Gemm, device: torch.device) -> Made:
    x_MK = normal(case.m, case.k, dtype=case.dtype, device=device)
    w_KN = normal(case.k, case.n, dtype=case.dtype, device=device)
    return x_MK, w_KN.t(), lambda: x_MK @ w_KN


def _bmm(case: Gemm, device: torch.device) -> Made:
    x_BMK = normal(BATCH, case.m // BATCH, case.k, dtype=case.dtype, device=device)
    w_BKN = normal(BATCH, case.k, case.n, dtype=case.dtype, device=device)
    return x_BMK[0], w_BKN[0].t(), lambda: torch.bmm(x_BMK, w_BKN)


def _fp8(case: Gemm, device: torch.device) -> Made:
    x_MK = normal(case.m, case.k, dtype="fp32", device=device).to(torch.float8_e4m3fn)
    w_NK = normal(case.n, case.k, dtype="fp32", device=device).to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    return x_MK, w_NK, lambda: torch._scaled_mm(x_MK, w_NK.t(), one, one, out_dtype=torch.bfloat16)


def _int8(case: Gemm, device: torch.device) -> Made:
    def small(rows: int) -> Tensor:
        return torch.randint(-9, 10, (rows, case.k), device=device, dtype=torch.int8)

    x_MK, w_NK = small(case.m), small(case.n)
    return x_MK, w_NK, lambda: torch._int_mm(x_MK, w_NK.t())


OPS: dict[str, Callable[[Gemm, torch.device], Made]] = {
    "linear": _linear,
    "linear_bias": _linear_bias,
    "slice_ld4096": _slice_ld4096,
    "slice_off1": _slice_off1,
    "mm_nn": _mm_nn,
    "bmm": _bmm,
    "fp8": _fp8,
    "int8": _int8,
}
