"""A model with pools against the dense one: whole pools with weights, and the divergence.

KL(dense || model), nats per token, on the tokens behind a prompt
"""

# P prompts, T tokens, V vocabulary, L decoder layers, F features of a hidden state

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.divergence import divergences
from gacfx.core.caches import without_cache
from gacfx.errors import CalibrationError, UnsupportedModel
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import picked, pools

Dense = nn.Module | Callable[[Tensor], Tensor]
"""The dense model, or a function from token ids [P, T] to its logits [P, T, V]."""
BATCH = 16
"""Prompts that are measured together."""


@contextmanager
def weighed(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """The model with whole pools, each rank times a weight; its router rests.

    Args:
        model: with pools.
        weights: module -> [R] or [sequences, 1, R] of the dtype of its pool; None for ones.
    """
    with picked(model, None):
        for name, layer in pools(model).items():
            layer.weigh(layer.down.new_ones(len(layer.down)) if weights is None else weights[name])
        yield


def outputs_of(
    model: Dense, ids_PT: Tensor, *, hidden: bool = False, mask_PT: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(logits [P, T, V], hidden states behind each decoder layer, [P, T, F] each, if asked for).

    Args:
        model: or a function, which knows neither hidden states nor padding.
        ids_PT: token ids, on any device.
        hidden: with hidden states.
        mask_PT: 1 for tokens, 0 for padding.

    Raises:
        UnsupportedModel: hidden states or padding of a function, or of a model that has none.
    """
    if not isinstance(model, nn.Module):
        if hidden or mask_PT is not None:
            raise UnsupportedModel("a function has no hidden states and no padding; give the model")
        return model(ids_PT), ()
    device = next(model.parameters()).device
    more: dict[str, Any] = {**without_cache(model)}
    if mask_PT is not None:
        more["attention_mask"] = mask_PT.to(device)
    if hidden:
        more["output_hidden_states"] = True
    found = model(ids_PT.to(device), **more)
    states = getattr(found, "hidden_states", None) if hidden else ()
    if states is None:
        raise UnsupportedModel(f"{type(model).__name__} gives no hidden states; set layer_error 0")
    return found.logits, tuple(states[1:])


def behind(logits_PTV: Tensor, prompt_tokens: int) -> Tensor:
    """Logarithms of the probabilities of all tokens behind a prompt, at least float32.

    Args:
        logits_PTV: of whole windows.
        prompt_tokens: of the prompt; its last one predicts the first token behind it.
    """
    part_PTV = logits_PTV[:, prompt_tokens - 1 : -1]
    return part_PTV.to(torch.promote_types(part_PTV.dtype, torch.float32)).log_softmax(-1)


def check_windows(ids_PT: Tensor, prompt_tokens: int) -> None:
    """Nothing when windows hold a prompt and something behind it.

    Raises:
        CalibrationError: no windows, or nothing behind their prompts.
    """
    if ids_PT.ndim != 2 or not len(ids_PT) or not 1 <= prompt_tokens < ids_PT.shape[1]:
        raise CalibrationError(
            f"windows of shape {tuple(ids_PT.shape)}; [prompts, tokens] with more than the "
            f"{prompt_tokens} tokens of a prompt are needed"
        )


@torch.no_grad()
def kl_to_dense(
    model: nn.Module,
    ids_PT: Tensor,
    prompt_tokens: int,
    dense: Dense,
    pick: Pick | None = None,
    *,
    batch: int = BATCH,
) -> Tensor:
    """KL(dense || model), mean over the tokens behind each prompt, nats: float64 [P] on the CPU.

    Args:
        model: with pools, whose router rests.
        ids_PT: windows of one length, prompts in front.
        prompt_tokens: of each prompt.
        dense: what is right.
        pick: a row for each window, or one for all; None for the static prefix.
        batch: windows that are read together.

    Raises:
        CalibrationError: nothing behind the prompts.
    """
    check_windows(ids_PT, prompt_tokens)
    found = []
    for start in range(0, len(ids_PT), batch):
        rows = slice(start, start + batch)
        known_PTV = behind(outputs_of(dense, ids_PT[rows])[0], prompt_tokens)
        with picked(model, _rows(pick, rows)):
            own_PTV = behind(outputs_of(model, ids_PT[rows])[0], prompt_tokens)
        found.append(divergences(known_PTV, own_PTV.to(known_PTV.device)).double().mean(1).cpu())
    return torch.cat(found)


def _rows(pick: Pick | None, rows: slice) -> Pick | None:
    if pick is None or not pick.blocks or pick.sequences == 1:
        return pick
    return Pick({name: blocks[rows] for name, blocks in pick.blocks.items()}, pick.classes[rows])
