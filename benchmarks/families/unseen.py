"""What of a model no site of its graph covers: work, by operator, and weights."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from gacfx.core.sites import MatmulSite, Workload
from gacfx.graph.notes import sites
from gacfx.graph.ops import call_name, weight_name
from gacfx.tracing.routed import compute


@dataclass(frozen=True, slots=True)
class Unseen:
    """Shares of a model that no site covers."""

    flops: float
    """Of all floating point operations of one forward that torch or a site counts, 0..1."""
    operators: tuple[str, ...]
    """Those that do them, most first."""
    params: float
    """Of all parameters, in weights of two axes or more that no embedding looks up."""
    weights: tuple[str, ...]
    """The largest of them."""


def unseen(gm: GraphModule, inputs: dict[str, Any], workload: Workload) -> Unseen:
    """Run an annotated graph once and ask of every node whether a site stands for it."""
    found = dict(sites(gm))
    counting = _Counting(gm, frozenset(found))
    with torch.no_grad(), counting.counter:
        counting.run(*inputs.values())
    seen = sum(site.flops(workload) for site in found.values())
    missed = counting.missed.total()
    names = {site.weight for site in found.values() if isinstance(site, MatmulSite)}
    names |= {weight_name(n.args[0]) for n in gm.graph.nodes if call_name(n) == "embedding"}
    covered = {id(gm.get_parameter(name)) for name in names if name in dict(_parameters(gm))}
    sizes = {name: p.numel() for name, p in gm.named_parameters()}
    left = {n for n, p in gm.named_parameters() if id(p) not in covered and p.ndim > 1}
    largest = sorted(left, key=lambda name: (-sizes[name], name))
    return Unseen(
        flops=missed / max(missed + seen, 1),
        operators=tuple(name for name, _ in counting.missed.most_common(4)),
        params=sum(sizes[name] for name in left) / max(sum(sizes.values()), 1),
        weights=tuple(largest[:4]),
    )


def _parameters(gm: GraphModule) -> Iterator[tuple[str, Parameter]]:
    """Under every name that they have."""
    return gm.named_parameters(remove_duplicate=False)


class _Counting(Interpreter):
    """Counts what nodes without a site compute."""

    def __init__(self, gm: GraphModule, covered: frozenset[Node]) -> None:
        super().__init__(gm)
        self.counter, self.covered = FlopCounterMode(display=False), covered
        self.missed: Counter[str] = Counter()

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Experts that are one node are counted product by product, as torch cannot look inside."""
        if target is not torch.ops.gacfx.routed.default:
            return super().call_function(target, args, kwargs)
        hidden, index, shares, held, template = args
        return compute(hidden, index, shares, [each.detach() for each in held], template)

    def run_node(self, n: Node) -> Any:
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        more = self.counter.get_total_flops() - before
        if more and n not in self.covered:
            self.missed[call_name(n)] += more
        return result
