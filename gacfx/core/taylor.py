"""What Taylor scores know of a weight: its gradients on a text, and the mean of its inputs.

The loss is that of the text itself, so its gradients are those of training: they vanish on average
where the model has learned the text, other than those of sampled labels in
:mod:`gacfx.core.statistics`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TaylorSums:
    """Gradients of the loss, nats per predicted token, at one weight [rows, columns]."""

    mean: Tensor
    """[rows, columns] float32: gradient of the whole text as one batch."""
    square_mean: Tensor
    """[rows, columns] float32: mean over documents of the square of each one's own gradient."""
    column_sums: Tensor
    """[documents, columns] float64: of weight x gradient, each document's own. That is the gradient
    at a factor of each input."""
    input_mean: Tensor
    """[columns] float64: mean of x over tokens."""


def merge_gradients(one: TaylorSums, other: TaylorSums, tokens: tuple[int, int]) -> TaylorSums:
    """What two disjoint texts say together of one weight.

    Args:
        one: of the first text.
        other: of the second text.
        tokens: of each text; all but the first of a document are predicted.
    """
    documents = len(one.column_sums), len(other.column_sums)
    predicted = tokens[0] - documents[0], tokens[1] - documents[1]

    def mix(a: Tensor, b: Tensor, counts: tuple[int, int]) -> Tensor:
        return torch.lerp(b, a, counts[0] / sum(counts))

    return TaylorSums(
        mean=mix(one.mean, other.mean, predicted),
        square_mean=mix(one.square_mean, other.square_mean, documents),
        column_sums=torch.cat([one.column_sums, other.column_sums]),
        input_mean=mix(one.input_mean, other.input_mean, tokens),
    )
