"""What a method would do by itself: its own allocation, irregular sizes, no planner."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from gacfx.allocation.budget import make_budget
from gacfx.calibration.evaluate import evaluate
from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs, Decomposition
from gacfx.compressors.values import TRIED
from gacfx.core.decision import DENSE, of_rank
from gacfx.core.goal import Goal
from gacfx.core.plan import Choice, Plan, Weight
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.settings import file_name
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.store import remembered_numbers
from gacfx.errors import DecompositionFailed
from gacfx.hardware.profile import Profile
from gacfx.modules.install import swapped

if TYPE_CHECKING:
    from gacfx.study import Study

UPSTREAM = Search(align=1, form="pair")
"""What a plan of a method's own ranks says of its search."""
UPSTREAM_WIDTHS = replace(Search.paper("only"), align=1, window=1)
"""The search for a method's own widths: nothing else is in the window."""


def own_plan(study: "Study", ratio: str | float, profile: Profile) -> Planned:
    """The allocation of the study's method at a ratio, by one formula.

    Args:
        study: whose statistics are taken.
        ratio: share of the targeted weights to remove.
        profile: GPU that the plan is named after.

    Raises:
        DecompositionFailed: a weight has no factors.
        InfeasibleBudget: the method by itself cannot remove so much.
    """
    if METHODS.find(study.method).prunes:
        return study.plan(ratio, profile=profile, search=UPSTREAM_WIDTHS)
    curves = study.curves(TRIED[0])
    facts, known = curves.facts, curves.curves
    budget = make_budget(facts, Goal(ratio=ratio))
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
        wanted = wanted_rank(*shape, ratio)
        if name in shared:
            choices += _group_choices(shared[name], ranks[name], wanted)
            continue
        curve = known[name]
        decision = of_rank(None if curve.failed else ranks[name])
        loss = curve.loss(decision)
        choices.append(Choice.single(name, *shape, decision, wanted, loss, curve.failed))
    made = replace(
        facts.provenance, value_model="upstream", gpu=profile.name, search=UPSTREAM, align=1
    )
    plan = Plan(
        choices=tuple(choices),
        budget=budget,
        proof=None,
        provenance=made,
        fingerprint=facts.fingerprint,
        digests=facts.digests,
        refusals=facts.refusals,
    )
    factors, failed = study.full.factors(plan, study.graph, study.structures)
    for module, reason in failed.items():
        raise DecompositionFailed(module, reason)
    return Planned(plan, factors)


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
    return AllocationInputs(known, measure, limit_params, progress, remember)
