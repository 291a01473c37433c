"""Budgets: what a goal leaves to the targeted weights, and what each would take by itself."""

import re
from fractions import Fraction

from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.methods import METHODS
from gacfx.core.curve_file import Curves, Facts
from gacfx.core.goal import Goal
from gacfx.core.plan import Budget
from gacfx.core.search import Search
from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.hardware.profile import DTYPE_BYTES
from gacfx.knapsack import kept_budget

_BITS = re.compile(r"[a-z]+(\d+)")


def wanted_sizes(curves: Curves, budget: Budget, search: Search) -> dict[str, float]:
    """Group -> d*: ranks of weights, or units of the structures that the method prunes.

    Raises:
        InfeasibleBudget: the method by itself cannot prune so much.
    """
    if search.prune != "only":
        return wanted_ranks(curves.facts, budget)
    if search.candidates != "window":
        return {}
    method = METHODS.find(curves.facts.provenance.method)
    gone = budget.targeted_params - budget.limit_params
    return {name: float(n) for name, n in method.own_sizes(curves.structures, gone).items()}


def wanted_ranks(facts: Facts, budget: Budget) -> dict[str, float]:
    """Module, or group that may share a basis -> d*: the rank at which every target keeps the same
    share of its parameters.

    That is the allocation of SVD-LLM v1, and the one that gacfx takes for all methods.
    """
    removed = str(1 - Fraction(budget.limit_params, max(budget.targeted_params, 1)))
    alone = {
        weight.module: (weight.rows, weight.columns, weight.groups) for weight in facts.weights
    }
    shapes = alone | {group.name: (*group.shape, 0) for group in facts.shared}
    ranks = {
        (rows, columns, groups): wanted_rank(rows, columns, removed, groups)
        for rows, columns, groups in sorted({*shapes.values()})
    }
    return {name: ranks[shape] for name, shape in shapes.items()}


def make_budget(facts: Facts, goal: Goal) -> Budget:
    """The limit in whole parameters that a goal leaves to the targeted weights.

    Raises:
        PlanError: a ratio outside [0, 1), or targets of several dtypes counted in bytes.
        InfeasibleBudget: the goal asks for more than the targeted weights can give.
    """
    whole, targeted = facts.model_params, facts.targeted_params
    if goal.unit == "bytes":
        limit = _params_in(facts, goal.count)
    elif goal.unit == "params":
        limit = goal.count - (whole - targeted)
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


def _params_in(facts: Facts, nbytes: int) -> int:
    """Parameters of the targets that fit into ``nbytes`` beside all other parameters."""
    dtypes = {weight.dtype for weight in facts.weights}
    if len(dtypes) != 1:
        raise PlanError("the targeted weights have several dtypes; give a goal in parameters")
    rest = sum(params * bytes_of(dtype) for dtype, params in facts.others.items())
    return (nbytes - rest) // bytes_of(dtypes.pop())


def bytes_of(dtype: str) -> int:
    """Bytes of one number: ``bf16`` and ``bfloat16`` have 2; two numbers in a byte count as one.

    Raises:
        PlanError: a dtype that torch does not have.
    """
    if dtype in DTYPE_BYTES:
        return DTYPE_BYTES[dtype]
    found = _BITS.match(dtype)
    bits = int(found[1]) if found else 8 if dtype == "bool" else 0
    if 1 <= bits <= 8 or bits in (16, 32, 64, 128):
        return max(bits // 8, 1)
    raise PlanError(f"no dtype {dtype!r}; the curves come from another version of torch")
