"""Skipped: zeros in the place of an attention or an MLP, so that the residual stream passes by.

A skipped attention goes on counting tokens: transformers asks the cache of the first layer how many
there were, so it stores one number for each token there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.pruning import Skip
from gacfx.errors import UnsupportedModel
from gacfx.graph.compat import CACHES, cache_among
from gacfx.modules.carrier import NOTICE
from gacfx.modules.returned import Returned, returned_of

OTHER_TOKENS = ("key_value_states", "encoder_hidden_states")
"""Names of what a cross-attention reads; its own cache counts nothing."""
HANDED_ON = ("position_bias",)
"""What a family returns for the next layer; it is made by a layer with an embedding of its own."""


class _Guard(nn.Module):
    """An empty buffer under the name of a dense weight, as in Carrier."""

    weight: Tensor

    def __init__(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        for name in ("weight", NOTICE):
            self.register_buffer(name, torch.empty(0, device=device, dtype=dtype))


class Skipped(nn.Module):
    """Zeros of the shape of the input, returned as the dense block returns its output."""

    def __init__(
        self,
        returned: Returned,
        layer: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.returned = returned
        self.layer_idx = layer
        # A loader that knows nothing of gacfx would fill the block with random numbers.
        self.add_module(returned.closing, _Guard(device, dtype))

    @property
    def guard(self) -> nn.Module:
        """The child that holds the guard and the notice."""
        return self.get_submodule(self.returned.closing)

    def forward(self, *given: Any, **named: Any) -> Any:
        """Zeros, of the shape of the first argument."""
        arguments = {**dict(zip(self.returned.arguments, given, strict=False)), **named}
        hidden: Tensor = arguments[self.returned.arguments[0]]
        if self.layer_idx is not None:
            _count(arguments, hidden, self.layer_idx)
        zeros = torch.zeros_like(hidden)
        size = self.returned.size
        if size is None:
            return zeros
        return (zeros, *(None for _ in range(size - 1)))

    def extra_repr(self) -> str:
        """What it is."""
        return str(Skip())


def skipped_of(name: str, block: nn.Module) -> Skipped:
    """What takes the place of a block that is skipped.

    Raises:
        UnsupportedModel: what the block returns is not known, or others need more of it.
    """
    returned = returned_of(name, block)
    for inner, module in block.named_modules():
        if isinstance(module, nn.Embedding):
            raise UnsupportedModel(f"{name}: other layers use its {inner}; leave the block in")
    for argument in HANDED_ON:
        if argument in returned.arguments:
            raise UnsupportedModel(
                f"{name}: {type(block).__name__} hands {argument} on to the next layer; leave the "
                "block in"
            )
    layer = getattr(block, "layer_idx", None)
    numbered = type(layer) is int
    if not numbered and any(each in returned.arguments for each in CACHES):
        raise UnsupportedModel(
            f"{name}: takes a cache, and does not say of which layer (layer_idx); leave it in"
        )
    like = getattr(block.get_submodule(returned.closing), "weight", None)
    if not isinstance(like, Tensor):
        raise UnsupportedModel(f"{name}: its last layer, {returned.closing}, has no weight")
    made = Skipped(returned, layer if numbered else None, device=like.device, dtype=like.dtype)
    return made.train(block.training)


def _count(arguments: dict[str, Any], hidden: Tensor, layer: int) -> None:
    """Stores one number for each token in the cache of a layer, if there is one."""
    if any(arguments.get(name) is not None for name in OTHER_TOKENS):
        return
    cache = cache_among(arguments.values())
    cache = getattr(cache, "self_attention_cache", cache)
    if cache is not None:
        batch, tokens = hidden.shape[:2]
        one = hidden.new_zeros(batch, 1, tokens, 1)
        cache.update(one, one, layer)
