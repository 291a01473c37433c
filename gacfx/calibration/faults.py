"""Where the numbers of a model end: the first weight or module that has NaN or infinity."""

# T tokens of one document

from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.running import logits_of
from gacfx.core.finite import not_finite

REMEDY = (
    "run it in bfloat16 or float32, and check its configuration (rms_norm_eps, rope_parameters ...)"
)
"""For numbers that overflow."""


def no_numbers(model: nn.Module, ids_T: Tensor, number: int) -> str:
    """Why a document whose logits are no numbers has no loss.

    Args:
        model: borrowed; it reads the document again.
        ids_T: token ids of the document.
        number: of the document.
    """
    if broken := not_finite(model):
        return f"{broken}: NaN or infinite values; check the checkpoint"
    found = first_without_numbers(model, ids_T)
    first = f", first in {found}" if found else ""
    return f"the model's logits are NaN or infinite on document {number}{first}; {REMEDY}"


def first_without_numbers(model: nn.Module, ids_T: Tensor) -> str:
    """Name of the first module that gives NaN or infinity for a document; empty if none does.

    -inf masks what is not meant, so that the largest number of every row counts.
    """
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if found or not isinstance(first, Tensor) or not first.is_floating_point():
            return
        if first.numel() and not bool(torch.isfinite(first.detach().amax(-1)).all()):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _m, _a, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        logits_of(model, ids_T)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""
