"""Loss of a model on a corpus."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from gacfx.calibration.running import borrowed, logits_of, next_token_nats, runnable
from gacfx.calibration.text import Corpus, check_fits


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss per token of a model on a corpus."""

    nats_per_token: float
    """Mean negative log-likelihood; infinite when the model gives NaN, so that it never wins."""
    perplexity: float
    """exp(nats_per_token)."""
    tokens: int
    """Tokens that were predicted: all but the first of each window."""


def evaluate(model: nn.Module, corpus: Corpus) -> Evaluation:
    """Loss of ``model``, each window alone and from its second token on.

    Losses are float32 per token and summed in float64. The model is left as it was;
    one in fp16 on a CPU is copied to float32, with the values that its weights have in fp16.

    Raises:
        CalibrationError: the corpus does not fit the model.
    """
    check_fits(model, corpus)
    model = runnable(model)
    with borrowed(model), torch.inference_mode():
        total = math.fsum(next_token_nats(logits_of(model, ids), ids) for ids in corpus.documents)
    tokens = sum(len(ids) - 1 for ids in corpus.documents)
    nats = total / tokens
    if math.isnan(nats):
        nats = math.inf
    # exp overflows a float above 709.78 nats.
    return Evaluation(nats, math.exp(nats) if nats < 709 else math.inf, tokens)
