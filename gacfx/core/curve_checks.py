"""Curves that come from a file or are put together: what contradicts itself is refused."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gacfx.core.names import is_group_name, is_module_name, printable
from gacfx.core.shared_curves import check_shared
from gacfx.errors import PlanError

if TYPE_CHECKING:
    from gacfx.core.curve_file import Facts, Target


def check_facts(facts: "Facts") -> None:
    """Nothing when the facts of curves fit each other.

    Raises:
        PlanError: names what does not.
    """
    if not facts.weights:
        raise PlanError("curves of no weight at all")
    seen: set[str] = set()
    for weight in facts.weights:
        if weight.module in seen or not is_module_name(weight.module):
            what = "has two curves" if weight.module in seen else "is no name of a module"
            raise PlanError(f"{printable(weight.module)}: {what}")
        seen.add(weight.module)
        if min(weight.rows, weight.columns) < 1:
            raise PlanError(f"{weight.module}: rows and columns must be positive")
        if weight.groups < 0 or (weight.groups and weight.rows % weight.groups):
            raise PlanError(f"{weight.module}: {weight.groups} groups of {weight.rows} outputs")
    _check_structures(facts)
    shapes = {weight.module: (weight.rows, weight.columns) for weight in facts.weights}
    check_shared(facts.shared, shapes, (one.name for one in facts.structures))
    models = sorted(
        {weight.value_model for weight in facts.weights if not weight.failed}
        | {each.value_model for each in facts.structures if not each.refused}
        | {each.value_model for each in facts.shared}
    )
    if len(models) > 1:
        raise PlanError(f"value models {' and '.join(models)}: losses of two kinds do not add up")
    targeted = sum(weight.rows * weight.columns for weight in facts.weights)
    if targeted != facts.targeted_params:
        raise PlanError(
            f"targeted_params is {facts.targeted_params}, the weights have {targeted} parameters"
        )
    wrong = [dtype for dtype, params in facts.others.items() if params < 0]
    if wrong or targeted + sum(facts.others.values()) != facts.model_params:
        raise PlanError(
            f"model_params is {facts.model_params}, but targeted_params and others come to "
            f"{targeted + sum(facts.others.values())}"
        )


def _check_structures(facts: "Facts") -> None:
    shapes = {weight.module: (weight.rows, weight.columns) for weight in facts.weights}
    seen = set[str]()
    for one in facts.structures:
        if not is_group_name(one.name) or one.name in seen:
            what = "has two curves" if one.name in seen else "is no name of a structure"
            raise PlanError(f"{printable(one.name)}: {what}")
        seen.add(one.name)
        if one.refused:
            continue
        if min(one.units, one.heads) < 1 or not one.members:
            raise PlanError(f"{one.name}: a structure has units, heads and weights")
        for member in one.members:
            found = member.at((one.units, one.heads))
            if shapes.get(member.module) != found:
                raise PlanError(
                    f"{one.name}: its {printable(member.module)} of {found[0]} x {found[1]} is no "
                    "weight of the curves"
                )
            del shapes[member.module]  # a weight is in one structure only
    for name, sizes in facts.ranked.items():
        known = {one.name: one for one in facts.structures if not one.refused}
        if name not in known or any(
            not (1 <= units <= known[name].units and 1 <= heads <= known[name].heads)
            for units, heads in sizes
        ):
            raise PlanError(f"{printable(name)}: sizes of a structure that there is not")


def check_losses(weight: "Target", loss: NDArray[np.float64]) -> None:
    """Nothing when an array is the curve of a weight.

    Raises:
        PlanError: another length, not finite, below 0 or rising.
    """
    expected = (min(weight.rows, weight.columns) + 1,)
    if loss.shape != expected:
        raise PlanError(
            f"{weight.module}: losses of shape {loss.shape}; a weight of {weight.rows} x "
            f"{weight.columns} has {expected[0]}, one for each rank from 0 on"
        )
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        raise PlanError(f"{weight.module}: the loss at rank {bad[0]} is {loss[bad[0]]}")
    rises = np.flatnonzero(np.diff(loss) > 0)
    if len(rises):
        rank = int(rises[0]) + 1
        raise PlanError(
            f"{weight.module}: the loss rises from {loss[rank - 1]!r} at rank {rank - 1} to "
            f"{loss[rank]!r} at rank {rank}; a larger rank never loses more"
        )
    if loss[-1] < 0:
        raise PlanError(f"{weight.module}: the loss at full rank is {loss[-1]!r}, below 0")
