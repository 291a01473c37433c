"""SlicedLinear: a dense layer that has lost outputs or inputs, and is an ordinary linear layer.

    y = weight x + bias            weight [outputs that are left, inputs that are left]

Its parameters have the names and the layout of the dense layer, so that a model whose layers are
all cut alike is an ordinary checkpoint of a smaller model.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Node

from gacfx.core.materialise import Factors
from gacfx.core.pruning import Sliced
from gacfx.graph.edit import Build
from gacfx.modules.carrier import Source
from gacfx.modules.dense import conv1d, features, is_conv1d


class SlicedLinear(nn.Linear):
    """A linear layer of fewer outputs or inputs; adapters and exporters take it for what it is."""

    @property
    def placed(self) -> Sliced:
        """What became of the dense weight."""
        return Sliced(self.out_features, self.in_features)

    @classmethod
    def make(cls, decision: Any, source: Source) -> dict[str, Tensor]:
        """The weight itself: the source is what is left of the dense one."""
        del decision
        return {"weight": source.weight_MN}

    @classmethod
    def empty(
        cls,
        decision: Any,
        rows: int,
        columns: int,
        bias: nn.Parameter | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The layer of a slice, its values for a loader to fill.

        Args:
            decision: what is left.
            rows: outputs of the dense weight.
            columns: inputs of it.
            bias: [outputs that are left]; this very parameter becomes the bias.
            device: of the weight.
            dtype: of the weight.
        """
        del rows, columns
        weight = torch.empty(decision.outputs, decision.inputs, device=device, dtype=dtype)
        return cls._with(weight, bias)

    @classmethod
    def holding(
        cls,
        factors: Factors,
        bias: nn.Parameter | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        copy: bool = True,
    ) -> Self:
        """The layer that computes with the weight in ``factors``.

        Args:
            factors: of a slice whose rest is dense.
            bias: [outputs that are left]; this very parameter becomes the bias.
            device: of the weight; default: where it is.
            dtype: of the weight; default: the one that it has.
            copy: the layer has a weight of its own.
        """
        weight, copy = factors.tensors["weight"].detach(), copy and not factors.lent
        device, dtype = device or weight.device, dtype or weight.dtype
        return cls._with(weight.to(device, dtype, copy=copy).contiguous(), bias)

    @classmethod
    def reordered(
        cls, decision: Any, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """None: the outputs of a slice are in an order already."""
        del decision, tensors, order_O
        return None

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: Any,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """One product with the smaller weight."""
        del decision, rows, columns
        return build.linear(x, tensors["weight"], bias, child="")

    @classmethod
    def bias_name(cls, rows: int, columns: int) -> str:
        """Where every linear layer has it."""
        del rows, columns
        return "bias"

    @classmethod
    def conv1d(cls) -> Any:
        """The class of such a layer where the dense one is a Conv1D."""
        return sliced_conv1d()

    @classmethod
    def _with(cls, weight_OD: Tensor, bias: nn.Parameter | None) -> Self:
        outputs, inputs = weight_OD.shape
        layer = cls(inputs, outputs, bias=False, device="meta", dtype=weight_OD.dtype)
        layer.weight = nn.Parameter(weight_OD)
        layer.register_parameter("bias", bias)
        return layer


def like_dense(layer: SlicedLinear, dense: nn.Module) -> nn.Module:
    """The slice as a Conv1D where the dense layer is one; else itself."""
    if not is_conv1d(dense):
        return layer
    outputs, inputs = layer.weight.shape
    with torch.device("meta"):
        made = layer.conv1d()(outputs, inputs)
    assert isinstance(made, nn.Module)
    made.weight = nn.Parameter(layer.weight.detach().T.contiguous())
    made.register_parameter("bias", layer.bias)
    return made


@cache
def sliced_conv1d() -> Any:
    """The class of slices of a Conv1D of transformers: weight [in, out], ``nf`` outputs."""
    base: Any = conv1d()

    def placed(layer: nn.Module) -> Sliced:
        """What became of the dense weight."""
        return Sliced(*features(layer))

    home = {"__module__": __name__, "__doc__": "A Conv1D of fewer outputs or inputs."}
    return type("SlicedConv1D", (base,), {**home, "placed": property(placed)})


def sliced_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer that stays dense with fewer outputs or inputs, in the model's order."""
    return {name: m for name, m in model.named_modules() if is_sliced(m)}


def is_sliced(layer: nn.Module) -> bool:
    """It stays dense, with fewer outputs or inputs."""
    if isinstance(layer, SlicedLinear):
        return True
    return is_conv1d(layer) and isinstance(layer, sliced_conv1d())


def __getattr__(name: str) -> Any:
    """``SlicedConv1D``, by which a pickled model finds it."""
    if name == "SlicedConv1D" and conv1d() is not None:
        return sliced_conv1d()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
