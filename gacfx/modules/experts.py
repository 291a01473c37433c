"""Experts of a mixture, one by one: a linear for each matrix instead of tensors of all of them.

Before:  experts.gate_up_proj [E, 2I, H]   experts.down_proj [E, H, I]
After:   experts.0.fc1 [2I, H]  experts.0.fc2 [H, I]  experts.1.fc1 ...

Each expert then is a module like any other: it is measured, given a rank or a width of its own, and
saved. The router stays as it is.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.asked import check_module
from gacfx.errors import UnsupportedModel

FIRST, SECOND = "fc1", "fc2"
"""What reads the hidden states (gate and up in one, where there is a gate), and what gives them."""
_SETTINGS = ("has_gate", "has_bias", "is_transposed", "num_experts")
"""By these transformers' own experts, whose class is under ``use_experts_implementation``, tell how
their tensors lie."""


class Grouped(nn.Module, ABC):
    """Experts of a layer, compressed, in one tensor for each matrix of all of them."""

    @abstractmethod
    def ungrouped(self, *, copies: bool) -> "UnpackedExperts":
        """The experts one by one, as views of these tensors or with memory of their own."""


class UnpackedExperts(nn.Module):
    """The experts of one layer, numbered."""

    def __init__(self, rule: Any, num_experts: int) -> None:
        """
        Args:
            rule: the transformers' module whose code says what lies between the two linears.
            num_experts: how many; they are to be added as children ``0``, ``1`` ...
        """
        super().__init__()
        self.num_experts = num_experts
        self.rule = (rule,)  # no child: it has nothing that is saved

    @staticmethod
    def of(packed: nn.Module, *, copies: bool) -> "UnpackedExperts":
        """The experts that lie in one tensor each, or are grouped.

        Args:
            packed: as :func:`is_packed` says; left as it is.
            copies: the linears have memory of their own; else they are views of its tensors.
        """
        if isinstance(packed, Grouped):
            return packed.ungrouped(copies=copies)
        rule: Any = copy.copy(packed)
        rule._parameters = {}
        made = UnpackedExperts(rule, packed.num_experts)  # type: ignore[arg-type]
        tensors = dict(packed.named_parameters(recurse=False))
        first = "gate_up_proj" if packed.has_gate else "up_proj"
        for number in range(made.num_experts):
            expert = nn.Module()
            for leaf, name in ((FIRST, first), (SECOND, "down_proj")):
                weight, bias = tensors[name][number], tensors.get(f"{name}_bias")
                weight = weight.T if packed.is_transposed else weight
                own = None if bias is None else bias[number]
                expert.add_module(leaf, _linear(weight, own, copies))
            made.add_module(str(number), expert)
        return made.train(packed.training)

    def forward(self, hidden_TD: Tensor, chosen_TK: Tensor, shares_TK: Tensor) -> Tensor:
        """What the chosen experts give, each with its share.

        While a graph is captured every expert sees every token, most with a share of zero: which
        ones it sees depends on the values.

        Args:
            hidden_TD: hidden states.
            chosen_TK: numbers of the experts of each token.
            shares_TK: their shares.
        """
        made_TD = torch.zeros_like(hidden_TD)
        if torch.compiler.is_compiling() or hidden_TD.is_meta:
            for number in range(self.num_experts):
                share_T1 = (shares_TK * (chosen_TK == number)).sum(-1, keepdim=True)
                made_TD = made_TD + (self.expert(number, hidden_TD) * share_T1).to(made_TD.dtype)
            return made_TD
        for number in chosen_TK.unique().tolist():
            if number >= self.num_experts:
                continue  # no expert of this device
            at_t, place_t = torch.where(chosen_TK == number)
            given_tD = self.expert(number, hidden_TD[at_t]) * shares_TK[at_t, place_t, None]
            made_TD.index_add_(0, at_t, given_tD.to(made_TD.dtype))
        return made_TD

    def expert(self, number: int, hidden_TD: Tensor) -> Tensor:
        """What one expert makes of hidden states."""
        expert, rule = self.get_submodule(str(number)), self.rule[0]
        wide = expert.get_submodule(FIRST)(hidden_TD)
        wide = rule._apply_gate(wide) if rule.has_gate else rule.act_fn(wide)
        made_TD: Tensor = expert.get_submodule(SECOND)(wide)
        return made_TD

    def _apply(self, *args: Any, **kwargs: Any) -> "UnpackedExperts":
        for rule in self.rule:
            rule._apply(*args, **kwargs)  # buffers of an activation move as well
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self


def is_packed(module: nn.Module) -> bool:
    """Whether a module holds the tensors of all experts of a layer, and can be unpacked.

    Experts with parameters besides the two projections, such as norms, are left as they are.
    """
    if isinstance(module, Grouped):
        return True
    if not all(hasattr(module, name) for name in _SETTINGS):
        return False
    matrices = ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")
    biases = tuple(f"{name}_bias" for name in matrices) if module.has_bias else ()
    dims = {**dict.fromkeys(matrices, 3), **dict.fromkeys(biases, 2)}
    between = hasattr(module, "_apply_gate" if module.has_gate else "act_fn")
    return between and dims == {name: p.ndim for name, p in module.named_parameters()}


def unpacked_experts(model: nn.Module) -> dict[str, UnpackedExperts]:
    """Name -> module of all experts one by one."""
    return {n: m for n, m in model.named_modules() if isinstance(m, UnpackedExperts)}


def packed_experts(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of experts that can be unpacked, in the model's order."""
    return {name: module for name, module in model.named_modules() if is_packed(module)}


def unpack_(model: nn.Module) -> None:
    """Unpacks all experts of a model, in place; only one layer is in memory twice at a time."""
    for name, packed in packed_experts(model).items():
        model.set_submodule(name, UnpackedExperts.of(packed, copies=True))


def unpacked(model: nn.Module) -> nn.Module:
    """A model that computes the same with the same tensors, its experts unpacked.

    The model itself where it has no packed experts; else a copy of its modules. Writing into either
    one's weights writes into the other's.

    Raises:
        UnsupportedModel: it is no model.
    """
    check_module(model)
    return _shown(model, packed_experts(model))


def ungrouped(model: nn.Module) -> nn.Module:
    """As :func:`unpacked`, but experts that no one has compressed stay as they are."""
    found = packed_experts(model).items()
    return _shown(model, {name: each for name, each in found if isinstance(each, Grouped)})


def _shown(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A model over the same tensors with these experts one by one."""
    if not (names := tuple(names)):
        return model
    tensors = (*model.parameters(), *model.buffers())
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for name in names:
        made.set_submodule(name, UnpackedExperts.of(made.get_submodule(name), copies=False))
    return made


def packed_again(experts: UnpackedExperts) -> nn.Module:
    """The transformers' module with these experts in one tensor each, copied.

    Raises:
        UnsupportedModel: one has no plain linears any more, or they differ in size.
    """
    (rule,) = experts.rule
    made: nn.Module = copy.copy(rule)
    parameters = dict[str, nn.Parameter]()
    names = {FIRST: "gate_up_proj" if rule.has_gate else "up_proj", SECOND: "down_proj"}
    for leaf, name in names.items():
        found = [experts.get_submodule(f"{n}.{leaf}") for n in range(experts.num_experts)]
        layers = [each for each in found if isinstance(each, nn.Linear)]
        if len(layers) < len(found):
            raise UnsupportedModel(f"{leaf}: is compressed in some expert")
        if len({tuple(each.weight.shape) for each in layers}) > 1:
            raise UnsupportedModel(f"{leaf}: has other sizes in other experts")
        weights = [each.weight.detach() for each in layers]
        stacked = torch.stack([w.T for w in weights] if rule.is_transposed else weights)
        trains = layers[0].weight.requires_grad
        parameters[name] = nn.Parameter(stacked, requires_grad=trains)
        if rule.has_bias:
            bias = torch.stack([each.bias.detach() for each in layers])
            parameters[f"{name}_bias"] = nn.Parameter(bias, requires_grad=trains)
    made._parameters = {**parameters}
    return made.train(experts.training)


def needs_unpacking(model: nn.Module, names: Iterable[str]) -> bool:
    """One of these modules is there only once the model's experts are unpacked."""
    packed = tuple(f"{name}." for name in packed_experts(model))
    return bool(packed) and any(name.startswith(packed) for name in names)


def _linear(weight: Tensor, bias: Tensor | None, copies: bool) -> nn.Linear:
    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias is not None)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            own = tensor.detach()
            own = own.contiguous().clone() if copies else own
            setattr(layer, name, nn.Parameter(own, requires_grad=tensor.requires_grad))
    return layer
