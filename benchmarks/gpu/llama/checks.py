"""Is the model that is timed the model that is meant: relative errors of logits and layers.

variant         mode    phase     compared
asvd            eager   prefill   one pair of factors with its product in float64
any             graph   any       logits of the replayed graph with those of the plain call
any -padded     eager   prefill   logits with those of the variant that is not padded
dense           eager   decode    logits of a step on a filled cache with those of a prefill
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.llama import forward
from benchmarks.gpu.llama.cells import Cell
from benchmarks.gpu.llama.variants import variant
from benchmarks.gpu.llama.workbench import Workbench
from gacfx.bench import steps
from gacfx.hardware.measure.cases import prepared
from gacfx.modules.low_rank import LowRankLinear

LOGITS_LIMIT = 0.05
"""Two orders of summation in bf16 differ by 0.01 after 32 layers (hidden size 256, CPU)."""
LAYER_LIMIT = 0.01
"""Two roundings to bf16, each by at most 2^-8."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was compared, and how far it is apart."""

    what: str
    relative_error: float
    limit: float


def check(cell: Cell, bench: Workbench, seed: int) -> Verdict:
    """The check that the cell stands for; the bench wears the cell's variant.

    Raises:
        ValueError: a result is not finite, or no check belongs to the cell.
    """
    if cell.mode == "graph":
        return _replay(cell, bench.model, seed)
    if cell.phase == "decode":
        return _cached_step(cell, bench.model, seed)
    if cell.variant.endswith("-padded"):
        return _padding(cell, bench, seed)
    return _factors(cell, bench.model, seed)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference by the norm of ``expected``, in float64.

    Raises:
        ValueError: one of them is not finite, or ``expected`` is zero.
    """
    if not bool(finite(expected).any()):
        raise ValueError("the expected result is zero everywhere; nothing can be compared with it")
    return prepared.relative_error(finite(got), expected.double())


def finite(tensor: Tensor) -> Tensor:
    """The tensor itself.

    Raises:
        ValueError: an element is NaN or infinite.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"a result of shape {tuple(tensor.shape)} is not finite everywhere")
    return tensor


def _replay(cell: Cell, model: Any, seed: int) -> Verdict:
    call = forward.make(model, cell.work, seed)
    plain = call().clone()
    error = relative_error(forward.capture(call)(), plain)
    what = f"{cell.phase} replayed from a CUDA graph = the plain call"
    if plain.device.type == "cpu":
        what += " (no CUDA: the plain call twice)"
    return Verdict(what, error, LOGITS_LIMIT)


def _cached_step(cell: Cell, model: Any, seed: int) -> Verdict:
    tokens_BS = steps.random_tokens(model, cell.work, seed)
    cache = forward.empty_cache(model, cell.work)
    told = steps.with_cache(model, cache)
    model(input_ids=tokens_BS[:, :-1], logits_to_keep=1, **told)
    step = forward.decode(model, model, cache, tokens_BS[:, -1:])()
    error = relative_error(step, steps.Prefill(model, model, tokens_BS)())
    return Verdict("a step on a filled cache = the end of a prefill", error, LOGITS_LIMIT)


def _padding(cell: Cell, bench: Workbench, seed: int) -> Verdict:
    call = forward.make(bench.model, cell.work, seed)
    padded = call().clone()
    name = cell.variant.removesuffix("-padded")
    bench.dress(variant(bench.architecture, name))
    error = relative_error(padded, call())
    return Verdict(f"logits of {cell.variant} = those of {name}", error, LOGITS_LIMIT)


def _factors(cell: Cell, model: Any, seed: int) -> Verdict:
    pairs = ((n, m) for n, m in model.model.named_modules() if isinstance(m, LowRankLinear))
    name, layer = next(pairs, ("", None))
    if layer is None:
        raise ValueError(f"no check for {cell}: the variant has no factors")
    weight = layer.down.weight
    draw = torch.Generator(weight.device).manual_seed(seed)
    x = torch.empty(cell.seq, layer.in_features, dtype=weight.dtype, device=weight.device)
    x.normal_(generator=draw)
    product = layer.up.weight.double() @ weight.double()
    error = relative_error(layer(x), x.double() @ product.T)
    return Verdict(f"factors of {name} = their product in float64", error, LAYER_LIMIT)
