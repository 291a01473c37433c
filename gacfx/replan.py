"""Plans from saved curves: the same passes that plan for a model, without the model.

curves = curves_of(study.graph, study.plan("0.2", profile=h200).plan)
save_curves("curves.safetensors", curves)
plan = plan_from_curves(load_curves("curves.safetensors"), ratio="0.3", gpu="h200")

The passes want a graph, so they get one that holds nothing but the targeted weights, without
values. Budgets, alignment, formats, limits, rules and refusals then mean exactly what they mean for
the model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from gacfx import pipelines
from gacfx.core.curve_file import Curves, Facts, Weight
from gacfx.core.goal import Goal, as_goal
from gacfx.core.plan import Plan, Provenance
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.errors import PipelineError, PlanError
from gacfx.graph.edit import set_parameter
from gacfx.graph.gacpass import GacPass
from gacfx.graph.notes import annotate, state, targets
from gacfx.graph.ops import DTYPES
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.contracts import chosen_align, rank_step
from gacfx.hardware.profile import Profile
from gacfx.inspection import capture, load_profile
from gacfx.knapsack import Problem
from gacfx.passes.planning.budget import (
    make_budget,
    target_names,
    targeted_params,
    wanted_ranks,
)
from gacfx.passes.planning.measure_curves import PAPER
from gacfx.passes.planning.solve import make_problem, refused_sites
from gacfx.passes.planning.sweep_candidates import Sizes
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from gacfx.study import check_request, run_planning


def curves_of(gm: GraphModule, plan: Plan) -> Curves:
    """The curves that ``plan`` was just made of, with its provenance and its locks.

    Args:
        gm: the graph that was planned for; it holds the curves of the last planning.
        plan: the result.

    Raises:
        PlanError: the graph holds other curves, or none.
    """
    known = state(gm).curves or {}
    for choice in plan.choices:
        curve = known.get(choice.module)
        loss = None
        if curve is not None:
            loss = 0.0 if choice.rank is None else float(curve.loss_nats[choice.rank])
        if loss != choice.loss_nats:
            raise PlanError(
                f"{choice.module}: the graph does not hold the curve that the plan was made of; "
                "ask for the curves right after planning"
            )
    found = graph_curves(gm, plan.provenance)
    locked = replace(found.facts, fingerprint=plan.fingerprint, digests=plan.digests)
    return Curves(locked, found.losses)


def graph_curves(gm: GraphModule, provenance: Provenance) -> Curves:
    """The curves that a graph holds right now, without locks.

    Raises:
        PlanError: it holds none.
    """
    known = state(gm).curves or {}
    weights, own = [], set()
    for _, site in targets(gm):
        if site.name not in known:
            raise PlanError(f"{site.name}: has no curve yet; run measure-curves first")
        curve = known[site.name]
        own.add(site.weight)
        weights.append(
            Weight(
                module=site.name,
                rows=curve.rows,
                columns=curve.columns,
                value_model=curve.value_model,
                m=site.m,
                count=site.count,
                bias=site.bias,
                layout=site.layout,
                dtype=site.dtype,
                failed=curve.failed,
            )
        )
    others = Counter[str]()
    for name, parameter in gm.named_parameters():
        if name not in own:
            others[_dtype_name(parameter.dtype)] += parameter.numel()
    facts = Facts(
        weights=tuple(weights),
        targeted_params=targeted_params(gm),
        model_params=sum(p.numel() for p in gm.parameters()),
        others=dict(sorted(others.items())),
        provenance=provenance,
        refusals=refused_sites(gm),
    )
    return Curves(facts, {m: curve.loss_nats for m, curve in known.items() if not curve.failed})


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
    gm = capture(source, seq=seq, dtype=dtype)
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
    check_request("svd", goal, limits=search.limits)
    gm, facts = bare_graph(curves), curves.facts
    align = chosen_align(search, profile, facts.provenance.dtype)
    budget = make_budget(gm, goal)
    # Trials were measured with the plan that the curves come from, so they are not this plan's.
    provenance = replace(
        facts.provenance,
        gpu=profile.name,
        align=rank_step(align, search),
        search=search,
        trials=(),
    )
    plan = run_planning(
        gm,
        _steps(search, align),
        budget=budget,
        provenance=provenance,
        wanted=wanted_ranks(gm, budget),
        profile=profile,
    )
    return replace(
        plan, fingerprint=facts.fingerprint, digests=facts.digests, refusals=facts.refusals
    )


def problem_of(
    curves: Curves, *, gpu: str | Profile = "h200", search: Search = DEFAULT_SEARCH
) -> Problem:
    """The planning problem of saved curves; its budget is that of the dense weights.

    Raises:
        PlanError: a value model that the curves do not have, or a window: what is in it depends on
            a budget.
    """
    profile = load_profile(gpu)
    check_value(curves, search)
    if search.candidates != "full":
        raise PlanError("a window stands around ranks of one budget; take candidates 'full'")
    gm = bare_graph(curves)
    align = chosen_align(search, profile, curves.facts.provenance.dtype)
    _run(Pipeline.parse(_steps(search, align)).passes[:-1], gm, profile)
    return make_problem(gm, make_budget(gm, Goal(ratio=0)))


def problem_again(
    curves: Curves,
    plan: Plan,
    *,
    gpu: str | Profile | None = None,
    instead: Mapping[str, Sizes] | None = None,
) -> Problem:
    """The problem that ``plan`` was found in: its candidates, budget, limits and rules.

    Args:
        curves: those that the plan was made of.
        plan: its provenance says what was searched.
        gpu: profile of its limits; the one that the plan names if None.
        instead: module -> sizes offered in place of those that the search offers.

    Raises:
        PlanError: a step of the search is no pass that is known here.
        ProfileError: a limit needs the profile, and the plan's is no profile that is known here.
    """
    made = plan.provenance
    # Tensor parallelism is in the plan's step already.
    text = _steps(replace(made.search, tp=1), made.align)
    try:
        sweep, *others = Pipeline.parse(text).passes[:-1]
    except PipelineError as error:
        raise PlanError(
            f"{error}; the plan was made with {', '.join(made.search.limits)}: import the module "
            "that defines it first"
        ) from error
    gm = bare_graph(curves)
    wanted = {c.module: c.wanted for c in plan.choices if c.wanted is not None}
    replace(sweep, wanted=wanted)(gm)  # type: ignore[call-arg]
    if instead:
        state(gm).offer({**(state(gm).candidates or {}), **instead})
    _run(others, gm, gpu or made.gpu)
    return make_problem(gm, plan.budget)


def _run(steps: Sequence[GacPass], gm: GraphModule, gpu: str | Profile) -> None:
    """Run passes; the profile is looked up for those that need one."""
    for step in steps:
        given = {"profile": load_profile(gpu)} if "profile" in step.required else {}
        replace(step, **given)(gm)


def check_value(curves: Curves, search: Search) -> None:
    """Raise PlanError if a search wants losses of another kind than the curves have."""
    model = curves.value_model
    linear = PAPER in model
    fits = search.value == PAPER if linear else search.value in ("auto", model)
    if not fits and not (linear and search.value == "auto"):
        raise PlanError(
            f"value {search.value!r}: the curves hold {model!r}; losses of another kind need the "
            "model and its calibration text"
        )


def bare_graph(curves: Curves) -> GraphModule:
    """A graph of the targeted weights alone, on the meta device, with their notes and curves.

    Its products share one stand-in for a weight: planning reads notes and counts parameters.

    Raises:
        PlanError: a dtype that torch does not have.
    """
    facts = curves.facts
    gm = symbolic_trace(_Products(len(facts.weights)))
    nodes = [node for node in gm.graph.nodes if node.op == "call_function"]
    for node, weight in zip(nodes, facts.weights, strict=True):
        annotate(node, site=weight.site, targeted=True)
        shape = (weight.rows, weight.columns)
        set_parameter(gm, f"{weight.module}.weight", _meta(shape, weight.dtype))
    for dtype, params in facts.others.items():
        set_parameter(gm, f"{_OTHERS}.{dtype}", _meta((params,), dtype))
    state(gm).curves = curves.curves
    return gm


_OTHERS = "gacfx_others"
"""Module of the parameters outside the targeted weights, one for each dtype."""


class _Products(nn.Module):
    """``count`` products of the same two inputs."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor, weight: Tensor) -> list[Tensor]:
        """All products."""
        return [torch.ops.aten.linear.default(x, weight) for _ in range(self.count)]


def _steps(search: Search, align: int) -> str:
    """The planning pipeline, from the candidates on: curves are there already."""
    return pipelines.planning(search, "", align).removeprefix(",")


def _meta(shape: tuple[int, ...], dtype: str) -> Tensor:
    known = {name: found for found, name in DTYPES.items()}
    found = known.get(dtype) or getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise PlanError(f"no dtype {dtype!r}; the curves come from another version of torch")
    return torch.empty(shape, dtype=found, device="meta")


def _dtype_name(dtype: torch.dtype) -> str:
    return DTYPES.get(dtype) or str(dtype).removeprefix("torch.")
