"""One step of decoding as an ExportedProgram: tokens and a cache -> logits and a longer cache.

The names are those that optimum gives them: ``past_key_values.N.key`` and ``present.N.key``.
"""

# B batch, T tokens, P tokens before them, V vocabulary; a cache is [B, key-value heads, P, numbers]

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from gacfx.calibration.running import borrowed
from gacfx.errors import ExportError
from gacfx.exports.exported import explained
from gacfx.exports.programs import Program, length, nested, positions, token_ids, traced
from gacfx.graph.compat import cache_argument
from gacfx.tracing.inputs import BATCH

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BEFORE, AFTER = 5, 7
"""Tokens in the cache and behind them where a step is traced: 0 and 1 would be taken for fixed."""

Pair = tuple[Tensor, Tensor]


class _Step(nn.Module):
    """Tokens [B, T] behind P others -> logits [B, T, V], and the cache of all P + T.

    Positions are counted from the mask, so that a batch may be padded on the left.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.argument = cache_argument(model)
        self.numbered = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: list[Pair]
    ) -> tuple[Tensor, list[Pair]]:
        cache = _cache(past)
        more: dict[str, Any] = {self.argument: cache} if self.argument else {}
        if self.numbered:
            numbers = (attention_mask.cumsum(-1) - 1).clamp(min=0)
            more["position_ids"] = numbers[:, -input_ids.shape[1] :]
        made = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **more
        )
        return made.logits, [(layer.keys, layer.values) for layer in cache.layers]


def step_program(model: "PreTrainedModel") -> Program:
    """Tokens, mask and cache -> logits and cache, with the names that optimum gives them.

    Raises:
        CaptureError: torch.export refuses the model.
        ExportError: it keeps something else than keys and values, or calls what only another
            library has.
    """
    most = positions(model)
    past = _past(model)
    layers = range(len(past))
    kinds = [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    grown = {0: "batch_size", 2: "past_sequence_length"}
    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
        "past": [(grown, grown) for _ in layers],
    }
    sizes = {
        "batch_size": Dim("batch_size", min=1),
        "sequence_length": length(most),
        "past_sequence_length": Dim("past_sequence_length", min=0, max=most),
        "total_sequence_length": Dim.AUTO,
    }
    ids = token_ids(model, BATCH, AFTER)
    mask = torch.ones(BATCH, BEFORE + AFTER, dtype=torch.long, device=ids.device)
    given = {"input_ids": ids, "attention_mask": mask, "past": past}
    graph = traced(model, _Step, given, nested(axes, sizes))
    return Program(
        graph,
        ("input_ids", "attention_mask", *(f"past_key_values.{kind}" for kind in kinds)),
        ("logits", *(f"present.{kind}" for kind in kinds)),
        axes,
        tuple(each[:1, :, :0] for pair in past for each in pair),
    )


def _past(model: "PreTrainedModel") -> list[Pair]:
    """What each layer keeps of a few tokens: keys and values [B, heads, P, numbers].

    Raises:
        ExportError: it keeps something else, or nothing.
    """
    from transformers import DynamicCache

    name = type(model).__name__
    cache: Any = DynamicCache()
    argument = cache_argument(model)
    if argument is None:
        raise ExportError(f"{name}: takes no cache of keys and values; export it without a cache")
    failed = f"{name}: does not run with keys and values alone; export it without a cache"
    with borrowed(model), torch.no_grad(), explained(failed):
        ids = token_ids(model, BATCH, BEFORE)
        mask = torch.ones_like(ids)  # or transformers wonders about ids that are padding
        model(ids, attention_mask=mask, use_cache=True, **{argument: cache})
    past = [(layer.keys, layer.values) for layer in cache.layers]
    for layer, pair in enumerate(past):
        if not all(isinstance(each, Tensor) and each.ndim == 4 for each in pair):
            raise ExportError(
                f"{name}: layer {layer} keeps something else than keys and values; export it "
                "without a cache"
            )
    if not past:
        raise ExportError(f"{name}: kept nothing of the tokens; export it without a cache")
    return past


def _cache(past: list[Pair]) -> Any:
    """A cache that holds these keys and values, and grows by concatenation in every layer.

    Layers with a sliding window keep all tokens: the mask hides what is outside.
    """
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys, values, layer)
    return cache
