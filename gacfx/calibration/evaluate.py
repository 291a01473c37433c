"""Loss of a model on a corpus."""

# T tokens of one document

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.calibration.faults import no_numbers
from gacfx.calibration.predictions import predicting
from gacfx.calibration.running import borrowed, impossible, runnable
from gacfx.calibration.text import Corpus, check_fits
from gacfx.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss per token of a model on a corpus."""

    nats_per_token: float
    """Mean negative log-likelihood; infinite when the model gives NaN, so that it never wins."""
    perplexity: float
    """exp(nats_per_token)."""
    tokens: int
    """Tokens that were predicted: all but the first of each window."""
    problem: str = ""
    """Why the loss says nothing of the model: logits that are no numbers, or a token that it gives
    no probability; else empty."""

    def checked(self) -> "Evaluation":
        """The evaluation itself.

        Raises:
            CalibrationError: logits are NaN, or the text has a token that the model gives no
                probability.
        """
        if self.problem:
            raise CalibrationError(self.problem)
        return self


def evaluate(model: nn.Module, corpus: Corpus) -> Evaluation:
    """Loss of ``model``, each window alone and from its second token on.

    Losses are float32 per token and summed in float64. The model is left as it was;
    one in fp16 on a CPU is copied to float32, with the values that its weights have in fp16.

    Raises:
        CalibrationError: the corpus does not fit the model.
    """
    check_fits(model, corpus)
    model = runnable(model)
    sums, problem = [], ""
    longest = max(corpus.documents, key=len)
    with borrowed(model), torch.inference_mode():
        with predicting(model, longest) as predict:
            for index, ids_T in enumerate(corpus.documents):
                nats_T = _losses(predict(ids_T), ids_T)
                sums.append(float(nats_T.double().sum()))
                problem = problem or impossible(nats_T, ids_T, corpus.number(index))
        for index in [index for index, nats in enumerate(sums) if math.isnan(nats)][:1]:
            problem = no_numbers(model, corpus.documents[index], corpus.number(index))
    tokens = sum(len(ids) - 1 for ids in corpus.documents)
    nats = math.fsum(sums) / tokens
    if math.isnan(nats):
        nats = math.inf
    # exp overflows a float above 709.78 nats.
    return Evaluation(nats, math.exp(nats) if nats < 709 else math.inf, tokens, problem)


def _losses(parts: Iterable[Tensor], ids_T: Tensor) -> Tensor:
    """Negative log-likelihood [T - 1] of each token from the second on, float32, nats.

    Args:
        parts: logits [t, V] of the positions in turn.
        ids_T: all tokens.
    """
    losses, at = [], 1
    for logits_TV in parts:
        next_T = ids_T[at : at + len(logits_TV)].to(logits_TV.device)
        seen_TV = logits_TV[: len(next_T)]
        losses.append(nn.functional.cross_entropy(seen_TV, next_T, reduction="none"))
        at += len(logits_TV)
    return torch.cat(losses)
