"""Own ranks of each kind of text, as they are served: plans that are tried, and the one taken."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from gacfx.calibration.text import Corpus
from gacfx.core.plan import Plan
from gacfx.progress import Count
from gacfx.routing.planning import Budgets, with_own_ranks
from gacfx.routing.study import RoutingStudy, static_plan
from gacfx.routing.trials import Candidate, Chosen, judged


def choose_own_ranks(
    study: RoutingStudy,
    held: Mapping[str, Corpus],
    budgets: Budgets,
    prompt_tokens: int,
) -> Chosen:
    """The plan that loses least behind held-back prompts, with factors and router of all text.

    Args:
        study: of the model and the kinds of text.
        held: kind of text -> windows that are held back.
        budgets: of the plans.
        prompt_tokens: of a prompt.

    Raises:
        PlanError, InfeasibleBudget: budgets that are none, or that no plan keeps.
        CalibrationError: no window of a kind is longer than a prompt.
    """
    plans = plans_to_try(study, budgets)

    def candidates() -> Iterator[Candidate]:
        for name, plan in plans.items():
            router = study.router(plan, fit_only=True)
            yield Candidate(name, study.planned(plan, study.fit), router)

    count = Count(study.progress, "trials", len(plans))
    trials = judged(study.model, candidates(), held, prompt_tokens, count)
    plan = plans[trials[0].name]
    return Chosen(Candidate(trials[0].name, study.planned(plan), study.router(plan)), trials)


def plans_to_try(study: RoutingStudy, budgets: Budgets) -> dict[str, Plan]:
    """Name -> plan: the static one, pools by the curves, and the static ranks with own ones."""
    removed, stored, align = budgets.removed, budgets.stored, budgets.align
    study.curves(align)  # of pairs and pools at once
    static = static_plan(study, budgets)
    planned = study.plan(removed=removed, stored=stored, block=align)
    plans = {"static": static, "planned pools": planned}
    for name, share in (("own ranks", 0.0), ("own ranks, half shared", 0.5)):
        made = with_own_ranks(static, share, align, len(study.names))
        made = replace(made, budget=planned.budget)
        if stored is None or made.kept_params <= made.budget.limit_params:
            plans[name] = made
    return plans
