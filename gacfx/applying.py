"""Put a plan into a model: in place, in a copy, or in a captured graph."""

import copy
from pathlib import Path
from typing import TypeVar

from torch import nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.checkpoint.hf import check_unquantized, declare_
from gacfx.core.asked import check_module
from gacfx.core.locks import check_plan
from gacfx.core.materialise import check_factors
from gacfx.core.planned import Planned
from gacfx.core.pruning import odd_parts
from gacfx.core.surroundings import plain_torch
from gacfx.errors import PlanError
from gacfx.graph import edit
from gacfx.graph.pipeline import Pipeline
from gacfx.modules.experts import needs_unpacking, unpack_, unpacked
from gacfx.modules.install import install_

M = TypeVar("M", bound=nn.Module)


@plain_torch()
def apply_(model: nn.Module, planned: "Planned | str | Path") -> None:
    """Put a plan's factors into ``model``, in place; its configuration says so from then on.

    Raises:
        PlanMismatch: the plan was made for another model or for other weights.
        PlanError, UnsupportedModel: it is no plan, or no model.
    """
    planned = _checked(model, planned)
    _install_(model, planned)


@plain_torch()
def apply(model: M, planned: "Planned | str | Path") -> M:
    """A copy of ``model`` with a plan's factors; the model itself is left as it was.

    A GraphModule is rewritten by the fx passes, any other module by replacing its linears.

    Raises:
        PlanMismatch: the plan was made for another model or for other weights.
        PlanError, UnsupportedModel: it is no plan, or no model.
    """
    planned = _checked(model, planned)
    if isinstance(model, GraphModule):
        return apply_to_graph(model, planned)  # type: ignore[return-value]
    made = copy.deepcopy(model)
    _install_(made, planned)
    return made


def _checked(model: nn.Module, planned: object) -> Planned:
    """The plan, when it is one, and one for this model."""
    check_module(model)
    if isinstance(planned, str | Path):
        planned = Planned.load(planned)
    if not isinstance(planned, Planned):
        inner = isinstance(getattr(planned, "planned", None), Planned)
        remedy = "give its .planned" if inner else "give what gacfx.plan returns, or its folder"
        raise PlanError(f"{type(planned).__name__} is no plan with factors; {remedy}")
    check_unquantized(model)
    parts = needs_unpacking(model, planned.plan.weights)
    check_plan(unpacked(model) if parts else model, planned.plan)
    for choice in planned.plan.choices:
        if problem := odd_parts(choice.decision, [(w.rows, w.columns) for w in choice.weights]):
            raise PlanError(f"{choice.group}: {problem}; make the plan again")
    check_factors(planned.plan, planned.factors)
    return planned


def _install_(model: nn.Module, planned: Planned) -> None:
    if needs_unpacking(model, planned.factors):
        unpack_(model)
    install_(model, planned.factors, planned.plan.blocks)
    if hasattr(model, "config"):
        declare_(model)  # type: ignore[arg-type]  # any module with a Hugging Face configuration


@plain_torch()
def apply_to_graph(gm: GraphModule, planned: Planned) -> GraphModule:
    """A copy of a captured graph with the factors in place; parameters that stay are shared."""
    made = edit.fork(gm)
    rewrite = Pipeline.parse(pipelines.REWRITE)
    rewrite.bind(plan=planned.plan, factors=planned.factors, locks=False).run(made)
    return made
