"""Divergence: how far the predictions of a changed model lie from those it had when dense."""

# T tokens of one window, V vocabulary, ... any axes

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gacfx.calibration.running import borrowed, logits_of, runnable
from gacfx.calibration.text import Corpus


def divergences(known_V: Tensor, found_V: Tensor) -> Tensor:
    """KL(known || found) at each position, nats: [...] of [..., V].

    A token that is impossible by ``known`` adds nothing, whatever ``found`` says of it; one that is
    impossible by ``found`` alone makes the divergence infinite.

    Args:
        known_V: logarithms of probabilities.
        found_V: the same of what is judged; gradients go through it.
    """
    terms_V = known_V.exp() * (known_V - found_V)
    return terms_V.masked_fill(known_V == -math.inf, 0.0).sum(-1)


class Reference:
    """Predictions of a model at every position of a text; 4 bytes x tokens x vocabulary."""

    def __init__(self, model: nn.Module, corpus: Corpus) -> None:
        """Keep what the model predicts now.

        Raises:
            CalibrationError: the corpus does not fit the model.
        """
        self.corpus = corpus
        self._known = [*_predictions(model, corpus)]

    def divergence(self, model: nn.Module) -> float:
        """KL(reference || model), nats per token, at least 0 up to rounding; infinite where the
        model gives NaN, or no probability to what the reference holds possible.

        Args:
            model: with the vocabulary of the reference; left as it was.
        """
        nats = 0.0
        for known_TV, found_TV in zip(self._known, _predictions(model, self.corpus), strict=True):
            nats += float(divergences(known_TV, found_TV).double().sum())
        found = nats / self.corpus.tokens
        return math.inf if math.isnan(found) else found


def _predictions(model: nn.Module, corpus: Corpus) -> Iterator[Tensor]:
    """Logarithms of the probabilities of each window, [T, V], one window at a time."""
    model = runnable(model)
    with borrowed(model), torch.inference_mode():
        for ids_T in corpus.documents:
            yield logits_of(model, ids_T).log_softmax(-1)
