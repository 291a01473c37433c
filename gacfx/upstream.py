"""What a method would do by itself: its own allocation, irregular sizes, no planner."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gacfx.allocation.budget import make_budget
from gacfx.calibration.evaluate import evaluate
from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs
from gacfx.compressors.values import TRIED
from gacfx.core.decision import of_rank
from gacfx.core.goal import Goal
from gacfx.core.plan import Choice, Plan
from gacfx.core.planned import Planned
from gacfx.core.search import Search
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
    """

    def at_ranks(ranks: Mapping[str, int]) -> float:
        """Loss of the model with these modules at these ranks, on a quarter of the text."""
        known = study.full.decompositions
        with swapped(study.model, {name: known[name].factors(r) for name, r in ranks.items()}):
            return evaluate(study.model, study.held_back).nats_per_token

    if METHODS.find(study.method).prunes:
        return study.plan(ratio, profile=profile, search=UPSTREAM_WIDTHS)
    curves = study.curves(TRIED[0])
    facts, known = curves.facts, curves.curves
    shapes = {name: (curve.rows, curve.columns) for name, curve in known.items()}
    inputs = AllocationInputs(study.full.decompositions, at_ranks)
    ranks = METHODS.find(study.method).allocate(shapes, ratio, inputs)
    choices = []
    for name, shape in shapes.items():
        curve, wanted = known[name], wanted_rank(*shape, ratio)
        decision = of_rank(None if curve.failed else ranks[name])
        loss = curve.loss(decision)
        choices.append(Choice.single(name, *shape, decision, wanted, loss, curve.failed))
    made = replace(
        facts.provenance, value_model="upstream", gpu=profile.name, search=UPSTREAM, align=1
    )
    plan = Plan(
        choices=tuple(choices),
        budget=make_budget(facts, Goal(ratio=ratio)),
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
