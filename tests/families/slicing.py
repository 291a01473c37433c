"""Slicing every use of a dim against masking every use with zeros: is the coupling complete?"""

import ast
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.dims import Dim, Dims
from gacfx.core.structures import Structure


def names(text: str) -> list[str]:
    """Names of dims in the text of an axis, in order."""
    return [word for word in text.translate(str.maketrans("*+()", "    ")).split() if word != "1"]


def kept_mask(text: str, keep: dict[str, Tensor]) -> Tensor:
    """Which elements of an axis stay, given which units stay of the dims in its text."""

    def walk(tree: ast.expr) -> Tensor:
        if isinstance(tree, ast.BinOp):
            left, right = walk(tree.left), walk(tree.right)
            if isinstance(tree.op, ast.Add):
                return torch.cat([left, right])
            return (left[:, None] & right[None]).reshape(-1)
        return keep[tree.id] if isinstance(tree, ast.Name) else torch.ones(1, dtype=torch.bool)

    return walk(ast.parse(text, mode="eval").body)


def whole(dims: Dims) -> dict[str, Tensor]:
    """Everything stays."""
    return {dim.name: torch.ones(dim.size, dtype=torch.bool) for dim in dims.dims}


def slice_against_mask(
    model: nn.Module, kwargs: dict[str, Any], dims: Dims, dim: Dim
) -> tuple[float, float]:
    """Largest differences (sliced - masked, masked - whole) of the outputs of a model."""
    sliced, masked = _sliced_and_masked(model, dims, dim)
    for module in sliced.modules():
        if type(module).__name__ == "Conv1D":  # of GPT-2, which keeps its width as an attribute
            module.nf = module.get_parameter("weight").shape[1]  # type: ignore[assignment]
    with torch.no_grad():
        a, b, c = (each(**kwargs)[0] for each in (sliced, masked, model))
    return (a - b).abs().max().item(), (b - c).abs().max().item()


def _sliced_and_masked(model: nn.Module, dims: Dims, dim: Dim) -> tuple[nn.Module, nn.Module]:
    """The model without some units of ``dim``, and the model with zeros in their place."""
    keep = whole(dims)
    # Grouped matmuls want row strides that are multiples of 16 bytes.
    count = dim.size * 7 // 10 // 8 * 8 or dim.size // 2
    random = torch.Generator().manual_seed(0)
    keep[dim.name] = torch.randperm(dim.size, generator=random) < count
    sliced, masked = copy.deepcopy(model), copy.deepcopy(model)
    for weight in {use.weight for use in dim.uses}:
        small = masked.get_parameter(weight).detach().clone()
        for axis, text in enumerate(dims.axes[weight]):
            mask = kept_mask(text, keep)
            shape = [-1 if at == axis else 1 for at in range(small.dim())]
            masked.get_parameter(weight).data *= mask.view(shape)
            small = small.index_select(axis, mask.nonzero()[:, 0])
        parent, _, leaf = weight.rpartition(".")
        setattr(sliced.get_submodule(parent), leaf, nn.Parameter(small))
    return sliced, masked


def prune_structure(
    model: nn.Module,
    structure: Structure,
    units: Sequence[int],
    heads: Sequence[Sequence[int]] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """The model with some units of a structure sliced off, and the model with zeros there."""
    sliced, masked = copy.deepcopy(model), copy.deepcopy(model)
    for member in structure.members:
        for axis, along in ((0, member.outputs), (1, member.inputs)):
            if along is not None:
                kept = torch.from_numpy(along.kept(units, heads))
                _keep(sliced.get_submodule(member.module), axis, kept, slice_off=True)
                _keep(masked.get_submodule(member.module), axis, kept, slice_off=False)
    return sliced, masked


def _keep(layer: nn.Module, axis: int, kept: Tensor, slice_off: bool) -> None:
    """Leave some outputs (axis 0) or inputs (axis 1) of a linear layer."""
    conv1d = type(layer).__name__ == "Conv1D"
    at = {"weight": 1 - axis if conv1d else axis, **({"bias": 0} if axis == 0 else {})}
    for name, dim in at.items():
        old = getattr(layer, name, None)
        if old is None:
            continue
        new = old.detach().index_select(dim, kept)
        if not slice_off:
            new = torch.zeros_like(old).index_copy(dim, kept, new)
        setattr(layer, name, nn.Parameter(new))
    if conv1d and slice_off:
        layer.nf = layer.get_parameter("weight").shape[1]  # type: ignore[assignment]


def difference(one: nn.Module, other: nn.Module, kwargs: dict[str, Any]) -> float:
    """Largest difference of two models' outputs, relative to the largest output."""
    with torch.no_grad():
        a, b = (each(**kwargs)[0] for each in (one, other))
    return float((a - b).abs().max() / b.abs().max())
