"""Put layers that carry out decisions in the place of dense ones: with tensors, empty, or a while.

Everything is checked before the first module is replaced, so a refusal leaves the model as it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from gacfx.core.decision import Decision
from gacfx.core.materialise import Factors
from gacfx.core.padding import Padded
from gacfx.core.pruning import Gone, Sliced
from gacfx.core.shared_basis import odd_loans
from gacfx.errors import UnsupportedModel
from gacfx.modules.blocks import Blocks, check_blocks, skipped_modules
from gacfx.modules.carrier import Carrier
from gacfx.modules.dense import bias_of, features, is_conv1d, weight_of
from gacfx.modules.experts import Grouped, needs_unpacking, unpack_
from gacfx.modules.make import carrier_of
from gacfx.modules.plain import is_plain
from gacfx.modules.sliced import SlicedLinear, is_sliced, like_dense
from gacfx.modules.ties import tied_modules

NO_BLOCKS: Blocks = MappingProxyType({})


def install_(
    model: nn.Module,
    factors: Mapping[str, Factors],
    blocks: Blocks = NO_BLOCKS,
    *,
    copy: bool = True,
) -> Callable[[], None]:
    """Replaces each named layer by its factors, in the layer's dtype and on its device.

    Layers are ``nn.Linear``, or the Conv1D of transformers (weight [in, out]). The bias stays the
    same parameter, where no output goes; ``requires_grad`` and the training mode are kept.

    Args:
        model: changed in place.
        factors: module name -> factors; those of weights that go with their block have no tensors.
        blocks: name of an attention or MLP -> its heads from now on, or that it is skipped.
        copy: the factors, so that training the model does not change them.

    Returns:
        What puts the very same modules back.

    Raises:
        UnsupportedModel: names the layer or block that is missing, of another kind or shape,
            shared, hooked, not understood, or whose factors do not fit into its dtype. Nothing was
            changed.
    """
    ties = tied_modules(model)
    for name, made in factors.items():
        layer = _replaceable(model, name, ties)
        _check_shape(name, layer, made)
        _check_values(name, layer, made)
        if isinstance(made.decision, Padded):
            raise UnsupportedModel(
                f"{name}: is {made.decision}, which no plan carries out; use gacfx.pad_"
            )
        if not (made.decision.is_dense or isinstance(made.decision, Gone)):
            carrier_of(made.decision)
    decisions = {name: made.decision for name, made in factors.items()}
    _check_loans(decisions, {name: (made.rows, made.columns) for name, made in factors.items()})
    pruned = check_blocks(model, blocks, decisions, ties)
    stays = {n: made for n, made in factors.items() if not isinstance(made.decision, Gone)}
    dense = {name: model.get_submodule(name) for name in stays}
    for name, made in stays.items():
        if made.decision.is_dense:
            model.set_submodule(name, _reordered(dense[name], made))
        else:
            _put_(model, name, _filled(dense[name], made, copy=copy))
    _lend_(model, decisions)
    give_back = pruned.put_(model)

    def undo() -> None:
        give_back()
        for name, layer in dense.items():
            model.set_submodule(name, layer)

    return undo


def skeleton_(
    model: nn.Module, decisions: Mapping[str, Decision], blocks: Blocks = NO_BLOCKS
) -> None:
    """Replaces each named layer by that of its decision, without values, for a loader to fill.

    Args:
        model: usually on the meta device; its experts are unpacked where a decision is of one.
        decisions: module name -> decision; nothing is said of the weights of a skipped block.
        blocks: name of an attention or MLP -> its heads from now on, or that it is skipped.

    Raises:
        UnsupportedModel: as ``install_``, or a decision that the weight cannot have. Nothing was
            changed.
        PlanError: nothing carries out such a decision.
    """
    if needs_unpacking(model, decisions):
        unpack_(model)
    ties = tied_modules(model)
    for name, decision in decisions.items():
        rows, columns = features(_replaceable(model, name, ties))
        if problem := decision.problem(rows, columns):
            raise UnsupportedModel(
                f"{name}: {problem} of its {rows} x {columns} weight; is this the model that the "
                "decisions were made for?"
            )
        carrier_of(decision)
    _check_loans(decisions, {name: features(model.get_submodule(name)) for name in decisions})
    pruned = check_blocks(model, blocks, decisions, ties, complete=False)
    for name, decision in decisions.items():
        _put_(model, name, _empty(model.get_submodule(name), decision))
    _lend_(model, decisions)
    pruned.put_(model)


@contextmanager
def swapped(
    model: nn.Module, factors: Mapping[str, Factors], blocks: Blocks = NO_BLOCKS
) -> Iterator[None]:
    """The model with ``factors`` installed; afterwards it has the very same modules as before.

    Factors that need no conversion are not copied, so inside the model is not to be trained.

    Raises:
        UnsupportedModel: as ``install_``.
    """
    undo = install_(model, factors, blocks, copy=False)
    try:
        yield
    finally:
        undo()


def compressed_modules(model: nn.Module) -> dict[str, Carrier]:
    """Name -> layer that carries out a decision, for all in place, in the model's order.

    Slices that stay dense are :func:`gacfx.modules.sliced.sliced_modules`.
    """
    return {n: m for n, m in named_layers(model) if isinstance(m, Carrier)}


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name, module of all modules; grouped experts are shown one by one, as views."""
    for name, module in model.named_modules():
        yield name, module
        if isinstance(module, Grouped):
            yield from module.ungrouped(copies=False).named_modules(prefix=name)


def guards_in(model: nn.Module) -> list[Any]:
    """Modules with a guard and a notice: empty buffers in the place of a dense weight."""
    skipped = [each.guard for each in skipped_modules(model).values()]
    return [*compressed_modules(model).values(), *skipped]


def decisions_in(model: nn.Module) -> dict[str, Decision]:
    """Name -> what became of a weight, for all layers in place, in the model's order.

    Weights that went with a skipped block are not among them.
    """
    found: dict[str, Any] = dict(named_layers(model))
    return {
        name: module.placed
        for name, module in found.items()
        if isinstance(module, Carrier | SlicedLinear) or is_sliced(module)
    }


def replaceable(model: nn.Module, names: Iterable[str]) -> bool:
    """Every one of these layers could be replaced."""
    ties = tied_modules(model)
    try:
        return all(_replaceable(model, name, ties) for name in names)
    except UnsupportedModel:
        return False


def _replaceable(model: nn.Module, name: str, ties: Mapping[str, str]) -> nn.Module:
    """The layer called ``name``, if it can be replaced at all."""
    if not name or not _has(model, name):
        raise UnsupportedModel(f"{name or '(no name)'}: the model has no such module")
    layer = model.get_submodule(name)
    if not is_plain(layer):
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
    weight = weight_of(layer)
    found = (
        *(layer._forward_hooks, layer._forward_pre_hooks),
        *(layer._backward_hooks, layer._backward_pre_hooks),
        *(weight._backward_hooks, getattr(weight, "_post_accumulate_grad_hooks", None)),
    )
    return any(found) or hasattr(layer, "_hf_hook")


def _check_shape(name: str, layer: nn.Module, made: Factors) -> None:
    if features(layer) != (made.rows, made.columns):
        rows, columns = features(layer)
        raise UnsupportedModel(
            f"{name}: its weight is {rows} x {columns}, the factors are for "
            f"{made.rows} x {made.columns}; they belong to another model"
        )


def _check_values(name: str, layer: nn.Module, made: Factors) -> None:
    dtype = weight_of(layer).dtype
    for tensor in made.tensors.values():
        if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        # False for NaN and inf, and for what would become inf in a narrower dtype.
        if not bool(tensor.abs().max() <= torch.finfo(dtype).max):
            raise UnsupportedModel(
                f"{name}: its factors are NaN, infinite or too large for {dtype}"
            )


def _check_loans(decisions: Mapping[str, Decision], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Nothing when every layer that computes with what another one holds finds it there."""
    if odd := odd_loans(decisions, shapes):
        raise UnsupportedModel(
            f"{': '.join(odd)}; decisions of all layers that share a basis belong together"
        )


def _lend_(model: nn.Module, decisions: Mapping[str, Decision]) -> None:
    """Give layers what others hold for them; all are in their places."""
    for name, decision in decisions.items():
        if lender := decision.lender(name):
            layer = model.get_submodule(name)
            assert isinstance(layer, Carrier)
            layer.borrow(model.get_submodule(lender))


def _put_(model: nn.Module, name: str, layer: nn.Module) -> None:
    dense = model.get_submodule(name)
    layer.train(dense.training)
    made = layer.tensors() if isinstance(layer, Carrier) else {"weight": weight_of(layer)}
    for tensor in made.values():
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(weight_of(dense).requires_grad)
    model.set_submodule(name, layer)


def _filled(dense: nn.Module, made: Factors, *, copy: bool) -> nn.Module:
    like = weight_of(dense)
    bias = bias_of(dense)
    bias = None if bias is None else made.reorder(bias)
    carrier = carrier_of(made.decision)
    layer = carrier.holding(made, bias, device=like.device, dtype=like.dtype, copy=copy)
    return like_dense(layer, dense) if isinstance(layer, SlicedLinear) else layer


def _reordered(dense: nn.Module, made: Factors) -> nn.Module:
    """The same layer with its outputs in another order."""
    axes = {"weight": int(is_conv1d(dense))}
    found = dense.named_parameters(recurse=False)
    new = {id(each): made.reorder(each, axes.get(name, 0)) for name, each in found}
    return deepcopy(dense, new)  # takes what stands under the old ones


def _empty(dense: nn.Module, decision: Decision) -> nn.Module:
    rows, columns = features(dense)
    like, bias = weight_of(dense), bias_of(dense)
    if bias is not None and isinstance(decision, Sliced) and decision.outputs != rows:
        kept = bias.detach()[: decision.outputs].clone()
        bias = nn.Parameter(kept, requires_grad=bias.requires_grad)
    if bias is not None and isinstance(decision, Padded):
        bias = nn.Parameter(bias.new_zeros(decision.outputs), requires_grad=bias.requires_grad)
    carrier = carrier_of(decision)
    layer = carrier.empty(decision, rows, columns, bias, device=like.device, dtype=like.dtype)
    return like_dense(layer, dense) if isinstance(layer, SlicedLinear) else layer


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
