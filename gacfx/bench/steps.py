"""One forward pass of a causal language model as a call that can be made again and again.

prefill   ``seq`` tokens at once, without a cache.
decode    one token behind a cache of ``seq``. After each call the cache is as it was before, so
          that every call finds ``seq`` tokens. Eagerly it is the growing cache that ``generate``
          uses; compiled it is a static one of ``seq + 1`` places, in which a sliding window that
          is full moves on by one token with each call.

Only the logits of the last token are asked for, as ``generate`` does it.
"""

# B batch, S seq, V vocabulary

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gacfx.core.model_class import vocabulary
from gacfx.core.sites import Workload
from gacfx.errors import BenchError
from gacfx.graph.compat import arguments, cache_argument, tokens_held

Step = Callable[[], Tensor]
"""Returns logits, [B, 1, V], or [B, S, V] where the model cannot leave out the others."""
FILL_TOKENS = 4096
"""Tokens, of all sequences together, that are put into a cache at a time: one forward pass of
everything needs more memory, and could fail where decode itself does not."""


def make_step(model: Any, work: Workload, seed: int) -> Step:
    """A call that runs ``model`` on random tokens, the same ones for the same seed.

    Args:
        model: causal language model in eval mode, on the device to measure.
        work: what a step is.
        seed: of the tokens.

    Raises:
        BenchError: decode of a model that takes no cache of keys and values.
    """
    tokens_BS = random_tokens(model, work, seed)
    run = _compiled(model) if work.execution == "compiled" else model
    if work.mode == "prefill":
        return Prefill(model, run, tokens_BS)
    if cache_argument(model) is None or not cache_off(model):
        raise BenchError(f"{type(model).__name__} takes no cache of keys and values; bench prefill")
    cache = empty_cache(model, work)
    fill(model, cache, tokens_BS)
    return Decode(model, run, cache, tokens_BS[:, -1:].clone())


class Prefill:
    """All tokens at once, and no cache."""

    def __init__(self, model: Any, run: Any, tokens_BS: Tensor) -> None:
        self._run, self._tokens_BS = run, tokens_BS
        self._options = {**last_only(model), **cache_off(model)}

    def __call__(self) -> Tensor:
        logits: Tensor = self._run(input_ids=self._tokens_BS, **self._options).logits
        return logits


class Decode:
    """One token behind those in the cache, any number of times."""

    def __init__(self, model: Any, run: Any, cache: Any, tokens_B1: Tensor) -> None:
        self._run, self._tokens_B1, self.cache = run, tokens_B1, cache
        self._options = {**last_only(model), **with_cache(model, cache)}
        # A growing cache makes new tensors, so its old ones are put back. A static one writes into
        # its own, where the new token's place is the same each time, and counts in tensors.
        self._before = [dict(vars(layer)) for layer in cache.layers]
        counters = [getattr(layer, "cumulative_length", None) for layer in cache.layers]
        self._counters = [found for found in counters if isinstance(found, Tensor)]
        self._starts = [found.clone() for found in self._counters]

    def __call__(self) -> Tensor:
        logits: Tensor = self._run(input_ids=self._tokens_B1, **self._options).logits
        self._put_back()
        return logits

    def _put_back(self) -> None:
        for layer, before in zip(self.cache.layers, self._before, strict=True):
            vars(layer).update(before)
        if self._counters:
            torch._foreach_copy_(self._counters, self._starts)  # one kernel for all layers


def random_tokens(model: Any, work: Workload, seed: int) -> Tensor:
    """[B, S] token numbers, drawn on the CPU so that every device gets the same."""
    draw = torch.Generator().manual_seed(seed)
    tokens_BS = torch.randint(vocabulary(model), (work.batch, work.seq), generator=draw)
    return tokens_BS.to(next(model.parameters()).device)


def empty_cache(model: Any, work: Workload) -> Any:
    """A cache for ``seq`` tokens and one more."""
    from transformers import DynamicCache, StaticCache

    if work.execution == "compiled":
        return StaticCache(config=model.config, max_cache_len=work.seq + 1)
    return DynamicCache(config=model.config)


def fill(model: Any, cache: Any, tokens_BS: Tensor) -> None:
    """Put the keys and values of all tokens into ``cache``, some tokens at a time.

    Raises:
        BenchError: the model keeps its past elsewhere, so the cache stays shorter.
    """
    batch, seq = tokens_BS.shape
    for part in tokens_BS.split(max(1, FILL_TOKENS // batch), dim=1):
        model(input_ids=part, **with_cache(model, cache), **last_only(model))
    if (held := tokens_held(cache)) != seq:
        raise BenchError(
            f"{type(model).__name__} holds {held} of {seq} tokens in its cache; bench prefill"
        )


def last_only(model: Any) -> dict[str, int]:
    """The option that asks for the logits of the last token, where the model has it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in arguments(model) else {}


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The options that give a model its cache."""
    name = cache_argument(model)
    assert name is not None
    return {name: cache, "use_cache": True}


def cache_off(model: Any) -> dict[str, bool]:
    """The option that asks for no cache, where the model has it."""
    return {"use_cache": False} if "use_cache" in arguments(model) else {}


def _compiled(model: Any) -> Any:
    return torch.compile(model, dynamic=False)
