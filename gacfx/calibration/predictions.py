"""Predictions of a model on a text, some positions at a time where the whole would fill memory."""

# B documents, T tokens of each, V vocabulary

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import MOST_TOKENS, Batch, Reads, batches, how_read
from gacfx.calibration.layered import Layered
from gacfx.calibration.running import batch_logits, computing_dtype, runnable
from gacfx.calibration.text import embedding_rows
from gacfx.errors import UnsupportedModel

LOGITS = 2**22
"""At once: 17 MB in float32, of which several copies live together."""

LARGE = 2**30
"""Bytes of a model from which on it reads a text one layer at a time: all of it may not stay in
memory, and would be read again for each batch."""
GROUP_TOKENS = 16_384
"""Text that is read at once then, for which hidden states are held."""

Predict = Callable[[Sequence[Tensor]], Iterator[tuple[Batch, Iterator[Tensor]]]]
"""Documents [T] each -> batches of them, with the logits [B, t, V] of the positions in turn;
float32, of a float64 model float64."""


@contextmanager
def predicting(
    model: nn.Module,
    documents: Sequence[Tensor],
    device: torch.device | None = None,
    *,
    reads: Reads | None = None,
) -> Iterator[Predict]:
    """What predicts a text; inside, the model itself may not be run.

    Args:
        model: borrowed, in evaluation mode.
        documents: [T] each, which it will read.
        device: where it computes, one layer after the other; None for where it is.
        reads: which documents it reads together; None for those that it is found to read so.

    Raises:
        CalibrationError: the model cannot run.
    """
    longest, dtype = max(documents, key=len), computing_dtype(model, device)
    many = max(len(longest), MOST_TOKENS) * (embedding_rows(model) or 0) > LOGITS
    with ExitStack() as stack:
        layered = None
        if many or device is not None or dtype is not None or _size(model) > LARGE:
            with suppress(UnsupportedModel):  # the whole takes more memory, and is the same
                found = Layered(model, device, dtype)
                stack.enter_context(found.parted(longest))
                layered = found
        if layered is None:
            whole = runnable(model)
            yield partial(_whole, whole, reads or how_read(whole, documents))
        else:
            logits = partial(layered.between, at=-1, until=len(layered.layers) + 1, finite=False)
            found_reads = reads or how_read(model, documents, logits=logits)
            yield partial(_in_parts, layered, found_reads)


def _size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def positions(batch: int, vocabulary: int) -> int:
    """Of so many documents and a vocabulary, those whose logits are made at once."""
    return max(LOGITS // (batch * vocabulary), 1)


def _whole(
    model: nn.Module, reads: Reads, documents: Sequence[Tensor]
) -> Iterator[tuple[Batch, Iterator[Tensor]]]:
    for batch in batches(documents, reads):
        yield batch, iter((batch_logits(model, batch.ids),))


def _in_parts(
    layered: Layered, reads: Reads, documents: Sequence[Tensor]
) -> Iterator[tuple[Batch, Iterator[Tensor]]]:
    moved = layered.device is not None or layered.dtype is not None
    most = GROUP_TOKENS if moved or _size(layered.model) > LARGE else 0
    for group in _groups(batches(documents, reads), most):
        for batch, hidden in zip(group, _last_hidden(layered, group), strict=True):
            yield batch, _logits(layered, batch.ids, hidden)


def _groups(found: Sequence[Batch], most_tokens: int) -> Iterator[list[Batch]]:
    """Batches of at most so many tokens together; a longer one alone."""
    group: list[Batch] = []
    for batch in found:
        if group and sum(each.ids.numel() for each in [*group, batch]) > most_tokens:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def _last_hidden(layered: Layered, group: list[Batch]) -> list[Tensor]:
    """What the head is given, [B, T, D] of each batch; each layer reads all of them."""
    if len(group) == 1:
        count = len(layered.layers)
        return [layered.between(group[0].ids, -1, until=count, finite=False)]
    hidden: list[Tensor | None] = [None for _ in group]
    for at in range(-1, len(layered.layers)):
        with layered.at_hand(at):
            for index, batch in enumerate(group):
                hidden[index] = layered.between(batch.ids, at, hidden[index], finite=False)
    return [each for each in hidden if each is not None]


def _logits(layered: Layered, ids_BT: Tensor, hidden: Tensor) -> Iterator[Tensor]:
    count, step = len(layered.layers), positions(len(ids_BT), layered.vocabulary)
    for start in range(0, ids_BT.shape[1], step):
        part = hidden[:, start : start + step]
        logits_BTV = layered.between(ids_BT[:, start : start + step], count, part)
        yield logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
