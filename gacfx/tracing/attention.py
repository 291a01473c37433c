"""How a model calls attention in eager mode, recorded without weights on the meta device.

The captured graph cannot tell: export hands SDPA an explicit mask and repeated KV heads where the
same model in eager mode passes ``is_causal=True, enable_gqa=True``, and another kernel runs.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gacfx.core.sites import AttentionCall


def record_attention(model: nn.Module, kwargs: Mapping[str, Any]) -> list[AttentionCall] | None:
    """The arguments of every SDPA call of one eager forward, in order of execution.

    A copy of the model whose parameters and buffers are meta tensors makes this one call, so
    nothing is computed, no memory is used, and the model itself is never touched. Questions about
    values ("is any token masked?") are answered as for full sequences without padding. None when
    the forward needs values that meta tensors lack.
    """
    inputs = {k: _input(v) for k, v in kwargs.items()}
    try:
        # bfloat16: on the meta device grouped_mm takes nothing else, and no call depends on it.
        made = on_meta(model, torch.bfloat16)
        with torch.no_grad(), _spy() as calls, FullSequences():  # type: ignore[no-untyped-call]
            made(**inputs)
    except Exception:  # whatever it is, annotate-sites records that the calls are not known
        return None
    return calls


def on_meta(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy without values, and parameters that are plain tensors, of their own dtype by default.

    One tensor under several names stays one tensor.
    """
    known: dict[int, Any] = {
        id(parameter): nn.Parameter(
            torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device="meta"),
            requires_grad=False,
        )
        for parameter in model.parameters()
    }
    known |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, known)


def _input(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to("meta", torch.bfloat16 if value.is_floating_point() else None)


@contextmanager
def _spy() -> Iterator[list[AttentionCall]]:
    """Replace ``F.scaled_dot_product_attention`` by one that records what it is asked."""
    calls: list[AttentionCall] = []
    real = functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = ("attn_mask", "dropout_p", "is_causal")
        asked = {**dict(zip(names, args, strict=False)), **kwargs}
        calls.append(
            AttentionCall(
                mask=asked.get("attn_mask") is not None,
                causal=bool(asked.get("is_causal", False)),
                gqa=bool(asked.get("enable_gqa", False)),
            )
        )
        return real(query, key, value, *args, **kwargs)

    functional.scaled_dot_product_attention = spy
    try:
        yield calls
    finally:
        functional.scaled_dot_product_attention = real


class FullSequences(TorchDispatchMode):
    """Answers yes where a forward asks a boolean of a meta tensor (all unmasked? one sequence?)."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        asks = func is torch.ops.aten._local_scalar_dense.default
        if asks and args[0].device.type == "meta" and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))
