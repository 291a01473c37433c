"""Budgets of a graph: what a goal leaves to its targets, and what each would take by itself."""

from fractions import Fraction

from torch.fx import GraphModule

from gacfx.compressors.allocate import wanted_rank
from gacfx.core.goal import Goal
from gacfx.core.plan import Budget
from gacfx.errors import InfeasibleBudget, PlanError, UnsupportedModel
from gacfx.graph.notes import targets
from gacfx.knapsack import kept_budget
from gacfx.passes.planning.solve import refused_sites


def target_names(gm: GraphModule) -> list[str]:
    """Names of the targeted modules.

    Raises:
        UnsupportedModel: there is none; lists the reasons.
    """
    names = [site.name for _, site in targets(gm)]
    if not names:
        reasons = "; ".join(sorted(set(refused_sites(gm).values())))
        raise UnsupportedModel(f"no weight can be compressed: {reasons or 'no matmul found'}")
    return names


def targeted_params(gm: GraphModule) -> int:
    """Parameters of all targeted weights of a graph, dense."""
    return sum(s.k.times * s.n.times for _, s in targets(gm))


def wanted_ranks(gm: GraphModule, budget: Budget) -> dict[str, float]:
    """Module -> d*: the rank at which every target keeps the same share of its parameters.

    That is the allocation of SVD-LLM v1, and the one that gacfx takes for all methods.
    """
    removed = 1 - Fraction(budget.limit_params, max(budget.targeted_params, 1))
    shapes = {site.name: (site.n.times, site.k.times) for _, site in targets(gm)}
    return {name: wanted_rank(*shape, str(removed)) for name, shape in shapes.items()}


def make_budget(gm: GraphModule, goal: Goal) -> Budget:
    """The limit in whole parameters that a goal leaves to the targeted weights of a graph.

    Raises:
        PlanError: a ratio outside [0, 1), or targets of several dtypes counted in bytes.
        InfeasibleBudget: the goal asks for more than the targeted weights can give.
    """
    whole, targeted = sum(p.numel() for p in gm.parameters()), targeted_params(gm)
    outside = whole - targeted
    if goal.unit == "bytes":
        limit = _params_in(gm, goal.count)
    elif goal.unit == "params":
        limit = goal.count - outside
    else:
        assert goal.ratio is not None
        total = targeted if goal.whole == "targeted" else whole
        limit = kept_budget(total, goal.ratio) - (total - targeted)
    budget = Budget(goal.amount, goal.whole, targeted, whole, min(limit, targeted), goal.unit)
    if limit < 0:
        raise InfeasibleBudget(
            f"{budget.asked} asks to remove {-limit:,} more than the {targeted:,} targeted "
            f"parameters of {whole:,}; a ratio of the model stays below {targeted / whole:.4f}",
            needed=0,
            budget=limit,
        )
    return budget


def _params_in(gm: GraphModule, nbytes: int) -> int:
    """Parameters of the targets that fit into ``nbytes`` beside all other parameters."""
    weights = {site.weight for _, site in targets(gm)}
    rest = [p for name, p in gm.named_parameters() if name not in weights]
    sizes = {gm.get_parameter(str(name)).element_size() for name in weights}
    if len(sizes) != 1:
        raise PlanError("the targeted weights have several dtypes; give a goal in parameters")
    return (nbytes - sum(p.numel() * p.element_size() for p in rest)) // sizes.pop()
