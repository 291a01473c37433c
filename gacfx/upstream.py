"""What a method would do by itself: its own allocation, irregular sizes, no planner."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import inf, isfinite
from typing import TYPE_CHECKING

from gacfx.allocation.budget import make_budget
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.running import few_threads
from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs, Decomposition
from gacfx.compressors.values import TRIED
from gacfx.core.decision import DENSE, Decision
from gacfx.core.goal import Goal
from gacfx.core.own_sizes import OWN_RANKS, OWN_VALUE, OWN_WIDTHS
from gacfx.core.plan import Budget, Choice, Plan, Weight
from gacfx.core.planned import Planned
from gacfx.core.provenance import Trial
from gacfx.core.settings import file_name
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.store import remembered_numbers
from gacfx.errors import DecompositionFailed, InfeasibleBudget
from gacfx.evidence import Evidence
from gacfx.gated import Gated
from gacfx.hardware.profile import Profile
from gacfx.judging import Judge
from gacfx.modules.install import swapped
from gacfx.work import keep_curves

if TYPE_CHECKING:
    from gacfx.study import Study


def own_plan(study: "Study", goal: Goal, profile: Profile, *, tried: bool = False) -> Planned:
    """The allocation of the study's method for a goal, by its own rule.

    Args:
        study: whose statistics are taken.
        goal: how much may remain.
        profile: GPU that the plan is named after.
        tried: also measure the same sizes with factors of the fitted text, on the text that is
            held back. A method that measures losses for its sizes has seen that text, its factors
            have not.

    Raises:
        DecompositionFailed: a weight has no factors.
        InfeasibleBudget: the method by itself cannot remove so much.
    """
    if METHODS.find(study.method).prunes:
        return study.plan(goal, profile=profile, search=OWN_WIDTHS, tried=tried)
    plan = _own_ranks(study, goal, profile)
    with few_threads(study.model):
        trials = (_trial(study, plan),) if tried else ()
        plan = replace(plan, provenance=replace(plan.provenance, trials=trials))
        made = _carried_out(study, study.full, plan)
    keep_curves(study.full.store, lambda: study.curves_of(plan))
    return made


def check_own(plan: Plan) -> None:
    """Nothing when a method's own sizes keep the budget.

    Raises:
        InfeasibleBudget: they do not, as weights stay dense for which others do not make up.
    """
    kept, limit = plan.kept_params, plan.budget.limit_params
    if kept <= limit:
        return
    dense = [choice.group for choice in plan.choices if choice.decision.is_dense]
    raise InfeasibleBudget(
        f"own sizes of {plan.provenance.method} keep {kept:,} of the targeted parameters, "
        f"{kept - limit:,} more than may remain: {', '.join(dense[:3])} and so on stay dense, and "
        "its rule does not make up for it; leave them out (skip, --skip), or take sizes 'planned'",
        needed=kept,
        budget=limit,
    )


def _trial(study: "Study", plan: Plan) -> Trial:
    """The loss of these sizes with factors of the fitted text."""
    study.curves(TRIED[0], study.fit)  # decomposes the weights
    nats = Judge(study).judge(_carried_out(study, study.fit, plan)).nats_per_token
    return Trial(OWN_VALUE, nats if isfinite(nats) else None, True)


def _carried_out(study: "Study", known: Evidence, plan: Plan) -> Planned:
    """The plan with its factors."""
    factors, failed = known.factors(plan, study.graph, study.structures)
    for module, reason in failed.items():
        raise DecompositionFailed(module, reason)
    return study.refitted(Planned(plan, factors))


def _share(goal: Goal, budget: Budget) -> float | str:
    """Of the targeted weights that goes, as it was asked for where that is what was asked for."""
    if goal.ratio is not None and goal.whole == "targeted":
        return goal.ratio
    return str(1 - Fraction(budget.limit_params, max(budget.targeted_params, 1)))


def _own_ranks(study: "Study", goal: Goal, profile: Profile) -> Plan:
    """The plan of the ranks that the method allocates."""
    curves = study.curves(TRIED[0])
    facts, known = curves.facts, curves.curves
    budget = make_budget(facts, goal)
    ratio = _share(goal, budget)
    groups = {module: one for one in curves.shared for module in one.facts.members}
    shapes = {
        groups[name].name if name in groups else name: (
            groups[name].facts.shape if name in groups else (curve.rows, curve.columns)
        )
        for name, curve in known.items()
    }
    able = [name for name, curve in known.items() if not curve.failed and name not in groups]
    inputs = _inputs(study, able, budget.limit_params)
    ranks = METHODS.find(study.method).allocate(shapes, ratio, inputs)
    shared = {one.name: one for one in curves.shared}
    choices = []
    for name, shape in shapes.items():
        wanted = wanted_rank(*shape, ratio, known[name].groups if name in known else 0)
        if name in shared:
            choices += _group_choices(shared[name], ranks[name], wanted)
            continue
        curve, rank = known[name], ranks[name]
        decision: Decision = DENSE
        if rank is not None and not curve.failed:
            decision = study.full.decompositions[name].decision(rank)
        loss = curve.loss(decision)
        choices.append(Choice.single(name, *shape, decision, wanted, loss, curve.failed))
    made = replace(
        facts.provenance, value_model=OWN_VALUE, gpu=profile.name, search=OWN_RANKS, align=1
    )
    return Plan(
        choices=tuple(choices),
        budget=budget,
        proof=None,
        provenance=made,
        fingerprint=facts.fingerprint,
        digests=facts.digests,
        refusals=facts.refusals,
    )


def _group_choices(curve: SharedCurve, rank: int | None, wanted: float) -> list[Choice]:
    """The choice of a group that shares a basis; one for each weight where all stay dense."""
    facts = curve.facts
    weights = tuple(Weight(module, facts.rows, facts.columns) for module in facts.members)
    if rank is None:
        return [Choice(w.module, (w,), DENSE, None, 0.0) for w in weights]
    return [Choice(curve.name, weights, SharedBasis(rank), wanted, float(curve.losses[rank]))]


@dataclass(frozen=True, eq=False)
class _Some(Mapping[str, Decomposition]):
    """Decompositions of some weights, each there when it is asked for."""

    known: Mapping[str, Decomposition]
    names: Mapping[str, None]

    def __getitem__(self, module: str) -> Decomposition:
        if module not in self.names:
            raise KeyError(module)
        return self.known[module]

    def __contains__(self, module: object) -> bool:
        return module in self.names  # without a decomposition

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _inputs(study: "Study", able: Sequence[str], limit_params: int) -> AllocationInputs:
    """What the study's method may look at.

    Args:
        study: whose losses are measured, on its held-back text.
        able: weights that could be decomposed.
        limit_params: that may remain of the targeted weights.
    """
    known = _Some(study.full.decompositions, dict.fromkeys(able))

    def measure(ranks: Mapping[str, int], tokens: int | None = None) -> float:
        text = study.held_back if tokens is None else study.held_back.sample(tokens)
        try:
            factors = {name: known[name].factors(rank) for name, rank in ranks.items()}
        except DecompositionFailed:  # they overflow the dtype of the model
            return inf
        with swapped(study.model, factors):
            return evaluate(study.model, text, device=study.device).nats_per_token

    def remember(name: str, make: Callable[[], Sequence[float]]) -> Sequence[float]:
        where = f"allocation.{file_name(study.method)}.{name}"
        if where not in study.measured:
            study.measured[where] = remembered_numbers(study.full.store, where, make)
        return study.measured[where]

    progress = partial(study.progress, "allocate")
    found = AllocationInputs(known, measure, limit_params, progress, remember)
    if study.fitted is None:
        return found
    return replace(found, gated=Gated(study.model, known, study.fitted))
