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
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.llama.variants import Variant
from gacfx.bench import steps
from gacfx.core.sites import Workload
from gacfx.hardware.measure.timing import recover

Call = Callable[[], Tensor]
"""Returns logits, [B, 1, V]."""
WARM_UP = 3
BYTES = 2
"""Of a number in bf16."""


def make(model: Any, work: Workload, seed: int, run: Any = None) -> Call:
    """A call that runs the model on random tokens; its logits are those of the last token.

    Args:
        model: a LlamaForCausalLM.
        work: ``mode``, ``batch`` and ``seq``; how it is run is the caller's.
        seed: of the tokens, and of the keys and values of a decode.
        run: what is called in place of the model: the same model compiled.
    """
    run = model if run is None else run
    tokens_BS = steps.random_tokens(model, work, seed)
    if work.mode == "prefill":
        return steps.Prefill(model, run, tokens_BS)
    cache = empty_cache(model, work)
    draw = torch.Generator(tokens_BS.device).manual_seed(seed)
    for layer in cache.layers:
        layer.keys.normal_(generator=draw)
        layer.values.normal_(generator=draw)
    return decode(model, run, cache, tokens_BS[:, -1:].clone())


def decode(model: Any, run: Any, cache: Any, tokens_B1: Tensor) -> steps.Decode:
    """The step that takes the last place of a cache whose other places are filled."""
    batch, places, device = len(tokens_B1), cache.layers[0].max_cache_len, tokens_B1.device
    for layer in cache.layers:
        layer.cumulative_length.fill_(places - 1)
    told = {
        "position_ids": torch.full((batch, 1), places - 1, device=device),
        "attention_mask": torch.ones(batch, 1, 1, places, dtype=torch.bool, device=device),
    }
    return steps.Decode(model, partial(run, **told), cache, tokens_B1)


def empty_cache(model: Any, work: Workload) -> Any:
    """A StaticCache with ``seq`` places, allocated."""
    from transformers import StaticCache

    about, weight = model.config, model.lm_head.weight
    cache = StaticCache(config=about, max_cache_len=work.seq)
    cache.early_initialization(
        batch_size=work.batch,
        num_heads=about.num_key_value_heads,
        head_dim=about.head_dim,
        dtype=weight.dtype,
        device=weight.device,
    )
    return cache


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


def flops(variant: Variant, layers: Sequence[int], work: Workload) -> int:
    """Linear layers as stored, causal attention, and the head for one token of each row."""
    about, seq = variant.architecture, work.seq
    pairs = seq * (seq + 1) // 2 if work.mode == "prefill" else seq
    linears = 2 * variant.params(layers) * work.new_tokens
    attention = 4 * len(layers) * work.batch * about.heads * about.head_dim * pairs
    return linears + attention + 2 * work.batch * about.vocabulary * about.hidden


def moved_bytes(variant: Variant, layers: Sequence[int], work: Workload) -> int:
    """Every weight once, the rows of the embedding, and for decode the keys and values."""
    about = variant.architecture
    norms = (2 * len(layers) + 1) * about.hidden
    weights = variant.params(layers) + norms + (about.vocabulary + work.new_tokens) * about.hidden
    cached = 2 * len(layers) * work.batch * about.kv_heads * work.seq * about.head_dim
    return BYTES * (weights + (cached if work.mode == "decode" else 0))
