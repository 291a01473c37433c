"""Two models on one text, token by token: the loss of the one, and how far it is from the other."""

# T tokens of one window, t positions of a part of it, V vocabulary

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Reads
from gacfx.calibration.divergence import divergences
from gacfx.calibration.predictions import predicting
from gacfx.calibration.running import borrowed
from gacfx.calibration.text import Corpus, check_fits
from gacfx.errors import CalibrationError
from gacfx.modules.routing_hooks import picked


class Paired(NamedTuple):
    """Of each window [T - 1], each token from the second on; on the CPU."""

    nats: list[Tensor]
    """Negative log-likelihood under the model; float32 (float64 of a float64 model)."""
    divergence: list[Tensor]
    """KL(dense || model) of the predictions of that token; float64, nats."""


def paired(
    model: nn.Module, dense: nn.Module, corpus: Corpus, *, device: torch.device | None = None
) -> Paired:
    """Loss of ``model`` and its KL to ``dense``; both read each window alone, a part at a time.

    A model whose prompts pick their ranks has its static prefix meanwhile. NaN stays NaN; where
    ``model`` gives no probability to what ``dense`` holds possible, the divergence is infinite.

    Args:
        model: a causal language model; left as it was.
        dense: another one with the same vocabulary; left as it was.
        corpus: windows.
        device: where both compute, one decoder layer after the other; None for where they are.

    Raises:
        CalibrationError: the corpus does not fit one of the models, or their vocabularies differ.
    """
    for each in (model, dense):
        check_fits(each, corpus)
    nats: dict[int, Tensor] = {}
    divergence: dict[int, Tensor] = {}
    with ExitStack() as stack:
        predicts = []
        for each in (dense, model):
            stack.enter_context(borrowed(each))
            stack.enter_context(picked(each, None))
            # Each alone, so that both are read in the same order.
            context = predicting(each, corpus.documents, device, reads=Reads.ALONE)
            predicts.append(stack.enter_context(context))
        stack.enter_context(torch.inference_mode())
        both = zip(*(predict(corpus.documents) for predict in predicts), strict=True)
        for (batch, known), (_, found) in both:
            (index,), (ids_T,) = batch.indices, batch.documents
            nats[index], divergence[index] = _one_window(known, found, ids_T)
    order: Sequence[int] = range(len(corpus.documents))
    return Paired([nats[index] for index in order], [divergence[index] for index in order])


def _one_window(
    known: Iterator[Tensor], found: Iterator[Tensor], ids_T: Tensor
) -> tuple[Tensor, Tensor]:
    """(loss, divergence) [T - 1] from the logits [1, t, V] of the parts of a window."""
    nats, divergence, at = list[Tensor](), list[Tensor](), 1
    for known_tV, found_tV in _in_step(known, found):
        next_t = ids_T[at : at + len(known_tV)].to(found_tV.device)
        at += len(known_tV)
        if not len(next_t):
            continue
        logp_tV = known_tV[: len(next_t)].log_softmax(-1)
        logq_tV = found_tV[: len(next_t)].log_softmax(-1)
        nats.append(-logq_tV.gather(1, next_t[:, None])[:, 0].cpu())
        kl_t = divergences(logp_tV, logq_tV.to(logp_tV.device))
        divergence.append(kl_t.double().cpu())
    return torch.cat(nats), torch.cat(divergence)


def _in_step(known: Iterator[Tensor], found: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts [t, V] of the same positions: one model may be read whole and the other in parts."""
    left: list[Tensor] = [torch.empty(0), torch.empty(0)]
    sources = (known, found)
    while True:
        for side, source in enumerate(sources):
            if not len(left[side]):
                part = next(source, None)
                if part is None:
                    return
                left[side] = part[0]
        if left[0].shape[1] != left[1].shape[1]:
            raise CalibrationError(
                f"vocabularies of {left[0].shape[1]:,} and {left[1].shape[1]:,} tokens have no KL"
            )
        count = min(map(len, left))
        yield left[0][:count], left[1][:count]
        left = [each[count:] for each in left]
