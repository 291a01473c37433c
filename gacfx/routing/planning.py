"""The sizes of all pools under two budgets: what is stored, and what runs for a prompt.

layers.0.mlp.up_proj    dense | rank 16, 32, ... | routed 64 of 192, 32 shared | ...

A pair and a pool of the same active rank run alike, and a pool stores more. The exact solver takes
the best of all under both budgets at once, with its proof.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from gacfx.allocation.allocate import Case, solve_case
from gacfx.allocation.latency import ShareOfDense
from gacfx.core.curves import ListedCurve
from gacfx.core.decision import DENSE, Decision, LowRank
from gacfx.core.offered import Offered
from gacfx.core.plan import Budget, Plan
from gacfx.core.provenance import Provenance
from gacfx.errors import PlanError
from gacfx.knapsack import PrecisionWarning, kept_budget
from gacfx.routing.bases import pool_of

ACTIVE = "active parameters"
"""Name of the limit of what runs."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a plan with pools may store and run, and in which steps."""

    removed: float | str
    """Share of the targeted weights that shall not run for a prompt."""
    stored: float | str | None
    """Most that may be stored, as a share of the targeted weights; None: no limit."""
    block: int
    """Ranks that are picked together."""
    align: int
    """Every rank that runs is a multiple of it; a multiple of the block."""


def plan_pools(
    curves: Mapping[str, ListedCurve],
    *,
    removed: str | float,
    stored: str | float | None = None,
    model_params: int,
    provenance: Provenance,
    offered: Callable[[Decision], bool] = lambda _: True,
    time_limit: float | None = 60.0,
) -> Plan:
    """The plan of least loss that keeps both budgets.

    Args:
        curves: of all targeted weights.
        removed: share of the targeted weights that shall not run, 0 <= share < 1.
        stored: most that may be stored, as a share of the targeted weights; it may be above 1.
            None: whatever it takes.
        model_params: of the whole dense model.
        provenance: of the plan.
        offered: which candidates may be taken; the dense weight may always.
        time_limit: seconds after which the best plan so far is taken.

    Raises:
        PlanError: shares that are none.
        InfeasibleBudget: no plan keeps both budgets.
    """
    total = sum(curve.rows * curve.columns for curve in curves.values())
    candidates = {
        name: (*(each for each in curve.losses if offered(each)), DENSE)
        for name, curve in curves.items()
    }
    most = [
        max(each.params(curves[name].rows, curves[name].columns) for each in found)
        for name, found in candidates.items()
    ]
    limit = sum(most) if stored is None else int(share_of(stored) * total)
    active = {
        name: np.array(
            [each.active_params(curves[name].rows, curves[name].columns) for each in found],
            np.int64,
        )
        for name, found in candidates.items()
    }
    case = Offered()
    case.offer(candidates)
    case.limit(
        ShareOfDense(
            ACTIVE,
            kept_budget(total, removed),
            active,
            dense=total,
            unit="parameters",
            source="what runs for a prompt",
        )
    )
    budget = Budget(str(limit), "targeted", total, model_params, limit, "params")
    reasons = {name: curve.failed for name, curve in curves.items() if curve.failed}
    with warnings.catch_warnings():
        # Losses that differ by rounding are those of kinds of text that are alike.
        warnings.simplefilter("ignore", PrecisionWarning)
        made = solve_case(
            Case(curves, case, reasons), budget, time_limit=time_limit, provenance=provenance
        )
    return replace(made, choices=tuple(replace(each, wanted=None) for each in made.choices))


def _shape(curve: ListedCurve) -> tuple[int, int]:
    return curve.rows, curve.columns


def with_own_ranks(plan: Plan, share: float, block: int, kinds: int) -> Plan:
    """A static plan whose pairs keep a share of their rank for all text, and the rest are own ranks
    of each kind of text; what runs for a prompt stays the same.

    Args:
        plan: of pairs and dense weights.
        share: of each rank that is shared, rounded down to blocks.
        block: ranks that are picked together.
        kinds: of text.
    """
    choices = []
    for choice in plan.choices:
        decision = choice.decision
        if isinstance(decision, LowRank):
            shared = int(decision.rank * share) // block * block
            decision = pool_of(decision.rank, shared, block, kinds)
        choices.append(replace(choice, decision=decision))
    return replace(plan, choices=tuple(choices), proof=None)


def active_share(plan: Plan) -> float:
    """Share of the targeted weights that runs for a prompt."""
    return plan.active_params / max(plan.budget.targeted_params, 1)


def stored_share(plan: Plan) -> float:
    """Parameters that are stored, as a share of the dense targeted weights."""
    return plan.kept_params / max(plan.budget.targeted_params, 1)


def check_shares(removed: str | float, stored: str | float | None) -> None:
    """Nothing when these are shares that :func:`plan_pools` takes; asked before a long calibration.

    Raises:
        PlanError: they are not.
    """
    kept_budget(1, removed)
    if stored is not None:
        share_of(stored)


def share_of(stored: str | float) -> Fraction:
    """What a number such as ``1.25`` says.

    Raises:
        PlanError: it is none.
    """
    try:
        found = Fraction(str(stored))
    except (ValueError, ZeroDivisionError):
        raise PlanError(f"stored {stored!r}: not a number such as 1.25") from None
    if not 0 < found < 1000:
        raise PlanError(f"stored {stored!r}: a share of the targeted weights, such as 1.25")
    return found
