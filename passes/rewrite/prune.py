"""Carry out structured pruning: smaller weights, the sizes that follow from them, skipped blocks.

Before:  view(linear(x, q_proj.weight [48, 48]), [3, 17, 6, 8])   add(x, down_proj(...))
After:   view(linear(x, q_proj.weight [32, 48]), [3, 17, 4, 8])   add(x, zeros_like(h))

What becomes of the rest of a weight, such as a low rank, is left to ``factorize``: until then what
is left of the dense weight stands there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from gacfx.core.materialise import FactorSet, check_factors
from gacfx.core.plan import Plan
from gacfx.core.pruning import Gone, Skip, Sliced
from gacfx.core.sites import MatmulSite
from gacfx.coupling.structures import analyse
from gacfx.errors import PassError
from gacfx.graph import ops
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, matmuls
from gacfx.graph.ops import Op
from gacfx.passes.rewrite.coupled import Planned, new_sizes, planned_structures
from gacfx.passes.rewrite.factorize import check_shapes, check_weights
from gacfx.passes.rewrite.literals import rewrite_sizes
from gacfx.passes.rewrite.skip import Block, skip_block
from gacfx.passes.rewrite.slices import Slice, slice_weight

Sites = Mapping[str, tuple[Node, MatmulSite]]
"""Module -> its matmul."""


@register
@dataclass(frozen=True)
class Prune(GacPass):
    """Take units out of coupled structures, and whole blocks out of the graph."""

    name = "prune"
    needs = frozenset({Fact.SITES})
    drops = frozenset(
        {Fact.SITES, Fact.TARGETS, Fact.TIERS, Fact.LATENCY, Fact.DIMS, Fact.CURVES}
        | {Fact.CANDIDATES}
    )
    required = frozenset({"plan", "factors"})

    locks: bool = True
    """Compare weights with those that the plan was made of; gacfx.apply has done that already."""
    plan: Plan | None = given()
    factors: FactorSet | None = given()

    def run(self, gm: GraphModule) -> bool:
        assert self.plan is not None and self.factors is not None
        check_factors(self.plan, self.factors)
        if not any(isinstance(d, Sliced | Gone) for d in self.plan.decisions.values()):
            return False
        sites = {s.name: (n, s) for n, s in matmuls(gm) if s.weight is not None}
        known = {module: site for module, (_, site) in sites.items()}
        check_shapes(self.plan, known, by=self.name)
        smaller = [m for m, d in self.plan.decisions.items() if isinstance(d, Sliced | Gone)]
        check_weights(
            gm, self.plan, known, dict.fromkeys(smaller, 1), by=self.name, locks=self.locks
        )
        coupling = analyse(gm)
        planned = planned_structures(self.plan.choices, coupling.coupled)
        # Everything is looked at before anything is changed.
        sizes = new_sizes(planned)
        slices = [cut for one in planned for cut in _slices(one, sites, self.factors)]
        blocks = [_block(one, sites) for one in planned if isinstance(one.decision, Skip)]
        for cut in slices:
            slice_weight(gm, cut)
        rewrite_sizes(gm, coupling.interpreter.values, sizes)
        for block in blocks:
            skip_block(gm, block)
        return True

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        found = _layers(gm)
        for module, decision in self.plan.decisions.items():
            if isinstance(decision, Gone) and module in found:
                raise PassError(f"{self.name}: the graph still has {module}; the plan takes it out")
            if isinstance(decision, Sliced):
                _check_size(module, found.get(module), decision)


def _slices(one: Planned, sites: Sites, factors: FactorSet) -> Iterator[Slice]:
    if isinstance(one.decision, Skip):
        return
    for member in one.structure.members:
        made = factors.get(member.module)
        if made is None or not isinstance(made.decision, Sliced):
            continue  # it loses nothing: query heads went, and this is a k_proj
        yield Slice(*sites[member.module], made, one.rows(member), one.columns(member))


def _block(one: Planned, sites: Sites) -> Block:
    structure = one.structure
    opening = next(member for member in structure.members if not member.closes)
    ends = (sites[member.module][0] for member in (opening, structure.closing))
    return Block(structure.name, *ends)


def _layers(gm: GraphModule) -> dict[str, Node]:
    """Module -> its linear or addmm, by the weight that this one reads."""
    found: dict[str, Node] = {}
    for node in gm.graph.nodes:
        if ops.op_of(node) in (Op.LINEAR, Op.ADDMM):
            name = ops.weight_name(ops.operands(node)[1]) or ""
            found[name.removesuffix(".weight")] = node
    return found


def _check_size(module: str, node: Node | None, decision: Sliced) -> None:
    """Raises PassError when the layer in the graph is of another size than planned."""
    wanted = f"the plan says {decision.outputs} x {decision.inputs}"
    if node is None:
        raise PassError(f"prune: the graph has no {module}; {wanted}")
    x = ops.operands(node)[0]
    assert isinstance(x, Node)
    outputs, inputs = (ops.shape(each) or (0,) for each in (node, x))
    if (outputs[-1], inputs[-1]) != (decision.outputs, decision.inputs):
        raise PassError(f"prune: {module} is {outputs[-1]} x {inputs[-1]} in the graph; {wanted}")
