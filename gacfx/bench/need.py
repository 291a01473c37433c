"""The least memory that a step needs beside the weights, and whether the device has it.

It is asked before a cell is tried: on a CPU a process that takes too much is killed without a word.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gacfx.bench.steps import last_only
from gacfx.core.blocks import HeadCounts
from gacfx.core.model_class import text_config, vocabulary
from gacfx.core.sites import Workload
from gacfx.hardware.measure.memory import free_bytes
from gacfx.modules.blocks import blocks_in

GIB = 2**30


def too_large(models: Sequence[Any], work: Workload, device: torch.device) -> str | None:
    """Why a cell is left out: it needs more than is free; None where it may fit, or nobody knows.

    Steps run in turn and share what they need, but every model has a cache of its own.
    """
    needs = [least_bytes(model, work) for model in models]
    known = [need for need in needs if need is not None]
    free = free_bytes(device)
    if not known or free is None:
        return None
    need = sum(known) if work.mode == "decode" else max(known)
    if need <= free:
        return None
    return f"needs at least {need / GIB:.1f} GiB beside the weights; {free / GIB:.1f} are free"


def least_bytes(model: Any, work: Workload) -> int | None:
    """Bytes of a step's tensors that live at the same time, too low rather than too high."""
    item = next(model.parameters()).itemsize
    cells = prefill_numbers(model, work) if work.mode == "prefill" else cache_numbers(model, work)
    return None if cells is None else item * cells


def prefill_numbers(model: Any, work: Workload) -> int:
    """The larger of an MLP (residual, its normed copy and two wide rows) and the logits."""
    about = text_config(model.config)
    hidden = getattr(about, "hidden_size", 0)
    head = model.get_output_embeddings()
    wide = [m.out_features for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    tokens = work.batch * work.seq
    scored = work.batch if last_only(model) else tokens
    return max(tokens * 2 * (hidden + max(wide, default=0)), scored * vocabulary(model))


def cache_numbers(model: Any, work: Workload) -> int | None:
    """Keys and values of all layers with attention; None for caches of other kinds."""
    about = text_config(model.config)
    hidden, heads = getattr(about, "hidden_size", None), getattr(about, "num_attention_heads", None)
    if not (isinstance(hidden, int) and isinstance(heads, int)) or hasattr(about, "kv_lora_rank"):
        return None
    window = getattr(about, "sliding_window", None)
    one = "sliding_attention" if window else "full_attention"
    kinds = getattr(about, "layer_types", None) or [one] * about.num_hidden_layers
    kept = min(work.seq, window - 1) if window else work.seq  # the new token is in the window too
    long = {"full_attention": work.seq, "sliding_attention": kept}
    kv_heads = getattr(about, "num_key_value_heads", None) or heads
    width = getattr(about, "head_dim", None) or hidden // heads
    pruned = _pruned_layers(model, int(width))
    rows = (
        long.get(kind, 0) * pruned.get(layer, int(kv_heads) * int(width))
        for layer, kind in enumerate(kinds)
    )
    return 2 * work.batch * int(sum(rows))


def _pruned_layers(model: Any, width: int) -> dict[int, int]:
    """Layer -> numbers of keys for each token, where the attention has fewer heads or is gone."""
    found = dict[int, int]()
    for name, state in blocks_in(model).items():
        layer = getattr(model.get_submodule(name), "layer_idx", None)
        if isinstance(layer, int):  # a skipped attention stores one number; an MLP has no layer
            found[layer] = state.groups * width if isinstance(state, HeadCounts) else 1
    return found
