"""Put the planned factors in place of dense weights.

Before:  linear(x, q_proj.weight, q_proj.bias)
After:   linear(linear(x, q_proj.down.weight), q_proj.up.weight, q_proj.up.bias)
"""

from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from gacfx.core.materialise import Factors, FactorSet, check_factors
from gacfx.core.plan import Plan
from gacfx.core.sites import Layout, MatmulSite
from gacfx.errors import PassError, PlanMismatch
from gacfx.graph import edit, ops
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, matmuls, refuse, state
from gacfx.graph.ops import Op

LINEAR = torch.ops.aten.linear.default


@register
@dataclass(frozen=True)
class Factorize(GacPass):
    """Replace each planned matmul by two; the factors come with the plan, nothing is decomposed."""

    name = "factorize"
    needs = frozenset({Fact.SITES})
    drops = frozenset(
        {Fact.SITES, Fact.TARGETS, Fact.TIERS, Fact.LATENCY, Fact.DIMS, Fact.CURVES}
        | {Fact.CANDIDATES}
    )
    required = frozenset({"plan", "factors"})

    plan: Plan | None = given()
    factors: FactorSet | None = given()

    def run(self, gm: GraphModule) -> bool:
        assert self.plan is not None and self.factors is not None
        todo = {s.name: (n, s) for n, s in matmuls(gm) if s.weight is not None}
        check_factors(self.plan, self.factors)
        check_shapes(self.plan, {name: site for name, (_, site) in todo.items()})
        changed = False
        for choice in self.plan.choices:
            if choice.rank is None:
                if choice.module in todo:
                    why = choice.reason or "the plan keeps it dense"
                    refuse(todo[choice.module][0], by=self.name, reason=why)
                continue
            node, site = todo[choice.module]
            factorize_node(gm, node, site, self.factors[choice.module])
            changed = True
        state(gm).plan = self.plan
        return changed

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        for module, rank in self.plan.ranks.items():
            found = gm.get_parameter(f"{module}.down.weight").shape[0]
            if found != rank:
                raise PassError(f"{self.name}: {module} has rank {found}, the plan says {rank}")


def check_shapes(plan: Plan, sites: dict[str, MatmulSite]) -> None:
    """Nothing when every planned rank has its matmul, of the planned shape.

    Raises:
        PlanMismatch: names the first module that differs.
    """
    for choice in plan.choices:
        if choice.rank is None:
            continue
        if choice.module not in sites:
            raise PlanMismatch(
                f"factorize: the graph has no matmul {choice.module}; "
                "give it the dense graph that the plan was made for"
            )
        rows, columns = sites[choice.module].n.times, sites[choice.module].k.times
        if (rows, columns) != (choice.rows, choice.columns):
            raise PlanMismatch(
                f"factorize: {choice.module}: its weight is {rows} x {columns}, the plan is for "
                f"{choice.rows} x {choice.columns}"
            )


def factorize_node(gm: GraphModule, node: Node, site: MatmulSite, factors: Factors) -> None:
    """Replace one linear or addmm by two linears with the weights ``down`` and ``up``."""
    assert site.weight is not None
    if site.layout not in (Layout.LINEAR, Layout.CONV1D):
        raise PassError(f"factorize: {site.name}: layout {site.layout} cannot be factorized")
    x, weight, bias = operands(node)
    old = gm.get_parameter(site.weight)
    for side, tensor in (("down", factors.down_RD), ("up", factors.up_OR)):
        # A copy even where nothing is converted: training must not change the plan's factors.
        made = tensor.detach().to(old.device, old.dtype, copy=True).contiguous()
        edit.set_parameter(gm, f"{site.name}.{side}.weight", made)
    down, up = (
        edit.parameter_node(gm, f"{site.name}.{side}.weight", like=node) for side in ("down", "up")
    )
    tail: tuple[Node, ...] = ()
    if isinstance(bias, Node):
        name = f"{site.name}.up.bias"
        edit.set_parameter(gm, name, gm.get_parameter(str(bias.target)))
        tail = (edit.parameter_node(gm, name, like=node),)
    hidden = edit.call(gm, LINEAR, (x, down), like=node, module=f"{site.name}.down")
    out = edit.call(gm, LINEAR, (hidden, up, *tail), like=node, module=f"{site.name}.up")
    edit.replace_node(gm, node, out)
    for spent in (weight, bias):
        if isinstance(spent, Node) and not spent.users:
            gm.graph.erase_node(spent)
            edit.delete_parameter(gm, str(spent.target))


def operands(node: Node) -> tuple[Node, Node, Node | None]:
    """(input, weight, bias) of a linear or addmm node.

    Raises:
        PassError: the weight reaches the node through a cast or a transpose.
    """
    if ops.op_of(node) is Op.ADDMM:
        bias, x, weight = node.args[:3]
    else:
        x, weight, bias = (*node.args, None)[:3]
    if not isinstance(weight, Node) or weight.op != "get_attr":
        raise PassError(f"factorize: {node.name}: its weight is computed, not a parameter")
    if node.kwargs:
        raise PassError(f"factorize: {node.name}: called with {', '.join(node.kwargs)}")
    assert isinstance(x, Node) and (bias is None or isinstance(bias, Node))
    return x, weight, bias
