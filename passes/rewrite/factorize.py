"""Carry out planned decisions: their tensors and operators in place of dense weights.

Before:  linear(x, q_proj.weight, q_proj.bias)
After:   linear(linear(x, q_proj.down.weight), q_proj.up.weight, q_proj.up.bias)
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from gacfx.core.locks import check_weight
from gacfx.core.materialise import Factors, FactorSet, check_factors
from gacfx.core.plan import Plan
from gacfx.core.pruning import Gone, Sliced
from gacfx.core.sites import Layout, MatmulSite
from gacfx.errors import PassError, PlanMismatch
from gacfx.graph import edit, ops
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, matmuls, refuse, state
from gacfx.graph.ops import Op
from gacfx.graph.weights import weight_uses
from gacfx.modules.make import carrier_of
from gacfx.passes.verify.stored import stored_otherwise


@register
@dataclass(frozen=True)
class Factorize(GacPass):
    """Replace each planned matmul; the tensors come with the plan, nothing is decomposed."""

    name = "factorize"
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
        nodes, sites = defaultdict[str, list[Node]](list), dict[str, MatmulSite]()
        for node, site in matmuls(gm):
            if site.weight is not None:
                nodes[site.name].append(node)
                sites[site.name] = site
        check_factors(self.plan, self.factors)
        pruned = check_pruned(self.plan, sites)
        whole = [module for module in self.factors if module not in pruned]
        check_shapes(self.plan, sites, whole)
        products = {module: len(nodes[module]) for module in whole}
        check_weights(gm, self.plan, sites, products, by=self.name, locks=self.locks)
        for choice in self.plan.choices:
            for module, decision in choice.decisions.items():
                for node in nodes[module] if decision.is_dense else ():
                    refuse(node, by=self.name, reason=choice.reason or "the plan keeps it dense")
        left = {module: made for module, made in self.factors.items() if not _is_done(made)}
        # Layers that compute with what others hold come after those.
        for module in sorted(left, key=lambda name: bool(left[name].decision.lender(name))):
            factorize_nodes(gm, nodes[module], sites[module], left[module].rest)
        state(gm).plan = self.plan
        return bool(left)

    def verify(self, gm: GraphModule) -> None:
        assert self.plan is not None
        for module, decision in self.plan.decisions.items():
            if odd := stored_otherwise(gm, self.plan.weights[module], decision):
                raise PassError(f"{self.name}: {odd}")


def _is_done(made: Factors) -> bool:
    """``prune`` has nothing left to do."""
    decision = made.decision
    return isinstance(decision, Gone) or (isinstance(decision, Sliced) and decision.rest.is_dense)


def check_pruned(plan: Plan, sites: Mapping[str, MatmulSite]) -> frozenset[str]:
    """The modules that are pruned, when the graph has them as small as the plan leaves them.

    Raises:
        PlanMismatch: names the first module that differs.
    """
    found = set[str]()
    for module, decision in plan.decisions.items():
        if isinstance(decision, Gone):
            if module in sites:
                raise PlanMismatch(
                    f"factorize: the graph still has {module}, which the plan takes out; "
                    "run prune first"
                )
        elif isinstance(decision, Sliced):
            check_shape(
                module, sites.get(module), decision.outputs, decision.inputs, "; run prune first"
            )
        else:
            continue
        found.add(module)
    return frozenset(found)


def check_shapes(
    plan: Plan,
    sites: Mapping[str, MatmulSite],
    modules: Iterable[str] | None = None,
    *,
    by: str = "factorize",
) -> None:
    """Nothing when every module, by default every replaced one, has its matmul, of the planned
    shape.

    Raises:
        PlanMismatch: names the first module that differs.
    """
    for module in plan.decisions if modules is None else modules:
        weight = plan.weights[module]
        check_shape(module, sites.get(module), weight.rows, weight.columns, by=by)


def check_shape(
    module: str,
    site: MatmulSite | None,
    rows: int,
    columns: int,
    remedy: str = "",
    *,
    by: str = "factorize",
) -> None:
    """Nothing when a module has its matmul, of this shape.

    Raises:
        PlanMismatch: it has none, or one of another shape.
    """
    if site is None:
        raise PlanMismatch(
            f"{by}: the graph has no matmul {module}; "
            "give it the dense graph that the plan was made for"
        )
    found = (site.n.times, site.k.times)
    if found != (rows, columns):
        raise PlanMismatch(
            f"{by}: {module}: its weight is {found[0]} x {found[1]}, the plan is for "
            f"{rows} x {columns}{remedy}"
        )


def check_weights(
    gm: GraphModule,
    plan: Plan,
    sites: Mapping[str, MatmulSite],
    products: Mapping[str, int],
    *,
    by: str,
    locks: bool,
) -> None:
    """Nothing when each weight is read by its products alone, and is what the plan was made of.

    Weights without values (meta device) are not compared with the plan's.

    Args:
        gm: the graph.
        plan: to carry out.
        sites: module -> its product.
        products: module -> how many nodes are that product, and will be replaced.
        by: name of the pass, for messages.
        locks: compare the weights.

    Raises:
        PlanMismatch: names the first that is not.
    """
    uses = weight_uses(gm)
    for module, count in products.items():
        weight = str(sites[module].weight)
        if uses[weight] > count:
            raise PlanMismatch(
                f"{by}: {module}: {uses[weight]} nodes read its weight, and {count} of them would "
                "be replaced; leave it out of the plan, or run the pass that copied the node "
                "afterwards"
            )
        held = gm.get_parameter(weight)
        if locks and not held.is_meta:
            check_weight(module, held, plan)


def factorize_nodes(
    gm: GraphModule, nodes: Sequence[Node], site: MatmulSite, factors: Factors
) -> None:
    """Replace the linears or addmms of one module, all of the same weight, by the operators of a
    decision."""
    assert site.weight is not None
    if site.layout not in (Layout.LINEAR, Layout.CONV1D):
        raise PassError(f"factorize: {site.name}: layout {site.layout} cannot be factorized")
    _, weight, bias = operands(nodes[0])
    if factors.order is not None:
        axes = {weight: int(site.layout is Layout.CONV1D)}
        for held in (weight, bias) if factors.decision.is_dense else (bias,):
            if held is not None:
                kept = gm.get_parameter(name := str(held.target))
                edit.set_parameter(gm, name, factors.reorder(kept, axes.get(held, 0)))
    if factors.decision.is_dense:
        return
    decision, rows, columns = factors.decision, factors.rows, factors.columns
    carrier = carrier_of(decision)
    names = _put(gm, site, factors)
    lender = decision.lender(site.name)
    for name, stored in decision.borrowed(rows, columns).items():
        names[name] = f"{lender}.{stored.parameter}"
    old = None if bias is None else str(bias.target)
    own = None if old is None else f"{site.name}.{carrier.bias_name(rows, columns)}"
    if own is not None and own != old:
        edit.set_parameter(gm, own, gm.get_parameter(str(old)))
    read: dict[Node, None] = {}
    for node in nodes:
        x, *of_node = operands(node)
        read |= dict.fromkeys(each for each in of_node if each is not None)
        tensors = {n: edit.parameter_node(gm, path, like=node) for n, path in names.items()}
        after = of_node[1] if own == old else edit.parameter_node(gm, str(own), like=node)
        build = edit.Build(gm, node, site.name, carrier.__name__)
        edit.replace_node(gm, node, carrier.emit(build, decision, rows, columns, x, tensors, after))
    spent = {str(each.target) for each in read if not each.users}
    for each in read:
        if not each.users:
            gm.graph.erase_node(each)
    for name in spent - {str(each.target) for each in read if each.users}:
        edit.delete_parameter(gm, name)


def _put(gm: GraphModule, site: MatmulSite, factors: Factors) -> dict[str, str]:
    """Name of each tensor -> where it was put, in the module of the site."""
    old, names = gm.get_parameter(str(site.weight)), {}
    for name, stored in factors.decision.tensors(factors.rows, factors.columns).items():
        # A copy even where nothing is converted: training must not change the plan's factors.
        dtype, copy = torch.int32 if stored.integer else old.dtype, not factors.lent
        made = factors.tensors[name].detach().to(old.device, dtype, copy=copy).contiguous()
        path = f"{site.name}.{stored.parameter}"
        (edit.set_buffer if stored.integer else edit.set_parameter)(gm, path, made)
        names[name] = path
    return names


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
