"""Two locks on a plan: the architecture it was made for, and the weights its factors came from."""

import hashlib

from torch import Tensor, nn

from gacfx.core.plan import Plan, Weight
from gacfx.core.statistics import weight_digest
from gacfx.errors import PlanMismatch


def fingerprint(model: nn.Module) -> str:
    """sha256 of the names and shapes of the parameters of a dense model.

    Neither dtype nor device counts, and a tied parameter counts under each of its names, so a model
    on the meta device and the same model loaded from a checkpoint agree.
    """
    lines = sorted(
        f"{name} {tuple(parameter.shape)}\n"
        for name, parameter in model.named_parameters(remove_duplicate=False)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Nothing when ``plan`` was made for this dense model and for these weights.

    A lock that the plan does not carry (no fingerprint, no digest of a module) is not checked.

    Raises:
        PlanMismatch: the first module that differs and what to do.
    """
    for planned in plan.weights.values():
        _check_shape(_weight(model, planned.module), planned)
    if plan.fingerprint and plan.fingerprint != fingerprint(model):
        raise PlanMismatch(
            "the plan was made for another model: every planned module fits, but other parameters "
            "have other names or shapes; load the dense model that the plan was made for"
        )
    for module in sorted(plan.digests):
        weight = _weight(model, module)
        if weight.is_meta:
            raise PlanMismatch(f"{module}: has no values (meta device); load the weights first")
        check_weight(module, weight, plan)


def check_weight(module: str, weight: Tensor, plan: Plan) -> None:
    """Nothing when the factors of a module were made of this weight, or the plan does not say.

    Raises:
        PlanMismatch: they were made of another one.
    """
    digest = plan.digests.get(module)
    if digest is not None and weight_digest(weight) != digest:
        raise PlanMismatch(
            f"{module}: its weight ({weight.dtype}) is not what the factors were made of; "
            f"load the same checkpoint in the plan's dtype ({plan.provenance.dtype}), "
            "or make a new plan"
        )


def _weight(model: nn.Module, module: str) -> Tensor:
    try:
        weight = model.get_submodule(module).weight
    except AttributeError as error:
        raise PlanMismatch(
            f"{module}: the plan has it, the model has not; load the dense model that the plan was "
            "made for"
        ) from error
    assert isinstance(weight, Tensor)
    return weight


def _check_shape(weight: Tensor, planned: Weight) -> None:
    # Conv1D of transformers keeps its weight as [in, out].
    if sorted(weight.shape) != sorted((planned.rows, planned.columns)):
        raise PlanMismatch(
            f"{planned.module}: its weight is {tuple(weight.shape)}, the plan is for "
            f"{planned.rows} x {planned.columns}; load the dense model that the plan was made for"
        )
