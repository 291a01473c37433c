"""What a graph really stores of a planned weight, read from its tensors."""

from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.core.decision import Decision
from gacfx.core.plan import Weight
from gacfx.core.pruning import Gone, Sliced


def stored_otherwise(gm: GraphModule, weight: Weight, decision: Decision) -> str:
    """How the tensors in the graph differ from those of a decision; empty where they do not."""
    if isinstance(decision, Gone):
        left = [name for name, _ in gm.named_parameters() if name.startswith(f"{weight.module}.")]
        return f"the graph still has {left[0]}; the plan takes it out" if left else ""
    for stored in decision.tensors(weight.rows, weight.columns).values():
        found = _tensor(gm, name := f"{weight.module}.{stored.parameter}")
        wanted = f"the plan says {decision}, {list(stored.shape)}"
        if found is None:
            return f"the graph has no {name}; {wanted}"
        # A smaller weight keeps the layout of the dense one, which is [in, out] in a Conv1D.
        layouts = (stored.shape, stored.shape[::-1])
        if tuple(found.shape) not in layouts[: 1 + _keeps_layout(decision)]:
            return f"{name} is {list(found.shape)}; {wanted}"
    return ""


def _keeps_layout(decision: Decision) -> bool:
    return isinstance(decision, Sliced) and decision.rest.is_dense


def _tensor(gm: GraphModule, name: str) -> Tensor | None:
    owner: nn.Module | Tensor | None = gm
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner if isinstance(owner, Tensor) else None
