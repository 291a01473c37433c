"""What Taylor scores know of a weight: its gradients on a text, and the mean of its inputs.

The loss is that of the text itself, so its gradients are those of training: they vanish on average
where the model has learned the text, other than those of sampled labels in
:mod:`gacfx.core.statistics`.
"""

from dataclasses import dataclass

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
