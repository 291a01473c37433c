"""The rows of the tables: by which method, and by whose sizes.

own         sizes of the method's own allocation
knapsack    sizes in steps of 8 around those, by the knapsack of GAC-v2 (Eq. 4)
planned     gacfx's planner
healed      a planned row that learnt from the dense model
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gacfx.allocation.allocate import offer, solve_case
from gacfx.allocation.budget import make_budget
from gacfx.allocation.offers import Offers
from gacfx.compressors.methods import METHODS, register
from gacfx.compressors.pruning.llm_pruner import LlmPruner
from gacfx.core.decision import break_even
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.structure_curves import StructureCurve
from gacfx.errors import DecompositionFailed
from gacfx.hardware.profile import Profile
from gacfx.study import Study

How = Literal["dense", "own", "knapsack", "planned", "healed"]
ALIGN = 8
OURS = "gfwsvd"
TABLE_OF_LOSSES, STABLE_RANK = "asvd", "asvd:allocation=stable-rank"
"""ASVD by the losses of its table (six passes for each weight), and by its stand-in for them."""


@dataclass(frozen=True, kw_only=True)
class GatePruner(LlmPruner):
    """LLM-Pruner with gate_proj as the root of what goes together: channels of MLPs alone.

    GAC-v2 describes its runs so.
    """

    def _prunes(self, curve: StructureCurve) -> bool:
        return curve.facts.kind == "width" and super()._prunes(curve)


PRUNER = "llm-pruner-mlp"
if METHODS.seek(PRUNER) is None:
    register(GatePruner(PRUNER))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a row is made."""

    name: str
    """Of its files."""
    label: str
    """In the table."""
    how: How
    method: str = ""
    search: Search | None = None
    """Of a planned row."""
    start: str = ""
    """Of a healed row: the one that it begins with."""
    seeded: bool = False
    """Another seed makes another model."""

    @property
    def prunes(self) -> bool:
        """It is made of gradients of the weights, which are gathered for it alone."""
        return bool(self.method) and METHODS.find(self.method).prunes

    @property
    def gathers(self) -> str:
        """The method whose statistics are asked for."""
        return self.method if self.prunes else OURS


DENSE = Recipe("dense", "dense", "dense")
PLAN = Search(prune="auto", align=ALIGN, value="two-sided", corrections=1)


def asvd(*, table: bool = False) -> tuple[Recipe, Recipe]:
    """ASVD by itself, and inside the knapsack.

    Args:
        table: by its table of losses.
    """
    method, name = (TABLE_OF_LOSSES, "asvd-table") if table else (STABLE_RANK, "asvd")
    own = Recipe(name, "ASVD", "own", method)
    return own, Recipe(f"{name}-gac", "ASVD (GAC)", "knapsack", method)


def pruner(first: int = 3) -> tuple[Recipe, Recipe]:
    """LLM-Pruner from a layer on, by itself and inside the knapsack."""
    method = PRUNER if first == 3 else f"{PRUNER}:first={first}"
    own = Recipe("llm-pruner", "LLM-Pruner", "own", method)
    return own, Recipe("llm-pruner-gac", "LLM-Pruner (GAC)", "knapsack", method)


def ours() -> tuple[Recipe, Recipe]:
    """gacfx's plan, and the same healed."""
    plan = Recipe("ours", "gacfx", "planned", OURS, PLAN, seeded=True)
    return plan, Recipe("ours-healed", "gacfx, healed", "healed", start="ours", seeded=True)


SVD_LLM = Recipe("svd-llm", "SVD-LLM", "own", "svd-llm")


def table5(first: int = 3, *, table: bool = False) -> tuple[Recipe, ...]:
    """Rows in the order of the table."""
    return (DENSE, *asvd(table=table), *pruner(first), SVD_LLM, *ours())


def table3(first: int = 3) -> tuple[Recipe, ...]:
    """The same for the earlier paper."""
    return (DENSE, *asvd(), *pruner(first))


def make(recipe: Recipe, study: Study, ratio: str, profile: Profile) -> Planned:
    """The plan of a row, with its factors; of one that is neither dense nor healed.

    Args:
        recipe: of the row.
        study: with the statistics that it gathers.
        ratio: share of the targeted weights to remove.
        profile: GPU that the plan is named after; sizes are multiples of 8 on all of them.

    Raises:
        InfeasibleBudget: the method cannot remove so much.
    """
    by = study if study.method == recipe.method else study.with_method(recipe.method)
    if recipe.how == "planned":
        assert recipe.search is not None
        return by.plan(ratio, profile=profile, search=recipe.search)
    if recipe.how == "own":
        return by.upstream(ratio, profile=profile)
    assert recipe.how == "knapsack", recipe
    if recipe.prunes:  # its window stands around the method's own widths by itself
        search = replace(Search.paper("only"), align=ALIGN)
        return by.plan(ratio, profile=profile, search=search)
    return around(by, by.upstream(ratio, profile=profile).plan, profile)


def around(study: Study, own: Plan, profile: Profile) -> Planned:
    """GAC-v2 around a method's own ranks: eight multiples of 8 near each, by the knapsack of Eq. 4.

    Its budget is what the own ranks keep, so that both have equally many parameters. A weight that
    stayed dense stands at its break-even rank, and may stay dense.

    Args:
        study: of the method.
        own: its own allocation.
        profile: GPU that the plan is named after.
    """
    search, curves = replace(Search.paper(), align=ALIGN), study.curves("paper")
    rest = own.budget.model_params - own.budget.targeted_params
    budget = make_budget(curves.facts, Goal(params=rest + own.kept_params))
    wanted = wanted_of(own)
    case = offer(curves, Offers.of(search, ALIGN, study.method), wanted)
    made = replace(curves.facts.provenance, gpu=profile.name, align=ALIGN, search=search)
    plan = replace(
        solve_case(case, budget, solver=search.solver, wanted=wanted, provenance=made),
        fingerprint=curves.facts.fingerprint,
        digests=curves.facts.digests,
        refusals=curves.facts.refusals,
    )
    factors, failed = study.full.factors(plan, study.graph, study.structures)
    for module, reason in failed.items():
        raise DecompositionFailed(module, reason)
    return Planned(plan, factors)


def wanted_of(own: Plan) -> dict[str, float]:
    """Module -> rank; of a dense weight the one at which a pair would have as many parameters."""
    return {
        name: float(own.ranks.get(name, break_even(weight.rows, weight.columns)))
        for name, weight in own.weights.items()
    }


def named(recipes: Sequence[Recipe], names: Sequence[str] | None) -> tuple[Recipe, ...]:
    """Those that are asked for, and those that they begin with, in the order of the table."""
    if names is None:
        return tuple(recipes)
    starts = {recipe.start for recipe in recipes if recipe.name in names}
    return tuple(recipe for recipe in recipes if recipe.name in {*names, *starts})
