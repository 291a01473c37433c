"""A plan as text: what changes, what stays, budget, limits and proof."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gacfx.allocation.budget import bytes_of
from gacfx.compressors.values import unit_of
from gacfx.core.own_sizes import OWN_VALUE, is_own
from gacfx.core.plan import LimitKept, Plan
from gacfx.core.provenance import Provenance, Trial
from gacfx.core.rise import rise_of, rise_text
from gacfx.core.search import RULES_OF_THUMB
from gacfx.core.shared_basis import SharedBasis
from gacfx.hardware.profile import Profile
from gacfx.report.changes import changes_of, kept_dense
from gacfx.report.layout import GAP, Column, Flow, grid, listing, sentence, width_of
from gacfx.report.numbers import signed
from gacfx.report.pruned_view import counts_text, folded
from gacfx.summary import is_aligned


@dataclass(frozen=True)
class PlanView:
    """Renders a plan for whatever width the console has."""

    plan: Plan
    profile: Profile | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from parts(self.plan, self.profile, options.max_width)


def plan_view(plan: Plan, profile: Profile | None = None) -> RenderableType:
    """The plan's head, one row for each changed weight, what stays dense, then budget and proof.

    Args:
        plan: any.
        profile: that the plan was made with; the head says so if it has vendor figures only.
    """
    return PlanView(plan, profile)


def parts(plan: Plan, profile: Profile | None, width: int) -> Iterator[RenderableType]:
    """Head, table and lines."""
    yield Flow(plan_head(plan, profile), indent=len("plan  "), style="bold")
    yield Text()
    if plan.decisions:
        yield from changes(plan, width)
        yield Text()
        yield from map(listing, dense_lines(plan))
    else:
        yield sentence("the budget holds the whole model: nothing needs to go")
    for lack, modules in lack_groups(plan).items():
        yield listing(f"not offered: {_some(modules)} ({lack})")
    for reason, modules in refusal_groups(plan).items():
        yield listing(f"left alone: {_some(modules)} ({reason})")
    for names, reason in folded(plan.unpruned):
        yield listing(f"not pruned: {names} ({reason})")
    if is_pruned(plan) and plan.decisions:
        yield sentence(f"in all: {counts_text(plan)}")
    yield sentence(budget_line(plan))
    if is_own(plan):
        yield sentence(own_line(plan, profile))
    if plan.budget.targeted_params < plan.budget.model_params / 2:
        yield sentence(targeted_line(plan))
    if latents := latents_line(plan):
        yield sentence(latents)
    yield from (sentence(limit_line(limit)) for limit in plan.limits)
    if plan.rules:
        yield Text(f"rules between weights kept: {plan.rules}")
    if plan.proof is not None:
        yield sentence(proof_line(plan))
    if plan.provenance.trials:
        yield listing(trials_line(plan))
    if plan.provenance.corrections:
        yield sentence(corrections_line(plan))
    if (rise := rise_of(plan)) is not None:
        yield sentence(rise_text(rise), style="yellow" if rise.doubtful else "")


def is_pruned(plan: Plan) -> bool:
    """It was asked what may become of coupled structures."""
    several = (choice for choice in plan.choices if len(choice.weights) > 1)
    pruned = any(not isinstance(choice.decision, SharedBasis) for choice in several)
    return plan.provenance.search.prune != "none" or pruned


def changes(plan: Plan, width: int) -> Iterator[RenderableType]:
    """One row for each weight, structure or experts of a layer that change, and below it what is
    left of its weights; a long unit of the losses stands below them all."""
    unit = loss_unit(plan)
    for heading, compact in ((f"loss, {unit}", False), ("loss", False), ("loss", True)):
        columns = change_columns(plan, heading, compact=compact)
        if width_of(columns) <= width:
            break
    rows = changes_of(plan.choices)
    below = [_rests(row.rests, columns[0].width, width) for row in rows]
    yield grid(columns, below)
    if heading == "loss":
        yield Text(f"losses in {unit}")


def change_columns(plan: Plan, loss: str, *, compact: bool) -> list[Column]:
    """The columns of the weights that are replaced; ``compact`` leaves blanks out of shapes."""
    rows = changes_of(plan.choices)
    return [
        Column("layer", [row.layer for row in rows]),
        Column("weight", [row.weight for row in rows]),
        Column("dense", [r.dense.replace(" x ", "x") if compact else r.dense for r in rows]),
        Column("wanted", [row.wanted for row in rows], right=True),
        Column("chosen", [row.chosen for row in rows], right=True),
        Column("params", [signed(row.params) for row in rows], right=True),
        Column(loss, [f"{row.loss:.1e}" for row in rows], right=True),
    ]


def _rests(text: str, back: int, width: int) -> list[str]:
    """What is left of the weights of a structure, for the lines below its row."""
    room = width - back - len(GAP)
    return Flow(text.split(", "), ", ", len("with ")).lines(room) if text else []


def loss_unit(plan: Plan) -> str:
    """What the losses of a plan are counted in."""
    return unit_of(plan.provenance.value_model)


def dense_lines(plan: Plan) -> list[str]:
    """``kept dense: mlp.gate_proj 2-4``, and on lines of their own those with a reason."""
    return [
        f"kept dense: {names}" + (f" ({reason})" if reason else "")
        for names, reason in kept_dense(plan.choices)
    ]


def plan_head(plan: Plan, profile: Profile | None = None) -> tuple[str, ...]:
    """``plan``, ``gfwsvd, value fisher``, ``ratio 0.2 of the targeted weights``, ``h200, ...``."""
    made, budget = plan.provenance, plan.budget
    removed = 1 - (budget.model_params - budget.targeted_params + plan.kept_params) / (
        budget.model_params
    )
    # Made-up losses come from no method.
    worth = "own sizes" if is_own(plan) else f"value {made.value_model}"
    losses = made.value_model if made.method == "none" else f"{made.method}, {worth}"
    vendor = profile is not None and profile.evidence == "vendor"
    gpu = f"{made.gpu} ({profile.forecast})" if profile and vendor else made.gpu
    steps = "as they fall" if is_own(plan) else f"in steps of {step_text(made)}"
    return (
        "plan",
        losses,
        f"{budget.asked} ({removed:.3f} of the model removed)",
        f"{gpu}, {'sizes' if is_pruned(plan) else 'ranks'} {steps}",
    )


def step_text(made: Provenance) -> str:
    """``8``, or ``64 (tp 2, fp8)`` where more than alignment is in it."""
    tp = f"tp {made.search.tp}" if made.search.tp > 1 else ""
    why = ", ".join(filter(None, (tp, made.search.quant)))
    return f"{made.align} ({why})" if why else str(made.align)


def own_line(plan: Plan, profile: Profile | None) -> str:
    """``own sizes of asvd, not planned: 1 of 20 changed dims aligned (5%)``."""
    made, sizes = plan.provenance, plan.sizes
    said = f"own sizes of {made.method}, not planned"
    if profile is None or not sizes:
        return said
    good = sum(is_aligned(size, made.dtype, profile) for size in sizes)
    return f"{said}: {good} of {len(sizes)} changed dims aligned ({good / len(sizes):.0%})"


def targeted_line(plan: Plan) -> str:
    """What the ratio is of, where that is the smaller part of the model."""
    share = plan.budget.targeted_params / plan.budget.model_params
    return f"only {share:.1%} of the model's parameters were there to choose from"


def latents_line(plan: Plan) -> str:
    """What a cache of latents would hold for a token, by arithmetic; empty where no decision of the
    plan has latents."""
    each = [(choice.decisions[w.module], w) for choice in plan.choices for w in choice.weights]
    whole = sum(weight.rows for _, weight in each)
    latents = sum(decision.latents(weight.rows) for decision, weight in each)
    if latents == whole:
        return ""
    size = bytes_of(plan.provenance.dtype)
    return (
        f"keys and values: {latents * size:,} bytes for each token as latents, by arithmetic, and "
        f"{whole * size:,} as they are ({latents / whole:.2f}); transformers' caches hold them as "
        "they are"
    )


def budget_line(plan: Plan) -> str:
    """``budget 500,000 of 512,000 used (97.66 %)``."""
    kept, limit = plan.kept_params, plan.budget.limit_params
    share = kept / limit if limit else 1.0
    return f"budget {kept:,} of {limit:,} parameters used ({share:.2%})"


def limit_line(limit: LimitKept) -> str:
    """``latency: 4.12 of 4.50 ms used (0.824 of dense, at most 0.900; rule-based, ...)``."""
    nanoseconds = limit.unit == "ns"
    spent, most = (
        f"{n / 1e6:,.2f}" if nanoseconds else f"{n:,}" for n in (limit.spent, limit.most)
    )
    said = []
    if limit.dense:
        shares = (limit.spent / limit.dense, limit.most / limit.dense)
        said.append("{:.3f} of dense, at most {:.3f}".format(*shares))
    said += [limit.source] if limit.source else []
    unit = "ms" if nanoseconds else limit.unit
    return " ".join(
        [f"{limit.name}: {spent} of {most}", *filter(None, [unit]), "used"]
        + ([f"({'; '.join(said)})"] if said else [])
    )


def proof_line(plan: Plan) -> str:
    """Who chose, what that claims and what the independent check proves."""
    proof = plan.proof
    assert proof is not None
    exact = proof.status == "optimal"
    claim = "proven optimal" if exact else f"within {proof.gap:.1e} of optimal"
    how = "search exhausted" if exact else "search stopped early"
    if proof.solver in RULES_OF_THUMB:
        how = "a rule of thumb, no search"
    took = "" if proof.seconds is None else f" in {proof.seconds * 1e3:.1f} ms"
    return (
        f"solver {proof.solver}: {claim} over {proof.candidates:,} candidates{took} "
        f"({how}; the multipliers alone certify a gap of {max(proof.certified_gap, 0.0):.1e})"
    )


def trials_line(plan: Plan) -> str:
    """Measured loss of everything that was tried, the dense model first."""
    made = plan.provenance
    shown = [f"dense {made.dense_nats_per_token:.4f}"] if made.dense_nats_per_token else []
    shown += [
        f"{_tried(t)} {'about ' if t.tokens else ''}{_loss(t.nats_per_token)}"
        f"{' (chosen)' if t.chosen else ''}"
        for t in made.trials
    ]
    menus = len({trial.prune for trial in made.trials}) > 1
    what = "value models and menus of pruning" if menus else "value models"
    what = "loss" if is_own(plan) else what
    return f"{what} on held-back text, nats/token: " + ", ".join(shown)


def corrections_line(plan: Plan) -> str:
    """By how much losses were corrected."""
    factors = plan.provenance.corrections.values()
    return (
        f"losses corrected by what parts of a plan cost in the model: x {min(factors):.2f} .. "
        f"{max(factors):.2f}"
    )


def _tried(trial: Trial) -> str:
    """The value model, and what might become of structures."""
    if trial.value_model == OWN_VALUE:
        return "own sizes"
    return trial.value_model if trial.prune == "none" else f"{trial.value_model}/{trial.prune}"


def _loss(nats: float | None) -> str:
    return "not finite" if nats is None else f"{nats:.4f}"


def lack_groups(plan: Plan) -> dict[str, list[str]]:
    """``pivot: why`` -> groups that were not offered this form and got another one."""
    groups: dict[str, list[str]] = {}
    for choice in plan.choices:
        for kind, why in choice.lacks.items() if not choice.reason else ():
            groups.setdefault(f"{kind}: {why}", []).append(choice.group)
    return groups


def refusal_groups(plan: Plan) -> dict[str, list[str]]:
    """Reason -> modules that were left out before planning."""
    groups: dict[str, list[str]] = {}
    for module, reason in plan.refusals.items():
        groups.setdefault(reason, []).append(module)
    return groups


def _some(modules: list[str]) -> str:
    shown = ", ".join(modules[:3])
    return shown if len(modules) <= 3 else f"{shown} and {len(modules) - 3} more"
