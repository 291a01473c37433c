"""Plans from saved curves: what plans for a model, without the model.

curves = study.curves("fisher")
save_curves("curves.safetensors", curves)
plan = plan_from_curves(load_curves("curves.safetensors"), ratio="0.3", gpu="h200")
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.allocation.allocate import Case, allocate, offer, restrict
from gacfx.allocation.budget import wanted_ranks, wanted_sizes
from gacfx.allocation.offers import Offers
from gacfx.allocation.problem import make_problem
from gacfx.core.curve_file import Curves
from gacfx.core.goal import Goal, as_goal
from gacfx.core.offered import Candidates
from gacfx.core.plan import Plan
from gacfx.core.provenance import Provenance
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.sites import MatmulSite
from gacfx.errors import PipelineError, PlanError
from gacfx.graph.notes import targets
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.contracts import chosen_align
from gacfx.hardware.profile import Profile, load_profile
from gacfx.knapsack import Problem
from gacfx.passes.planning.limiting import bound_to, limiting_passes
from gacfx.passes.planning.measure_curves import PAPER
from gacfx.passes.planning.read_graph import graph_curves, target_names
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.tracing.capture import capture


def synthetic_curves(
    source: str | Path,
    *,
    skip: tuple[str, ...] = (),
    decay: float = 0.5,
    seed: int = 0,
    value: str = "",
    dtype: str | None = None,
) -> Curves:
    """Made-up curves for a configuration alone: those that ``gacfx.api.plan_synthetic`` plans with.

    Arguments are those of :func:`synthetic_graph`.
    """
    return synthetic_graph(source, skip=skip, decay=decay, seed=seed, value=value, dtype=dtype)[1]


def synthetic_graph(
    source: str | Path,
    *,
    skip: tuple[str, ...] = (),
    decay: float = 0.5,
    seed: int = 0,
    value: str = "",
    seq: int = 1024,
    dtype: str | None = None,
) -> tuple[GraphModule, Curves]:
    """The whole graph of a configuration with its sites, and made-up curves of its targets.

    Args:
        source: checkpoint folder, config.json or name.
        skip: patterns of module names to leave dense.
        decay: of the power-law spectra, above 0 and below 10.
        seed: of the drawn decays and importances, from 0 on.
        value: empty, or ``paper`` for straight lines.
        seq: tokens of a sequence for which attention calls are recorded.
        dtype: fp32, bf16 or fp16, instead of the configuration's own.

    Raises:
        PassError: a decay or seed out of its range; before any work.
    """
    step = SyntheticCurves(decay=decay, seed=seed, value=value or SyntheticCurves.value)
    step.check()
    gm = capture(source, seq=seq, dtype=dtype, one_by_one=True)
    Pipeline.parse(pipelines.SELECT).bind(skip=skip).run(gm)
    target_names(gm)
    step(gm)
    model = f"synthetic decay {decay}" + (f", {PAPER}" if value else "")
    held = next(site.dtype for _, site in targets(gm))
    made = Provenance("none", model, gpu="", align=1, dtype=held, seed=seed)
    return gm, graph_curves(gm, made)


def plan_from_curves(
    curves: Curves,
    *,
    ratio: float | str | None = None,
    goal: Goal | None = None,
    gpu: str | Profile = "h200",
    search: Search = DEFAULT_SEARCH,
) -> Plan:
    """The best plan under another goal, profile or search; no model, no text, no factors.

    Args:
        curves: of :func:`gacfx.core.curve_file.load_curves`.
        ratio: share of the targeted weights to remove; 0.2 if nothing is said here or with
            ``goal``.
        goal: the budget in other words: of the whole model, as parameters, or in bytes.
        gpu: profile whose alignment the ranks follow.
        search: which sizes, limits, and who chooses; its value model is that of the curves.

    Raises:
        PlanError: a value model that the curves do not have, or a bad goal.
        InfeasibleBudget: no plan keeps the goal and the limits.
    """
    goal, profile = as_goal(ratio, goal), load_profile(gpu)
    check_value(curves, search)
    check_structures(curves, search)
    limiters = bound_to(limiting_passes(search.limits), profile)
    return allocate(curves, goal, profile=profile, search=search, limiters=limiters)


def problem_of(
    curves: Curves, *, gpu: str | Profile = "h200", search: Search = DEFAULT_SEARCH
) -> tuple[Problem, Case]:
    """The planning problem of saved curves, and what is offered in it; its budget is that of the
    dense weights.

    Raises:
        PlanError: a value model that the curves do not have, or a window: what is in it depends on
            a budget.
    """
    profile = load_profile(gpu)
    check_value(curves, search)
    check_structures(curves, search)
    if search.candidates != "full":
        raise PlanError("a window stands around ranks of one budget; take candidates 'full'")
    align = chosen_align(search, profile, curves.facts.provenance.dtype)
    limiters = bound_to(limiting_passes(search.limits), profile)
    offers = Offers.of(search, align, curves.facts.provenance.method)
    case = offer(curves, offers, limited=bool(limiters))
    restrict(case, _sites(curves), search, limiters)
    return make_problem(case.curves, case.offered, curves.facts.targeted_params), case


def problem_again(
    curves: Curves,
    plan: Plan,
    *,
    gpu: str | Profile | None = None,
    instead: Mapping[str, Candidates] | None = None,
) -> tuple[Problem, Case]:
    """The problem that ``plan`` was found in: its candidates, budget, limits and rules.

    Args:
        curves: those that the plan was made of.
        plan: its provenance says what was searched.
        gpu: profile of its limits; the one that the plan names if None.
        instead: group -> candidates in place of those that the search offers.

    Raises:
        PlanError: a step of the search is no pass that is known here.
        ProfileError: a limit needs the profile, and the plan's is no profile that is known here.
    """
    search = plan.provenance.search
    try:
        limiters = limiting_passes(search.limits)
    except PipelineError as error:
        raise PlanError(
            f"{error}; the plan was made with {', '.join(search.limits)}: import the module "
            "that defines it first"
        ) from error
    wanted = wanted_ranks(curves.facts, plan.budget) if curves.shared else {}
    wanted |= {c.group: c.wanted for c in plan.choices if c.wanted is not None}
    if search.prune == "only":  # a structure that stays whole is no choice of the plan
        wanted = wanted_sizes(curves, plan.budget, search)
    without = {weight.module: c.lacks for c in plan.choices for weight in c.weights}
    case = offer(curves, offers_again(plan), wanted, without, limited=bool(limiters))
    if instead:
        case.offered.offer({**(case.offered.candidates or {}), **instead})
    needy = any("profile" in step.required for step in limiters)
    profile = load_profile(gpu or plan.provenance.gpu) if needy else None
    restrict(case, _sites(curves), search, bound_to(limiters, profile))
    return make_problem(case.curves, case.offered, plan.budget.limit_params), case


def offers_again(plan: Plan) -> Offers:
    """How the candidates of a plan were listed; tensor parallelism is in the plan's step already,
    and what it forbids is not offered."""
    made = plan.provenance
    return replace(Offers.of(made.search, made.align, made.method), tp=1)


def _sites(curves: Curves) -> dict[str, MatmulSite]:
    return {weight.module: weight.site for weight in curves.facts.weights}


def check_structures(curves: Curves, search: Search) -> None:
    """Raise PlanError if a search wants to prune and the curves know no structures."""
    if search.prune != "none" and not curves.facts.structures:
        raise PlanError(
            f"prune {search.prune!r}: these curves know no coupled structures; save them with "
            f"gacfx plan MODEL --calibration TEXT --prune {search.prune} --save-curves FILE"
        )


def check_value(curves: Curves, search: Search) -> None:
    """Raise PlanError if a search wants losses of another kind than the curves have, or corrections
    that were not measured for them."""
    made = curves.facts.provenance
    if search.corrections and not (made.corrections or made.search.corrections):
        raise PlanError(
            f"corrections {search.corrections}: these curves have none, and to measure them takes "
            "the model and its calibration text"
        )
    model = curves.value_model
    linear = PAPER in model
    fits = search.value == PAPER if linear else search.value in ("auto", model)
    if not fits and not (linear and search.value == "auto"):
        raise PlanError(
            f"value {search.value!r}: the curves hold {model!r}; losses of another kind need the "
            "model and its calibration text"
        )
