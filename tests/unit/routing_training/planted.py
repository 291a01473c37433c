"""A tiny Llama in which two kinds of prompts use different pieces of the same weights.

Tokens of kind 0 have even numbers in their embeddings, those of kind 1 odd ones, and attention
adds nothing. Gate and up projection are pools whose piece i reads number i, so kind 0 uses the even
pieces. Half of the pieces run, and later pieces matter more: the static prefix is half of each
kind, and not the best half.
"""

# P prompts, T tokens, R pieces

import copy
from typing import Any

import torch
from torch import Tensor

from gacfx.core.routed import Routed
from gacfx.modules.rank_experts import RankExpertLinear
from tests import tiny

HIDDEN, WIDTH, WORDS = 16, 24, 32
TOKENS, PROMPT = 14, 6
NAMES = ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj")
EVEN, ODD = list(range(0, HIDDEN, 2)), list(range(1, HIDDEN, 2))


def dense_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """The dense model."""
    model = tiny.llama(HIDDEN, WIDTH, 1, seed, vocab_size=WORDS).to(dtype)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2:
                scale = 1.0 if "embed" in name else tensor.shape[1] ** -0.5
                tensor.copy_(torch.randn(tensor.shape, generator=random) * scale)
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        table = model.get_input_embeddings().weight
        table += 0.7  # so that the mean embedding of a prompt tells its kind
        table[: WORDS // 2, ODD] = 0.0
        table[WORDS // 2 :, EVEN] = 0.0
        for name in NAMES:
            growing_R = torch.linspace(0.3, 3.0, HIDDEN, dtype=dtype)
            model.get_submodule(name).weight.mul_(growing_R)
    return model.requires_grad_(True)


def pooled(
    dense: Any, *, active: int = HIDDEN // 2, pool: int = HIDDEN, shared: int = 0, block: int = 1
) -> Any:
    """The model with pools."""
    model, decision = copy.deepcopy(dense), Routed(pool, active, shared, block)
    for name in NAMES:
        weight_MN = dense.get_submodule(name).weight.detach()
        layer = RankExpertLinear(HIDDEN, WIDTH, decision, bias=False, dtype=weight_MN.dtype)
        layer.down.data.copy_(torch.eye(HIDDEN)[:pool])
        layer.up.data.copy_(weight_MN.T[:pool])
        setattr(model.model.layers[0].mlp, name.rpartition(".")[2], layer)
    return model.eval()


def windows(count: int, seed: int = 0) -> Tensor:
    """[2 count, T] token ids: windows of kind 0, then as many of kind 1."""
    random = torch.Generator().manual_seed(seed)
    half = WORDS // 2
    ids_PT = torch.randint(half, (2 * count, TOKENS), generator=random)
    return ids_PT + half * (torch.arange(2 * count) >= count)[:, None]


def kinds(count: int) -> Tensor:
    """One-hot features of the same windows, [2 count, 2]."""
    return torch.eye(2).repeat_interleave(count, 0)


def prefix_energies() -> dict[str, Tensor]:
    """Energies that prefer the first pieces a little, which is wrong."""
    return {name: torch.linspace(0.0, -1.0, HIDDEN).exp() for name in NAMES}
