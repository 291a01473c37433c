"""Divergence: how far the predictions of a changed model lie from those it had when dense."""

# T tokens of one window, V vocabulary

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gacfx.calibration.running import borrowed, logits_of, runnable
from gacfx.calibration.text import Corpus


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
            terms_TV = known_TV.exp() * (known_TV - found_TV)
            nats += float(terms_TV.masked_fill_(known_TV == -math.inf, 0.0).double().sum())
        found = nats / self.corpus.tokens
        return math.inf if math.isnan(found) else found


def _predictions(model: nn.Module, corpus: Corpus) -> Iterator[Tensor]:
    """Logarithms of the probabilities of each window, [T, V], one window at a time."""
    model = runnable(model)
    with borrowed(model), torch.inference_mode():
        for ids_T in corpus.documents:
            yield logits_of(model, ids_T).log_softmax(-1)
