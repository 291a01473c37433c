"""Put a plan into a model: in place, in a copy, or in a captured graph."""

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.checkpoint.hf import declare_
from gacfx.core import edit
from gacfx.core.locks import check_plan
from gacfx.core.pipeline import Pipeline
from gacfx.core.planned import Planned
from gacfx.modules.install import install_

M = TypeVar("M", bound=nn.Module)


@torch.inference_mode(False)
def apply_(model: nn.Module, planned: "Planned | str | Path") -> None:
    """Put a plan's factors into ``model``, in place; its configuration says so from then on.

    Raises:
        PlanMismatch: the plan was made for another model or for other weights.
    """
    planned = planned if isinstance(planned, Planned) else Planned.load(planned)
    check_plan(model, planned.plan)
    _install_(model, planned)


@torch.inference_mode(False)
def apply(model: M, planned: "Planned | str | Path") -> M:
    """A copy of ``model`` with a plan's factors; the model itself is left as it was.

    A GraphModule is rewritten by the fx passes, any other module by replacing its linears.

    Raises:
        PlanMismatch: the plan was made for another model or for other weights.
    """
    planned = planned if isinstance(planned, Planned) else Planned.load(planned)
    check_plan(model, planned.plan)
    if isinstance(model, GraphModule):
        return apply_to_graph(model, planned)  # type: ignore[return-value]
    made = copy.deepcopy(model)
    _install_(made, planned)
    return made


def _install_(model: nn.Module, planned: Planned) -> None:
    install_(model, planned.factors)
    if hasattr(model, "config"):
        declare_(model)  # type: ignore[arg-type]  # any module with a Hugging Face configuration


@torch.inference_mode(False)
def apply_to_graph(gm: GraphModule, planned: Planned) -> GraphModule:
    """A copy of a captured graph with the factors in place; parameters that stay are shared."""
    made = edit.fork(gm)
    rewrite = Pipeline.parse(pipelines.REWRITE)
    rewrite.bind(plan=planned.plan, factors=planned.factors).run(made)
    return made
