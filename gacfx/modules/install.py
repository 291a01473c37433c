"""Put low-rank layers in the place of dense ones: with factors, empty, or for a while.

Everything is checked before the first module is replaced, so a refusal leaves the model as it was.
"""

# R rank, D input features, O output features

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gacfx.core.materialise import Factors
from gacfx.errors import UnsupportedModel
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.ties import tied_modules


def install_(model: nn.Module, factors: Mapping[str, Factors]) -> None:
    """Replaces each named layer by its factors, in the layer's dtype and on its device.

    Layers are ``nn.Linear``, or the Conv1D of transformers (weight [in, out]). The bias stays the
    same parameter; ``requires_grad`` and the training mode are kept.

    Raises:
        UnsupportedModel: names the layer that is missing, of another kind or shape, shared, hooked,
            or whose factors do not fit into its dtype. Nothing was changed.
    """
    ties = tied_modules(model)
    for name, pair in factors.items():
        layer = _replaceable(model, name, ties)
        _check_shape(name, layer, pair)
        _check_values(name, layer, pair)
    for name, pair in factors.items():
        _put_(model, name, _filled(model.get_submodule(name), pair))


def skeleton_(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replaces each named layer by a low-rank one without values, for a loader to fill.

    Args:
        model: usually on the meta device.
        ranks: module name -> rank.

    Raises:
        UnsupportedModel: as ``install_``, or a rank outside 1 .. min(in, out). Nothing was changed.
    """
    ties = tied_modules(model)
    for name, rank in ranks.items():
        rows, columns = _features(_replaceable(model, name, ties))
        if not 1 <= rank <= min(rows, columns):
            raise UnsupportedModel(
                f"{name}: rank {rank} is outside 1 .. {min(rows, columns)} of its "
                f"{rows} x {columns} weight; is this the model that the ranks were made for?"
            )
    for name, rank in ranks.items():
        _put_(model, name, _empty(model.get_submodule(name), rank))


@contextmanager
def swapped(model: nn.Module, factors: Mapping[str, Factors]) -> Iterator[None]:
    """The model with ``factors`` installed; afterwards it has the very same modules as before.

    Raises:
        UnsupportedModel: as ``install_``.
    """
    dense = {name: model.get_submodule(name) for name in factors if _has(model, name)}
    install_(model, factors)
    try:
        yield
    finally:
        for name, layer in dense.items():
            model.set_submodule(name, layer)


def low_rank_modules(model: nn.Module) -> dict[str, LowRankLinear]:
    """Name -> low-rank layer, for all that are in place, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LowRankLinear)}


def _replaceable(model: nn.Module, name: str, ties: Mapping[str, str]) -> nn.Module:
    """The layer called ``name``, if it can be replaced at all."""
    if not name or not _has(model, name):
        raise UnsupportedModel(f"{name or '(no name)'}: the model has no such module")
    layer = model.get_submodule(name)
    # Subclasses of Linear may compute something else, or have their weight read by their parent.
    if type(layer) is not nn.Linear and not _is_conv1d(layer):
        raise UnsupportedModel(
            f"{name}: is a {type(layer).__name__}; only nn.Linear and Conv1D can be factorized"
        )
    if name in ties:
        raise UnsupportedModel(
            f"{name}: shares its weight with {ties[name]}, which would change as well; "
            "leave it out of the plan"
        )
    if _is_hooked(layer):
        raise UnsupportedModel(
            f"{name}: has hooks, which would be lost; remove them, or load without offload"
        )
    if "forward" in vars(layer):
        raise UnsupportedModel(
            f"{name}: its forward was replaced, which would be lost; restore it (del layer.forward)"
        )
    return layer


def _is_hooked(layer: nn.Module) -> bool:
    """Somebody listens to the layer or to its weight, forward or backward."""
    weight = _weight(layer)
    found = (
        *(layer._forward_hooks, layer._forward_pre_hooks),
        *(layer._backward_hooks, layer._backward_pre_hooks),
        *(weight._backward_hooks, getattr(weight, "_post_accumulate_grad_hooks", None)),
    )
    return any(found) or hasattr(layer, "_hf_hook")


def _check_shape(name: str, layer: nn.Module, pair: Factors) -> None:
    if _features(layer) != (pair.rows, pair.columns):
        rows, columns = _features(layer)
        raise UnsupportedModel(
            f"{name}: its weight is {rows} x {columns}, the factors are for "
            f"{pair.rows} x {pair.columns}; they belong to another model"
        )


def _check_values(name: str, layer: nn.Module, pair: Factors) -> None:
    dtype = _weight(layer).dtype
    for factor in (pair.down_RD, pair.up_OR):
        # False for NaN and inf, and for what would become inf in a narrower dtype.
        if not factor.is_meta and not bool(factor.abs().max() <= torch.finfo(dtype).max):
            raise UnsupportedModel(
                f"{name}: its factors are NaN, infinite or too large for {dtype}"
            )


def _put_(model: nn.Module, name: str, layer: LowRankLinear) -> None:
    dense = model.get_submodule(name)
    layer.train(dense.training)
    for part in (layer.down, layer.up):
        part.weight.requires_grad_(_weight(dense).requires_grad)
    model.set_submodule(name, layer)


def _filled(dense: nn.Module, pair: Factors) -> LowRankLinear:
    like = _weight(dense)
    return LowRankLinear.from_factors(
        pair.down_RD, pair.up_OR, _bias(dense), device=like.device, dtype=like.dtype
    )


def _empty(dense: nn.Module, rank: int) -> LowRankLinear:
    rows, columns = _features(dense)
    like = _weight(dense)
    layer = LowRankLinear(columns, rows, rank, device="meta", dtype=like.dtype)
    layer.to_empty(device=like.device)
    layer.up.register_parameter("bias", _bias(dense))
    return layer


def _features(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a Linear or Conv1D."""
    first, second = _weight(layer).shape
    return (second, first) if _is_conv1d(layer) else (first, second)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _bias(layer: nn.Module) -> nn.Parameter | None:
    bias = layer.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    return bias


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _is_conv1d(layer: nn.Module) -> bool:
    # A model that holds a Conv1D has imported its module; one that has not needs no transformers.
    home = sys.modules.get("transformers.pytorch_utils")
    return home is not None and type(layer) is home.Conv1D
