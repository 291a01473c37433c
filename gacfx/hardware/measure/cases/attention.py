"""Attention calls: shapes and the arguments that decide which backend runs."""

# B batch, H heads, Q and S lengths of queries and keys, D head dim

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gacfx.hardware.measure.cases.prepared import DTYPES, Prepared, normal, relative_error


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(Q K^T) V through ``scaled_dot_product_attention``."""

    d: int
    d_v: int | None = None
    """Head dim of the values; that of the keys if None."""
    s_q: int = 2048
    s_k: int | None = None
    batch: int = 4
    h_q: int = 32
    h_kv: int | None = None
    dtype: str = "bf16"
    mask: str | None = None
    """``bool`` or ``float``: a lower triangle is passed as an explicit mask."""
    causal: bool = False
    gqa: bool = False
    force: str | None = None
    """``flash``, ``cudnn``, ``efficient`` or ``math`` alone is allowed."""

    def prepare(self, device: torch.device) -> Prepared:
        """Fresh operands on ``device``."""
        s_k, h_kv, d_v = self.s_k or self.s_q, self.h_kv or self.h_q, self.d_v or self.d
        q, k, v = (
            normal(self.batch, heads, length, dim, dtype=self.dtype, device=device)
            for heads, length, dim in (
                (self.h_q, self.s_q, self.d),
                (h_kv, s_k, self.d),
                (h_kv, s_k, d_v),
            )
        )
        mask = _mask(self, s_k, device)

        def call() -> Tensor:
            with _only(self.force):
                return scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=self.causal, enable_gqa=self.gqa
                )

        flops = 2 * self.batch * self.h_q * self.s_q * s_k * (self.d + d_v)
        if self.causal and self.s_q == s_k:
            flops = flops * (s_k + 1) // (2 * s_k)
        out = self.batch * self.h_q * self.s_q * d_v * q.element_size()
        moved = sum(t.numel() * t.element_size() for t in (q, k, v)) + out
        moved += 0 if mask is None else mask.numel() * mask.element_size()
        # In fp32 the efficient kernel multiplies in three TF32 passes: no measured rate bounds it.
        rate = "tf32x3" if self.dtype == "fp32" else self.dtype
        choice = _choice(self, q, k, v, mask)
        return Prepared(call, flops, moved, rate, _error(self, q, k, v, mask), choice)

    def small(self) -> "Attention":
        """A size for a CPU, where no backend can be forced."""
        s_k = min(self.s_k or self.s_q, 16)
        h_kv = 1 if self.h_kv and self.h_kv != self.h_q else 2
        s_q = min(self.s_q, 16)
        return replace(self, batch=1, h_q=2, h_kv=h_kv, s_q=s_q, s_k=s_k, force=None)


def _mask(case: Attention, s_k: int, device: torch.device) -> Tensor | None:
    if case.mask is None:
        return None
    lower = torch.ones(case.s_q, s_k, device=device, dtype=torch.bool).tril()
    if case.mask == "bool":
        return lower
    return torch.zeros(case.s_q, s_k, device=device, dtype=DTYPES[case.dtype]).masked_fill(
        ~lower, float("-inf")
    )


@contextmanager
def _only(backend: str | None) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    names = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    with nullcontext() if backend is None else sdpa_kernel(names[backend]):
        yield


def _choice(case: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> int | str:
    """The backend's number; what the private function says if it cannot answer."""
    try:
        with _only(case.force):
            return int(
                torch._fused_sdp_choice(q, k, v, mask, 0.0, case.causal, enable_gqa=case.gqa)
            )
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"[:160]


def _error(
    case: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Callable[[Tensor], float]:
    """Compares the last head of the last sequence with float64."""

    def error(found: Tensor) -> float:
        q_QD, k_SD, v_SD = (t[-1, -1].double() for t in (q, k, v))
        scores_QS = q_QD @ k_SD.t() / case.d**0.5
        if case.causal:
            lower = torch.ones_like(scores_QS, dtype=torch.bool).tril()
            scores_QS = scores_QS.masked_fill(~lower, float("-inf"))
        if mask is not None and mask.dtype == torch.bool:
            scores_QS = scores_QS.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores_QS = scores_QS + mask
        return relative_error(found[-1, -1], scores_QS.softmax(-1) @ v_SD)

    return error
