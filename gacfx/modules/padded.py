"""PaddedLinear: a dense layer with rows or columns of zeros, and an ordinary linear layer."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.padding import ZERO, Padded
from gacfx.modules.dense import bias_of, dense_weight, features, like, weight_of
from gacfx.modules.sliced import SlicedLinear, like_dense, sliced_conv1d

Positions = Sequence[int] | None
"""Old position, or ``ZERO``, of each new one; None where the axis stays."""


class PaddedLinear(SlicedLinear):
    """A linear layer with more outputs or inputs; adapters and exporters take it for what it is."""

    @property
    def placed(self) -> Padded:  # type: ignore[override]  # of a slice it is one
        """What became of the dense weight."""
        return Padded(self.out_features, self.in_features)

    @classmethod
    def conv1d(cls) -> Any:
        """The class of such a layer where the dense one is a Conv1D."""
        return padded_conv1d()


@cache
def padded_conv1d() -> Any:
    """The class of padded Conv1D of transformers: weight [in, out], ``nf`` outputs."""

    def placed(layer: nn.Module) -> Padded:
        """What became of the dense weight."""
        return Padded(*features(layer))

    home = {"__module__": __name__, "__doc__": "A Conv1D of more outputs or inputs."}
    return type("PaddedConv1D", (sliced_conv1d(),), {**home, "placed": property(placed)})


def padded(dense: nn.Module, outputs: Positions, inputs: Positions) -> nn.Module:
    """The layer with zeros at the new outputs and inputs, of the class of decisions."""
    weight, bias = _grown(dense, outputs, inputs)
    layer: nn.Module = like_dense(PaddedLinear._with(weight, bias), dense)
    weight_of(layer).requires_grad_(weight_of(dense).requires_grad)
    return layer.train(dense.training)


def enlarged(dense: nn.Module, outputs: Positions, inputs: Positions) -> nn.Module:
    """The layer with zeros at the new outputs and inputs, of its own class: nothing tells it from
    one that was trained so."""
    return like(dense, *_grown(dense, outputs, inputs))


def grown(tensor: Tensor, axis: int, positions: Positions) -> Tensor:
    """A copy with these positions along an axis, zeros where they are new."""
    if positions is None:
        return tensor.detach().clone()
    at = torch.tensor(positions, device=tensor.device)
    made = tensor.detach().index_select(axis, at.clamp(min=0))
    new = [place for place, old in enumerate(positions) if old == ZERO]
    return made.index_fill_(axis, torch.tensor(new, dtype=torch.long, device=tensor.device), 0)


def _grown(
    dense: nn.Module, outputs: Positions, inputs: Positions
) -> tuple[Tensor, nn.Parameter | None]:
    """(weight [outputs, inputs], bias)."""
    weight = grown(grown(dense_weight(dense), 0, outputs), 1, inputs).contiguous()
    bias = bias_of(dense)
    if bias is not None and outputs is not None:
        bias = nn.Parameter(grown(bias, 0, outputs), requires_grad=bias.requires_grad)
    return weight, bias


def __getattr__(name: str) -> Any:
    """``PaddedConv1D``, by which a pickled model finds it."""
    if name == "PaddedConv1D":
        return padded_conv1d()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
