"""The tensors of a plan: for each weight that is replaced, those of its decision."""

# R rank, D input features, O output features

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.core.decision import DENSE, Decision, LowRank
from gacfx.core.plan import Plan
from gacfx.core.pruning import Gone, Sliced
from gacfx.errors import PlanError


@dataclass(frozen=True, eq=False)
class Factors:
    """The tensors of a decision for one weight [rows, columns]."""

    decision: Decision
    rows: int
    columns: int
    tensors: dict[str, Tensor]
    """Named, and of the shapes, that the decision says."""
    order: Tensor | None = None
    """int32 [outputs]: output i is output ``order[i]`` of the dense layer, for neighbours that want
    their inputs so. There are fewer than rows where outputs are sliced away. The tensors have this
    order; a bias, and a weight that stays dense, are given it with them. None: the outputs are as
    they were."""
    lent: bool = False
    """The tensors lie in files of a work folder: whoever installs them takes them as they are. All
    others are copied, so that training a model does not change the factors of its plan."""

    def __post_init__(self) -> None:
        """Refuses what is not what the decision stores.

        Raises:
            PlanError: such a weight cannot have the decision, or names the tensor that is missing,
                foreign, of another shape or type, or holds integers that cannot be.
        """
        if problem := self._problem():
            raise PlanError(problem)

    @staticmethod
    def pair(down_RD: Tensor, up_OR: Tensor) -> "Factors":
        """The weight ``up_OR @ down_RD`` of rank R.

        Raises:
            PlanError: not two floating matrices with a common rank of at least 1.
        """
        if (
            down_RD.ndim != 2
            or up_OR.ndim != 2
            or len(down_RD) != up_OR.shape[1]
            or not len(down_RD)
        ):
            raise PlanError(
                f"factors down {tuple(down_RD.shape)} and up {tuple(up_OR.shape)} do not fit; "
                "they must be [rank, in] and [out, rank]"
            )
        decision = LowRank(len(down_RD))
        return Factors(decision, len(up_OR), down_RD.shape[1], {"down": down_RD, "up": up_OR})

    @property
    def rank(self) -> int | None:
        """Rank of what stands for the weight; None where that is no product."""
        return self.decision.rank

    @property
    def outputs(self) -> int:
        """Outputs that are left."""
        return self.decision.outputs if isinstance(self.decision, Sliced) else self.rows

    @property
    def rest(self) -> "Factors":
        """Factors of what a slice leaves, as if that were the dense weight; itself without one.

        The order is not among them, as their outputs are all there are.
        """
        if not isinstance(self.decision, Sliced) or self.decision.rest.is_dense:
            return self
        cut = self.decision
        return Factors(cut.rest, cut.outputs, cut.inputs, self.tensors, lent=self.lent)

    @property
    def finite(self) -> bool:
        """No NaN and no infinity."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors.values())

    def reorder(self, parameter: nn.Parameter, axis: int = 0) -> nn.Parameter:
        """A parameter of the dense layer with its outputs in the order of these factors; itself
        where they keep it."""
        if self.order is None:
            return parameter
        made = parameter.detach().index_select(axis, self.order.to(parameter.device))
        return nn.Parameter(made, requires_grad=parameter.requires_grad)

    def _problem(self) -> str:
        shape = (self.rows, self.columns)
        if problem := self.decision.problem(*shape):
            return f"a weight of {self.rows} x {self.columns}: {problem}"
        stored = self.decision.tensors(*shape)
        for name in sorted(stored.keys() ^ self.tensors.keys()):
            what = "is missing" if name in stored else "is no tensor of it"
            return f"factors of {self.decision}: {name} {what}"
        for name, each in stored.items():
            found = self.tensors[name]
            if tuple(found.shape) != each.shape:
                return (
                    f"factors of {self.decision}: {name} is {tuple(found.shape)}, and {each.shape} "
                    f"for a weight of {self.rows} x {self.columns}"
                )
            if each.integer != (found.dtype == torch.int32) or (
                not each.integer and not found.is_floating_point()
            ):
                wanted = "torch.int32" if each.integer else "floating"
                return f"factors of {self.decision}: {name} is {found.dtype}, it must be {wanted}"
        return odd_integers(self.decision, *shape, self.tensors) or self._odd_order()

    def _odd_order(self) -> str:
        """What is wrong with the order of the outputs; empty where nothing is."""
        if self.order is None:
            if self.outputs != self.rows:
                return f"factors of {self.decision}: which {self.outputs} outputs stay is not said"
            return "nothing is done to a dense weight" if self.decision.is_dense else ""
        if isinstance(self.decision, Gone):
            return "the weight is gone, and has no outputs to order"
        if self.order.dtype != torch.int32 or tuple(self.order.shape) != (self.outputs,):
            return f"the order of outputs must be torch.int32 of shape ({self.outputs},)"
        if self.order.is_meta:
            return ""
        found = self.order.sort().values
        if found[0] < 0 or found[-1] >= self.rows or bool((found[1:] == found[:-1]).any()):
            each = "every output must be there once"
            if self.outputs != self.rows:
                each = f"every output must be one of the {self.rows}, and be there once at most"
            return f"its order of outputs is none: {each}"
        return ""


def odd_integers(decision: Decision, rows: int, columns: int, tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with the integer tensors of a decision; empty where nothing is.

    Tensors without values (meta device) are passed over.
    """
    for name, stored in decision.tensors(rows, columns).items():
        found = tensors[name]
        if not stored.integer or found.is_meta:
            continue
        if problem := decision.odd_integers(name, found.flatten().tolist()):
            return f"factors of {decision}: {name} {problem}"
    return ""


FactorSet = dict[str, Factors]
"""Module name -> factors."""


def check_factors(plan: Plan, factors: Mapping[str, Factors]) -> None:
    """Nothing when there are factors for exactly the planned decisions, in the planned shapes.

    Raises:
        PlanError: names the first module that differs.
    """
    weights = plan.weights
    reordered = {module for module, made in factors.items() if made.order is not None}
    planned = {**dict.fromkeys(reordered & weights.keys(), DENSE), **plan.decisions}
    for module in sorted(planned.keys() ^ factors.keys()):
        have, lack = ("plan", "factors") if module in planned else ("factors", "plan")
        raise PlanError(f"{module}: is in the {have} but not in the {lack}; make the plan again")
    for module, decision in planned.items():
        weight, made = weights[module], factors[module]
        found = (made.rows, made.columns, made.decision)
        if found != (weight.rows, weight.columns, decision):
            raise PlanError(
                f"{module}: the plan says {decision} of {weight.rows} x {weight.columns}, its "
                f"factors are {made.decision} of {made.rows} x {made.columns}"
            )
