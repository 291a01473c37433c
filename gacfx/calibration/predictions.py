"""Predictions of a model on a text, some positions at a time where the whole would fill memory."""

# T tokens of one document, V vocabulary

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn

from gacfx.calibration.layered import Layered
from gacfx.calibration.running import logits_of
from gacfx.calibration.text import embedding_rows
from gacfx.errors import UnsupportedModel

LOGITS = 2**22
"""At once: 17 MB in float32, of which several copies live together."""

Predict = Callable[[Tensor], Iterator[Tensor]]
"""Ids [T] -> logits [t, V] of the positions in turn, float32 (float64 for a float64 model)."""


@contextmanager
def predicting(model: nn.Module, ids_T: Tensor) -> Iterator[Predict]:
    """What predicts a text, one document at a time; inside, the model itself may not be run.

    Args:
        model: borrowed, in evaluation mode.
        ids_T: the longest document.
    """
    with ExitStack() as stack:
        layered = None
        if len(ids_T) * (embedding_rows(model) or 0) > LOGITS:
            with suppress(UnsupportedModel):  # the whole takes more memory, and is the same
                found = Layered(model)
                stack.enter_context(found.parted(ids_T))
                layered = found
        if layered is None:
            yield lambda ids: iter((logits_of(model, ids),))
        else:
            yield partial(_in_parts, layered)


def _in_parts(layered: Layered, ids_T: Tensor) -> Iterator[Tensor]:
    count, step = len(layered.layers), max(LOGITS // layered.vocabulary, 1)
    hidden = layered.between(ids_T[None], -1, until=count, finite=False)
    for start in range(0, len(ids_T), step):
        part = hidden[:, start : start + step]
        logits_TV = layered.between(ids_T[None, start : start + step], count, part)[0]
        yield logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
