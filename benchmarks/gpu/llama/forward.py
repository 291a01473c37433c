"""One forward pass of a causal language model as a call that can be timed, captured and compiled.

prefill   ``seq`` tokens, no cache, logits of the last one.
decode    one token on a StaticCache of exactly ``seq`` places: ``seq - 1`` random keys and values
          and the new one, whose place is the same in every call. Attention goes over the whole
          cache with a mask, as ``generate`` does it with such a cache, which makes transformers
          repeat keys and values for every query head; the mask is made beforehand.
"""

# B batch, S seq, V vocabulary

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.gpu.llama.variants import Variant
from gacfx.graph.compat import cache_argument
from gacfx.hardware.measure.timing import recover

Phase = Literal["prefill", "decode"]
Call = Callable[[], Tensor]
"""Returns logits, [B, 1, V]."""
WARM_UP = 3
BYTES = 2
"""Of a number in bf16."""


def make(model: Any, phase: Phase, batch: int, seq: int, seed: int) -> Call:
    """A call that runs the model on random tokens; its logits are those of the last token."""
    device = model.lm_head.weight.device
    draw = torch.Generator(device).manual_seed(seed)
    tokens_BS = random_tokens(model, batch, seq if phase == "prefill" else 1, draw)
    if phase == "prefill":
        return Prefill(model, tokens_BS)
    cache = empty_cache(model, batch, seq)
    for layer in cache.layers:
        layer.keys.normal_(generator=draw)
        layer.values.normal_(generator=draw)
    return Decode(model, tokens_BS, cache, seq - 1)


def random_tokens(model: Any, batch: int, seq: int, draw: torch.Generator) -> Tensor:
    """[B, S] token numbers."""
    top, device = model.config.vocab_size, model.lm_head.weight.device
    return torch.randint(top, (batch, seq), generator=draw, device=device)


def empty_cache(model: Any, batch: int, seq: int) -> Any:
    """A StaticCache with ``seq`` places, allocated."""
    from transformers import StaticCache

    about, weight = model.config, model.lm_head.weight
    cache = StaticCache(config=about, max_cache_len=seq)
    cache.early_initialization(
        batch_size=batch,
        num_heads=about.num_key_value_heads,
        head_dim=about.head_dim,
        dtype=weight.dtype,
        device=weight.device,
    )
    return cache


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The options that give a model its cache."""
    return {str(cache_argument(model)): cache, "use_cache": True}


@dataclass(slots=True)
class Prefill:
    """All tokens at once."""

    model: Any
    tokens_BS: Tensor

    def __call__(self) -> Tensor:
        out = self.model(input_ids=self.tokens_BS, use_cache=False, logits_to_keep=1)
        logits: Tensor = out.logits
        return logits


class Decode:
    """One token behind ``position`` others, any number of times."""

    def __init__(self, model: Any, tokens_B1: Tensor, cache: Any, position: int) -> None:
        self.model = model
        self.tokens_B1, self.cache = tokens_B1, cache
        self._told = with_cache(model, cache)
        batch, device = len(tokens_B1), tokens_B1.device
        places = torch.arange(cache.layers[0].max_cache_len, device=device)
        self._mask = (places <= position).expand(batch, 1, 1, -1).contiguous()
        self._position_B1 = torch.full((batch, 1), position, device=device)
        # Each step moves the lengths on, and one past the end would be a fault on the device.
        self._lengths = [layer.cumulative_length for layer in cache.layers]
        self._starts = [torch.full_like(length, position) for length in self._lengths]

    def __call__(self) -> Tensor:
        torch._foreach_copy_(self._lengths, self._starts)  # one kernel for all layers
        out = self.model(
            input_ids=self.tokens_B1,
            position_ids=self._position_B1,
            attention_mask=self._mask,
            logits_to_keep=1,
            **self._told,
        )
        logits: Tensor = out.logits
        return logits


@dataclass(slots=True)
class Replay:
    """A captured call; its logits lie where the capture has put them."""

    graph: Any
    logits: Tensor

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.logits


def capture(call: Call) -> Call:
    """The call as one CUDA graph; on a CPU the call itself.

    Raises:
        RuntimeError: something in it cannot be captured.
    """
    if call().device.type == "cpu":  # a rehearsal, perhaps on a machine that has a GPU
        return call
    home, side = torch.cuda.current_stream(), _side_stream()
    side.wait_stream(home)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    home.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            logits = call()
    except RuntimeError as error:
        recover(home)
        first = error.__context__ or error  # ending the capture raises once more
        reason = str(first).split("\n")[0].replace("CUDA error", "refused")
        raise RuntimeError(f"the call cannot be captured: {reason}") from error
    return Replay(graph, logits)


@cache
def _side_stream() -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps a workspace for every stream that it has seen."""
    return torch.cuda.Stream()


def compiled(model: Any, mode: str) -> Any:
    """The model under torch.compile.

    Args:
        model: where it is on a CPU, Dynamo runs but inductor does not: a rehearsal.
        mode: ``compiled``, ``padded-compiled`` or ``reduce-overhead``.
    """
    if model.lm_head.weight.device.type == "cpu":
        return torch.compile(model, backend="eager", dynamic=False)
    if mode == "padded-compiled":
        return torch.compile(model, dynamic=False, options={"force_shape_pad": True})
    if mode == "reduce-overhead":
        return torch.compile(model, dynamic=False, mode="reduce-overhead")
    return torch.compile(model, dynamic=False)


def flops(variant: Variant, layers: Sequence[int], phase: Phase, batch: int, seq: int) -> int:
    """Linear layers as stored, causal attention, and the head for one token of each row."""
    about = variant.architecture
    tokens, pairs = (batch * seq, seq * (seq + 1) // 2) if phase == "prefill" else (batch, seq)
    linears = 2 * variant.params(layers) * tokens
    attention = 4 * len(layers) * batch * about.heads * about.head_dim * pairs
    return linears + attention + 2 * batch * about.vocabulary * about.hidden


def moved_bytes(variant: Variant, layers: Sequence[int], phase: Phase, batch: int, seq: int) -> int:
    """Every weight once, the rows of the embedding, and for decode the keys and values."""
    about = variant.architecture
    tokens = batch * seq if phase == "prefill" else batch
    norms = (2 * len(layers) + 1) * about.hidden
    weights = variant.params(layers) + norms + (about.vocabulary + tokens) * about.hidden
    cached = 2 * len(layers) * batch * about.kv_heads * seq * about.head_dim
    return BYTES * (weights + (cached if phase == "decode" else 0))
