"""Smaller weights in a graph: some rows or columns of a dense one, or the tensor of a plan."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from gacfx.core.materialise import Factors
from gacfx.core.pruning import Sliced
from gacfx.core.sites import Layout, MatmulSite
from gacfx.errors import PlanError
from gacfx.graph import edit
from gacfx.passes.rewrite.factorize import operands

Kept = NDArray[np.int64]
"""Positions along an axis that stay, rising."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One matmul, and what of its weight stays.

    Raises:
        PlanError: the factors are of another size, or of other outputs.
        PassError: the weight reaches the matmul through a cast or a transpose.
    """

    node: Node
    site: MatmulSite
    factors: Factors
    rows: Kept
    columns: Kept

    def __post_init__(self) -> None:
        decision, module = self.factors.decision, self.site.name
        operands(self.node)
        size = (len(self.rows), len(self.columns))
        if not isinstance(decision, Sliced) or (decision.outputs, decision.inputs) != size:
            raise PlanError(
                f"prune: {module}: {size[0]} x {size[1]} of its weight stay, but its decision is "
                f"{decision}; make the plan again"
            )
        if not np.array_equal(np.sort(self.order), self.rows):
            raise PlanError(
                f"prune: {module}: its factors are of other outputs than those that stay; "
                "make the plan again"
            )

    @property
    def order(self) -> Kept:
        """Outputs of the dense weight, in the order of the factors; rising where these have no
        values, on the meta device."""
        order = self.factors.order
        if order is None:
            return np.arange(self.factors.rows)
        return self.rows if order.is_meta else order.cpu().numpy()


def slice_weight(gm: GraphModule, cut: Slice) -> None:
    """Put the smaller weight and bias of one matmul into the graph, in the order of its factors.

    Where the rest stays dense, the weight is the tensor of the plan; otherwise what is left of the
    dense one holds its place.
    """
    _, weight, bias = operands(cut.node)
    name = str(weight.target)
    old = gm.get_parameter(name)
    made = cut.factors.tensors.get("weight")
    outputs, inputs = (1, 0) if cut.site.layout is Layout.CONV1D else (0, 1)
    if made is not None:
        # A copy even where nothing is converted: training must not change the plan's factors.
        new = made.detach().to(old.device, old.dtype, copy=not cut.factors.lent)
        new = new if outputs == 0 else new.T
    else:
        new = old.detach().index_select(outputs, _on(old.device, cut.order))
        new = new.index_select(inputs, _on(old.device, cut.columns))
    edit.set_parameter(gm, name, new.contiguous())
    if bias is not None:
        held = gm.get_parameter(name := str(bias.target))
        edit.set_parameter(gm, name, cut.factors.reorder(held))


def _on(device: torch.device, at: Kept) -> torch.Tensor:
    return torch.as_tensor(at, dtype=torch.long, device=device)
