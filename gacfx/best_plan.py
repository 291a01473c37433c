"""The best plan of a study: one for each value model, and of those the one with the least loss.

Value models are compared with the evidence of the fitted text, on text that it has not seen; the
plan itself then uses the evidence of all text.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf, isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING

from gacfx.allocation.allocate import allocate, keeps_limits
from gacfx.calibration.divergence import Reference
from gacfx.calibration.evaluate import mean_loss
from gacfx.calibration.running import few_threads
from gacfx.compressors.methods import METHODS
from gacfx.compressors.values import VALUES
from gacfx.core.decision import DENSE
from gacfx.core.goal import Goal
from gacfx.core.planned import Planned
from gacfx.core.provenance import Trial
from gacfx.core.pruning import Sliced
from gacfx.core.search import Prune, Search
from gacfx.core.settings import file_name
from gacfx.core.store import remembered
from gacfx.corrections import TOKENS, Corrections, as_seen, check_in_nats, correct, divergence
from gacfx.coupling.feeders import feeders
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import DecompositionFailed, PlanError
from gacfx.evidence import Evidence
from gacfx.hardware.profile import Profile
from gacfx.judging import Judge, Judged
from gacfx.modules.in_order import in_order
from gacfx.on_text import losses_on_text
from gacfx.passes.planning.limiting import bound_to, limiting_passes
from gacfx.suitable import check_tp
from gacfx.trials import Case, best_of, tries_of
from gacfx.work import keep_curves, plan_digest

if TYPE_CHECKING:
    from gacfx.study import Study


def best_plan(
    study: "Study", goal: Goal, profile: Profile, search: Search, *, tried: bool
) -> Planned:
    """As :meth:`gacfx.study.Study.plan` says it."""
    check_tp(search.tp, getattr(study.model, "config", None))
    METHODS.find(study.method).offered(search)
    case = Case(goal, profile, search, search.prune != "none")
    check_in_nats(search)
    tries = _tries(study, search)
    trials: tuple[Trial, ...] = ()
    with few_threads(study.model):
        if tried or len(tries) > 1:
            trials = _trials(study, tries, case)
        chosen = next((t for t in trials if t.chosen), None)
        value, prune = (chosen.value_model, chosen.prune) if chosen else tries[0]
        case, corrections = case.pruning(prune), Corrections()
        if search.corrections:
            corrections = _corrections(study, value, case)
            if chosen:
                fitted = _solve(study, value, case, study.fit, (), corrections)
                seen = _again(study, chosen, fitted)
                trials = tuple(seen if each.chosen else each for each in trials)
                rise = (
                    inf if seen.nats_per_token is None else seen.nats_per_token - study.dense_nats
                )
                corrections = as_seen(corrections, fitted.plan.loss_nats, rise)
        made = _solve(study, value, case, study.full, trials, corrections)
        keep_curves(study.full.store, lambda: study.curves_of(made.plan))
        return made


def _tries(study: "Study", search: Search) -> tuple[tuple[str, Prune], ...]:
    """Value models and menus of pruning that are to be compared.

    Raises:
        PlanError: pruning is asked for, and the study has no statistics for it.
        PipelineError: of a value model that says nothing of it.
    """
    gathered = study.structures or not coupled_structures(study.graph)
    if search.prune != "none" and not gathered:
        raise PlanError(
            f"prune {search.prune!r}: this study gathered nothing for it; make it with "
            "Study.make(..., structures=True)"
        )
    tries = tries_of(search, study.method)
    if search.value != "auto":
        return tries
    return tuple(each for each in tries if _told(study, each[0]))


def _told(study: "Study", value: str) -> bool:
    """A value model has something to say of the study's weights."""
    return not VALUES.find(value).on_text or bool(losses_on_text(study))


def _trials(study: "Study", tries: tuple[tuple[str, Prune], ...], case: Case) -> tuple[Trial, ...]:
    """One plan for each, judged on text that its curves did not see."""
    judge, found, promised = Judge(study), list[Judged](), list[float | None]()
    values = tuple(dict.fromkeys(value for value, _ in tries))
    for number, (value, prune) in enumerate(tries):
        study.progress("plan", number, len(tries))
        # Pivots that go into other weights change no loss.
        made = _solve(study, value, case.pruning(prune), study.fit, ordered=False, others=values)
        found.append(judge.judge(made))
        promised.append(made.plan.loss_nats if VALUES.find(value).in_nats else None)
    study.progress("plan", len(tries), len(tries))
    best = best_of([each.nats_per_token for each in found], case.search)
    rows = zip(tries, found, promised, strict=True)
    return tuple(
        _trial(value, prune, one, found[best], promise) for (value, prune), one, promise in rows
    )


def _trial(value: str, prune: Prune, one: Judged, best: Judged, promised: float | None) -> Trial:
    """What became of one plan beside the chosen one."""
    nats = one.nats_per_token
    if one.out:
        nats = best.nats_per_token + mean_loss([one.sample]) - mean_loss([best.sample])
    known = isfinite(nats)
    return Trial(
        value,
        nats if known else None,
        one is best,
        promised,
        prune,
        len(one.sample) if one.out and known else None,
    )


def _corrections(study: "Study", value: str, case: Case) -> Corrections:
    """What corrects the curves, on text that they did not see."""
    reference = Reference(study.model, study.held_back.sample(TOKENS))

    def solve(known: Mapping[str, float]) -> Planned:
        # Before pivots go into other weights: then each part can be dense by itself.
        return _solve(study, value, case, study.fit, (), known, ordered=False)

    structures = study.structures or coupled_structures(study.graph)

    def measure(made: Planned, dense: frozenset[str]) -> float:
        name = f"divergence.{file_name(study.method)}.{plan_digest(made.plan, dense)}"
        compute = partial(divergence, study.model, reference, made, dense)
        return remembered(study.fit.store, name, compute)

    return correct(solve, measure, structures, case.search.corrections)


def _again(study: "Study", trial: Trial, made: Planned) -> Trial:
    """The trial, with another plan."""
    nats = Judge(study).judge(made).nats_per_token
    return replace(
        trial,
        nats_per_token=nats if isfinite(nats) else None,
        promised_nats=made.plan.loss_nats,
    )


def _solve(
    study: "Study",
    value: str,
    case: Case,
    known: Evidence,
    trials: tuple[Trial, ...] = (),
    corrections: Mapping[str, float] = MappingProxyType({}),
    *,
    ordered: bool = True,
    others: tuple[str, ...] = (),
) -> Planned:
    """The best plan under one value model, and its factors.

    A weight that cannot have the form that was chosen for it is offered the others, and the plan is
    made again. ``others`` are value models whose curves will be asked for next.
    """
    curves = study.curves(value, known, structures=case.structures, others=others)
    curves = curves.corrected(corrections)
    limiters = bound_to(limiting_passes(case.search.limits), case.profile)
    without: dict[str, dict[str, str]] = {}
    while True:
        plan = allocate(
            curves,
            case.goal,
            profile=case.profile,
            search=case.search,
            limiters=limiters,
            trials=trials,
            without=without,
        )
        factors, failed = known.factors(plan, study.graph, study.structures)
        if not failed:
            made = study.refitted(Planned(plan, factors))
            if not ordered:
                return made
            sources, before = known.decompositions, feeders(study.graph)
            moved = in_order(plan, made.factors, sources, study.model, before, known.store)
            absorbed = Planned(*moved)
            return absorbed if keeps_limits(absorbed.plan, curves, limiters) else made
        for module, reason in failed.items():
            part = plan.decisions[module]
            kind = part.rest.kind if isinstance(part, Sliced) else part.kind
            if kind == DENSE.kind:
                raise DecompositionFailed(module, reason)
            without.setdefault(module, {})[kind] = reason
