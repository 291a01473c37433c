"""Experts of a layer as grouped products: one tensor for each matrix of all experts, as they were.

Before:  experts.0.fc1.down [R, H]  experts.0.fc1.up [2I, R]  experts.1.fc1.down ...
After:   experts.fc1_down [E, R, H]  experts.fc1_up [E, 2I, R]

A grouped product takes the tokens of all experts, sorted by expert, in one kernel, instead of one
small product for each expert. All experts of a layer must have the same sizes for that; ask for
such a plan with ``tie-experts``.
"""

# T tokens, K experts of each, S = T K rows of all of them, E experts, I inputs, O outputs

import copy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm

from gacfx.core.asked import check_module
from gacfx.errors import UnsupportedModel
from gacfx.modules.experts import FIRST, SECOND, Grouped, UnpackedExperts, unpacked_experts
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.sliced import SlicedLinear

GROUPED = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of torch's own grouped product."""
STRIDE_BYTES = 16
"""Rows of every matrix of a grouped product must be whole multiples of it on a GPU: strides of
``torch.nn.functional.grouped_mm``, checked by torch when it is called there."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class GroupedExperts(Grouped):
    """Experts that all have the same sizes; its state dict is that of the experts one by one."""

    def __init__(self, experts: UnpackedExperts) -> None:
        """
        Args:
            experts: with equal sizes; their linears end up without memory of their own.

        Raises:
            UnsupportedModel: says which expert differs, or what cannot be grouped. Nothing was
                changed.
        """
        super().__init__()
        if problem := ungroupable(experts):
            raise UnsupportedModel(problem)
        import_module("transformers.integrations.moe")  # brings grouped_mm_fallback
        self.num_experts = experts.num_experts
        self.rule: tuple[Any] = experts.rule
        first = experts.get_submodule("0")
        self._products = {leaf: _parts(first.get_submodule(leaf)) for leaf in (FIRST, SECOND)}
        self._hold(experts)
        own = list(first.parameters())
        memo = {id(each): nn.Parameter(each.detach().to("meta"), False) for each in own}
        self._like = (copy.deepcopy(first, memo),)  # no child: what one expert looks like
        self.train(experts.training)

    def forward(self, hidden_TD: Tensor, chosen_TK: Tensor, shares_TK: Tensor) -> Tensor:
        """What the chosen experts give, each with its share.

        Args:
            hidden_TD: hidden states.
            chosen_TK: numbers of the experts of each token; a number beyond the last one is of an
                expert that lies elsewhere.
            shares_TK: their shares.
        """
        tokens, width = chosen_TK.shape
        chosen_S, order_S = chosen_TK.flatten().sort(stable=True)
        numbers_E = torch.arange(self.num_experts, device=chosen_S.device, dtype=chosen_S.dtype)
        ends_E = torch.searchsorted(chosen_S, numbers_E, right=True, out_int32=True)
        here_S1 = (chosen_S < self.num_experts)[:, None]
        of_S = chosen_S.clamp(max=self.num_experts - 1)
        x = self._through(FIRST, hidden_TD[order_S // width], ends_E, of_S)
        rule = self.rule[0]
        x = rule._apply_gate(x) if rule.has_gate else rule.act_fn(x)
        x = self._through(SECOND, x, ends_E, of_S)
        x = x * shares_TK.flatten()[order_S, None]
        made_SD = torch.zeros_like(x).index_copy(0, order_S, x.where(here_S1, 0))
        return made_SD.view(tokens, width, -1).sum(1).to(hidden_TD.dtype)

    def ungrouped(self, *, copies: bool) -> UnpackedExperts:
        """The experts one by one, as views of these tensors or with memory of their own."""
        made = UnpackedExperts(self.rule[0], self.num_experts)
        (like,) = self._like
        for number in range(self.num_experts):
            memo: dict[int, Any] = {}
            for name, empty in like.named_parameters():
                stacked = self.get_parameter(_flat(name))
                own = stacked.detach()[number]
                memo[id(empty)] = nn.Parameter(
                    own.clone() if copies else own, stacked.requires_grad
                )
            expert = copy.deepcopy(like, memo)
            for module in expert.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.to(stacked.device, stacked.dtype))
            made.add_module(str(number), expert)
        return made.train(self.training)

    def _hold(self, experts: UnpackedExperts) -> None:
        """Takes the numbers of these experts, which become views of the tensors of all."""
        for name, like in experts.get_submodule("0").named_parameters():
            numbers = range(self.num_experts)
            own = [experts.get_submodule(str(n)).get_parameter(name) for n in numbers]
            stacked = torch.stack([each.detach() for each in own])
            self.register_parameter(_flat(name), nn.Parameter(stacked, like.requires_grad))
            for number, parameter in enumerate(own):
                parameter.data = stacked[number]

    def _through(self, leaf: str, x_SI: Tensor, ends_E: Tensor, of_S: Tensor) -> Tensor:
        """One linear of each expert; after the last one comes the bias."""
        for part in self._products[leaf]:
            weight_EOI = self.get_parameter(_flat(f"{leaf}.{part}weight"))
            x_SI = grouped_product(x_SI.to(weight_EOI.dtype), weight_EOI, ends_E)
            bias_EO = self._parameters.get(_flat(f"{leaf}.{part}bias"))
            if bias_EO is not None:
                x_SI = x_SI + bias_EO[of_S]
        return x_SI

    def _apply(self, *args: Any, **kwargs: Any) -> "GroupedExperts":
        for rule in self.rule:
            rule._apply(*args, **kwargs)  # buffers of an activation move as well
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        found = self.ungrouped(copies=False).state_dict(keep_vars=keep_vars)
        destination.update({prefix + name: tensor for name, tensor in found.items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {n[len(prefix) :]: t for n, t in state_dict.items() if n.startswith(prefix)}
        views = self.ungrouped(copies=False)
        try:
            assign = bool(local_metadata.get("assign_to_params_buffers"))
            found = views.load_state_dict(own, strict=False, assign=assign)
        except RuntimeError as error:
            error_msgs.append(f"{prefix.rstrip('.')}: {error}")
            return
        if assign:
            self._hold(views)
        missing_keys.extend(prefix + name for name in found.missing_keys)
        if strict:
            unexpected_keys.extend(prefix + name for name in found.unexpected_keys)

    def extra_repr(self) -> str:
        """How many, and what each is."""
        (like,), dtype = self._like, next(self.parameters()).dtype
        said = (f"{leaf}: {_said(like.get_submodule(leaf), dtype)}" for leaf in (FIRST, SECOND))
        return f"{self.num_experts} x ({', '.join(said)})"


def grouped_product(x_SI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """[S, O]: rows ``ends[e-1] .. ends[e]`` of x times the transposed weight of expert e.

    Args:
        x_SI: rows, sorted by expert.
        weight_EOI: one matrix for each expert.
        ends_E: int32, where the rows of each expert end.

    Returns:
        Rows behind the last end hold any values.
    """
    traced = torch.compiler.is_compiling()  # into a graph; torch gives that bfloat16 only
    if weight_EOI.dtype in ((torch.bfloat16,) if traced else GROUPED):
        return grouped_mm(x_SI, weight_EOI.mT, offs=ends_E)
    made_SO: Tensor = torch.ops.transformers.grouped_mm_fallback(x_SI, weight_EOI.mT, ends_E)
    return made_SO


def group_experts_(model: nn.Module) -> dict[str, str]:
    """Group the experts of every layer whose experts all have the same sizes, in place.

    For serving: no expert is a module of its own afterwards. ``state_dict``, ``save_pretrained``
    and :func:`gacfx.save` write what they wrote before; :func:`gacfx.unpacked` leads back.

    Args:
        model: with experts in one tensor each, which stay, or one by one.

    Returns:
        Module -> why its experts stay one by one; empty where all were grouped.

    Raises:
        UnsupportedModel: it is no model.
    """
    check_module(model)
    left = {}
    for name, experts in unpacked_experts(model).items():
        if problem := ungroupable(experts):
            left[name] = problem
        else:
            model.set_submodule(name, GroupedExperts(experts))
    return left


def ungroupable(experts: UnpackedExperts) -> str:
    """Why these experts cannot be grouped products; empty where they can."""
    for leaf in (FIRST, SECOND):
        layers = [experts.get_submodule(f"{n}.{leaf}") for n in range(experts.num_experts)]
        if problem := next(filter(None, map(_unfit, layers)), ""):
            return f"{leaf}: {problem}"
        sizes = {_sizes(layer): number for number, layer in reversed([*enumerate(layers)])}
        if len(sizes) > 1:
            one, other = sorted(sizes.values())[:2]
            return f"{leaf}: {_apart(one, layers[one], other, layers[other])}"
        for name, weight in layers[0].named_parameters():
            row = weight.shape[-1] * weight.element_size()
            if weight.ndim == 2 and row % STRIDE_BYTES:
                return (
                    f"{leaf}.{name}: rows of {weight.shape[-1]} numbers are {row} bytes, and "
                    f"grouped products take whole multiples of {STRIDE_BYTES}"
                )
    return ""


def _unfit(layer: nn.Module) -> str:
    """Why a layer is no part of a grouped product."""
    if type(layer) not in (nn.Linear, SlicedLinear, LowRankLinear):
        return f"is a {type(layer).__name__}, which has no grouped form; plan with form pair"
    inside = list(layer.modules())
    if any(type(each) is not nn.Linear for each in inside[1:]):
        return "its linears were replaced"
    if any(vars(m)[kind] for m in inside for kind in _HOOKS) or any(
        "forward" in vars(m) or hasattr(m, "_hf_hook") for m in inside
    ):
        return "has hooks, which would be lost"
    if any(p.is_meta for p in layer.parameters()):
        return "has no values (meta device)"
    return ""


def _sizes(layer: nn.Module) -> tuple[object, ...]:
    found = ((n, p.shape, p.dtype, p.device, p.requires_grad) for n, p in layer.named_parameters())
    return type(layer), *found


def _apart(one: int, first: nn.Module, other: int, second: nn.Module) -> str:
    """In what two experts differ, and what to do about sizes."""
    a, b, remedy = _said(first), _said(second), ""
    if a == b:
        a, b = _held(first), _held(second)
    else:
        remedy = "; the limit tie-experts holds to one size all that see calibration tokens"
    return f"expert {one} is {a}, expert {other} {b}{remedy}"


def _held(layer: nn.Module) -> str:
    """``weight trained on cpu`` for each parameter."""
    found = layer.named_parameters()
    said = (f"{n} {'trained' if p.requires_grad else 'frozen'} on {p.device}" for n, p in found)
    return f"({', '.join(said)})"


def _said(layer: nn.Module, dtype: torch.dtype | None = None) -> str:
    rank = str(layer.decision) if isinstance(layer, LowRankLinear) else "dense"
    dtype = dtype or next(layer.parameters()).dtype
    return f"{rank}, {layer.out_features} x {layer.in_features} in {dtype}"


def _parts(layer: nn.Module) -> tuple[str, ...]:
    """The products of a layer, in order, by the prefix of their parameters."""
    return ("down.", "up.") if isinstance(layer, LowRankLinear) else ("",)


def _flat(name: str) -> str:
    """A parameter's name in one module: ``fc1.down.weight`` -> ``fc1_down_weight``."""
    return name.replace(".", "_")
