"""What a graph really stores of a planned weight, read from its tensors."""

from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.core.decision import Decision
from gacfx.core.plan import Weight


def stored_otherwise(gm: GraphModule, weight: Weight, decision: Decision) -> str:
    """How the tensors in the graph differ from those of a decision; empty where they do not."""
    for stored in decision.tensors(weight.rows, weight.columns).values():
        found = _tensor(gm, name := f"{weight.module}.{stored.parameter}")
        wanted = f"the plan says {decision}, {list(stored.shape)}"
        if found is None:
            return f"the graph has no {name}; {wanted}"
        if tuple(found.shape) != stored.shape:
            return f"{name} is {list(found.shape)}; {wanted}"
    return ""


def _tensor(gm: GraphModule, name: str) -> Tensor | None:
    owner: nn.Module | Tensor | None = gm
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner if isinstance(owner, Tensor) else None
