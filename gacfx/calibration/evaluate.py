"""Loss of a model on a corpus."""

# T tokens of one document

import math
from dataclasses import dataclass

import torch
from torch import nn

from gacfx.calibration.running import (
    borrowed,
    impossible,
    logits_of,
    no_numbers,
    runnable,
    token_nats,
)
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
    with borrowed(model), torch.inference_mode():
        for index, ids_T in enumerate(corpus.documents):
            nats_T = token_nats(logits_of(model, ids_T), ids_T)
            sums.append(float(nats_T.double().sum()))
            problem = problem or no_numbers(nats_T, index) or impossible(nats_T, ids_T, index)
    tokens = sum(len(ids) - 1 for ids in corpus.documents)
    nats = math.fsum(sums) / tokens
    if math.isnan(nats):
        nats = math.inf
    # exp overflows a float above 709.78 nats.
    return Evaluation(nats, math.exp(nats) if nats < 709 else math.inf, tokens, problem)
