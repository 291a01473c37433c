"""A skipped attention counts tokens in the cache, whatever the version calls its argument."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from gacfx.errors import UnsupportedModel
from gacfx.modules.skipped import skipped_of


class Attention(nn.Module):
    def __init__(self, layer: int | None = 0) -> None:
        super().__init__()
        self.o_proj = nn.Linear(4, 4)
        if layer is not None:
            self.layer_idx = layer


class Until523(Attention):
    def forward(self, x: Tensor, past_key_values: Any = None) -> tuple[Tensor, None]:
        return self.o_proj(x), None


class From524(Attention):
    def forward(self, x: Tensor, cache: Any = None) -> tuple[Tensor, None]:
        return self.o_proj(x), None


class Someday(Attention):
    def forward(self, x: Tensor, memory: Any = None, **more: Any) -> tuple[Tensor, None]:
        return self.o_proj(x), None


@pytest.mark.parametrize(
    ("cls", "name"),
    [(Until523, "past_key_values"), (From524, "cache"), (Someday, "memory"), (Someday, "other")],
)
def test_tokens_are_counted_under_every_name_of_the_cache(cls: Any, name: str) -> None:
    skipped, cache = skipped_of("layers.0.attn", cls()), DynamicCache()
    zeros, weights = skipped(torch.ones(2, 3, 4), **{name: cache})
    assert not zeros.any() and zeros.shape == (2, 3, 4) and weights is None
    assert cache.get_seq_length() == 3
    assert skipped(torch.ones(2, 3, 4))[0].shape == (2, 3, 4)


@pytest.mark.parametrize("cls", [Until523, From524])
def test_an_attention_with_a_cache_has_to_say_its_layer(cls: Any) -> None:
    with pytest.raises(UnsupportedModel, match="does not say of which layer"):
        skipped_of("layers.0.attn", cls(layer=None))
