"""The dense layers that can be replaced: ``nn.Linear``, and the Conv1D of transformers."""

import sys

import torch
from torch import Tensor, nn


def is_conv1d(layer: nn.Module) -> bool:
    """Whether this is a Conv1D of transformers, whose weight lies as [in, out]."""
    found = conv1d()
    return found is not None and isinstance(layer, found)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight as the layer has it."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def dense_weight(layer: nn.Module) -> Tensor:
    """Weight [out, in], detached, in its own dtype."""
    weight = weight_of(layer).detach()
    return weight.T if is_conv1d(layer) else weight


def features(layer: nn.Module) -> tuple[int, int]:
    """(out, in)."""
    first, second = weight_of(layer).shape
    return (second, first) if is_conv1d(layer) else (first, second)


def bias_of(layer: nn.Module) -> nn.Parameter | None:
    """The bias, if there is one."""
    bias = layer.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    return bias


def like(dense: nn.Module, weight_OD: Tensor, bias: nn.Parameter | None) -> nn.Module:
    """A layer of the class of another one, with this weight and bias: nothing tells it from one
    that was trained so.

    Args:
        dense: an ``nn.Linear`` or a Conv1D of any size.
        weight_OD: [out, in]; shared where the layout allows it.
        bias: [out]; this very parameter becomes the bias.
    """
    rows, columns = weight_OD.shape
    sizes = (rows, columns) if is_conv1d(dense) else (columns, rows)  # Conv1D(outputs, inputs)
    with torch.device("meta"):
        layer: nn.Module = type(dense)(*sizes) if is_conv1d(dense) else nn.Linear(*sizes)
    layer.__class__ = type(dense)  # what a subclass of nn.Linear is made from may be anything
    vars(layer).update({n: each for n, each in vars(dense).items() if n not in vars(layer)})
    stored = weight_OD.T if is_conv1d(dense) else weight_OD
    layer.weight = nn.Parameter(stored.contiguous(), weight_of(dense).requires_grad)
    layer.register_parameter("bias", bias)
    return layer.train(dense.training)


def conv1d() -> type[nn.Module] | None:
    """The Conv1D of transformers; None where nothing has imported it."""
    # A model that holds a Conv1D has imported its module; one that has not needs no transformers.
    home = sys.modules.get("transformers.pytorch_utils")
    found = None if home is None else home.Conv1D
    assert found is None or (isinstance(found, type) and issubclass(found, nn.Module))
    return found
