"""Predictions of a model on a text, some positions at a time where the whole would fill memory."""

# B documents, T tokens of each, V vocabulary

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import MOST_TOKENS
from gacfx.calibration.layered import Layered
from gacfx.calibration.running import batch_logits
from gacfx.calibration.text import embedding_rows
from gacfx.errors import UnsupportedModel

LOGITS = 2**22
"""At once: 17 MB in float32, of which several copies live together."""

Predict = Callable[[Tensor], Iterator[Tensor]]
"""Ids [B, T] -> logits [B, t, V] of the positions in turn; float32, of a float64 model float64."""


@contextmanager
def predicting(model: nn.Module, ids_T: Tensor) -> Iterator[Predict]:
    """What predicts a text, one batch at a time; inside, the model itself may not be run.

    Args:
        model: borrowed, in evaluation mode.
        ids_T: the longest document.
    """
    with ExitStack() as stack:
        layered = None
        if max(len(ids_T), MOST_TOKENS) * (embedding_rows(model) or 0) > LOGITS:
            with suppress(UnsupportedModel):  # the whole takes more memory, and is the same
                found = Layered(model)
                stack.enter_context(found.parted(ids_T))
                layered = found
        if layered is None:
            yield lambda ids_BT: iter((batch_logits(model, ids_BT),))
        else:
            yield partial(_in_parts, layered)


def positions(batch: int, vocabulary: int) -> int:
    """Of so many documents and a vocabulary, those whose logits are made at once."""
    return max(LOGITS // (batch * vocabulary), 1)


def _in_parts(layered: Layered, ids_BT: Tensor) -> Iterator[Tensor]:
    count, step = len(layered.layers), positions(len(ids_BT), layered.vocabulary)
    hidden = layered.between(ids_BT, -1, until=count, finite=False)
    for start in range(0, ids_BT.shape[1], step):
        part = hidden[:, start : start + step]
        logits_BTV = layered.between(ids_BT[:, start : start + step], count, part)
        yield logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
