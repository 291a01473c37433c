"""Terminal tables: inspections, plans, coupled dims, summaries. Colour only by tier."""

from collections import Counter
from math import exp, inf

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.core.dims import Dim, Dims
from gacfx.core.notes import sites
from gacfx.core.plan import LimitKept, Plan, Provenance
from gacfx.core.rise import rise_of, rise_text
from gacfx.core.search import RULES_OF_THUMB
from gacfx.core.sites import AttentionSite
from gacfx.inspection import FORECAST, Inspection, Row, ranges, split_layer
from gacfx.summary import Summary

TIER_STYLE = {1: "green", 2: "yellow", 3: "red", 4: "bold red"}


def inspection_view(seen: Inspection) -> RenderableType:
    """One line on tiers, then one row for each site, equal layers folded."""
    table = _table("layers", "site", "M x K x N", "dtype", "tier", "why", ">us/site", "note")
    for row in seen.folded():
        table.add_row(
            row.layers,
            row.name,
            row.sizes,
            row.dtype,
            tier_text(row),
            row.reason,
            f"{row.latency_us / row.count:,.1f}",
            row.note,
        )
    run = seen.workload
    head = (
        f"{seen.model}  {count(seen.params)} parameters  {seen.profile.name} ({FORECAST})  "
        f"{run.mode}, batch {run.batch}, {run.seq} tokens, {run.execution}"
    )
    foot = f"forecast {seen.latency_us / 1e3:,.2f} ms for all sites of one step ({FORECAST})"
    return Group(Text(head, style="bold"), tiers_line(seen), Text(), table, Text(), Text(foot))


def tiers_line(seen: Inspection) -> Text:
    """``225 matmuls, 32 attentions  tier1 257 (100% flops)``."""
    attentions = sum(isinstance(site, AttentionSite) for _, site in sites(seen.graph))
    line = Text(f"{len(seen.rows) - attentions} matmuls, {attentions} attentions")
    for tier, (number, share) in seen.tiers().items():
        line.append(f"  tier{tier} {number} ({share:.0%} flops)", style=TIER_STYLE[tier])
    return line


def tier_text(row: Row) -> Text:
    """``3 align1``, in the colour of the tier."""
    return Text(f"{row.tier} {row.kernel}", style=TIER_STYLE[row.tier])


def plan_view(plan: Plan) -> RenderableType:
    """The plan's head, one row for each changed weight, what stays dense, then budget and proof."""
    parts: list[RenderableType] = [Text(plan_head(plan), style="bold"), Text()]
    if plan.ranks:
        parts += [changes_table(plan), Text(), *map(Text, dense_lines(plan))]
    else:
        parts.append(Text("the budget holds the whole model: nothing needs to go"))
    for reason, modules in refusal_groups(plan).items():
        parts.append(Text(f"left alone: {_some(modules)} ({reason})"))
    parts.append(Text(budget_line(plan)))
    parts += [Text(limit_line(limit)) for limit in plan.limits]
    if plan.rules:
        parts.append(Text(f"rules between weights kept: {plan.rules}"))
    if plan.proof is not None:
        parts.append(Text(proof_line(plan)))
    if plan.provenance.trials:
        parts.append(Text(trials_line(plan)))
    if (rise := rise_of(plan)) is not None:
        parts.append(Text(rise_text(rise), style="yellow" if rise.doubtful else ""))
    return Group(*parts)


def changes_table(plan: Plan) -> Table:
    """One row for each weight that gets a rank."""
    loss = f">loss, {loss_unit(plan)}"
    table = _table("layer", "weight", "dense", ">wanted", ">rank", ">params", loss)
    for choice in plan.choices:
        if choice.rank is None:
            continue
        _, layer, name = split_layer(choice.module)
        table.add_row(
            layer,
            name,
            f"{choice.rows} x {choice.columns}",
            "-" if choice.wanted is None else f"{choice.wanted:.1f}",
            str(choice.rank),
            signed(choice.params - choice.dense_params),
            f"{choice.loss_nats:.1e}",
        )
    return table


def loss_unit(plan: Plan) -> str:
    """What the losses of a plan are counted in."""
    model = plan.provenance.value_model
    if "paper" in model:
        return "importance x params"
    return "share" if model == "relative" else "nats"


def dense_lines(plan: Plan) -> list[str]:
    """``kept dense: mlp.gate_proj 2-4``, and on lines of their own those with a reason."""
    groups: dict[str, dict[str, list[int]]] = {}
    for choice in plan.choices:
        if choice.rank is None:
            _, layer, name = split_layer(choice.module)
            numbers = [int(layer)] if layer else []
            groups.setdefault(choice.reason, {}).setdefault(name, []).extend(numbers)
    return [
        "kept dense: "
        + ", ".join(f"{name} {ranges(layers)}".rstrip() for name, layers in names.items())
        + (f" ({reason})" if reason else "")
        for reason, names in groups.items()
    ]


def plan_head(plan: Plan) -> str:
    """``plan  gfwsvd, value fisher  ratio 0.2 of the targeted weights  h200, ...``."""
    made, budget = plan.provenance, plan.budget
    removed = 1 - (budget.model_params - budget.targeted_params + plan.kept_params) / (
        budget.model_params
    )
    # Made-up losses come from no method.
    losses = (
        made.value_model if made.method == "none" else f"{made.method}, value {made.value_model}"
    )
    return (
        f"plan  {losses}  {budget.asked} "
        f"({removed:.3f} of the model removed)  {made.gpu}, ranks in steps of {step_text(made)}"
    )


def step_text(made: Provenance) -> str:
    """``8``, or ``64 (tp 2, fp8)`` where more than alignment is in it."""
    tp = f"tp {made.search.tp}" if made.search.tp > 1 else ""
    why = ", ".join(filter(None, (tp, made.search.quant)))
    return f"{made.align} ({why})" if why else str(made.align)


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
    return (
        f"solver {proof.solver}: {claim} over {proof.candidates:,} candidates in "
        f"{proof.seconds * 1e3:.1f} ms ({how}; the multipliers alone certify "
        f"a gap of {max(proof.certified_gap, 0.0):.1e})"
    )


def trials_line(plan: Plan) -> str:
    """Measured loss of every value model that was tried, the dense model first."""
    made = plan.provenance
    shown = [f"dense {made.dense_nats_per_token:.4f}"] if made.dense_nats_per_token else []
    shown += [
        f"{t.value_model} {_loss(t.nats_per_token)}{' (chosen)' if t.chosen else ''}"
        for t in made.trials
    ]
    return "value models on held-back text, nats/token: " + ", ".join(shown)


def _loss(nats: float | None) -> str:
    return "not finite" if nats is None else f"{nats:.4f}"


def refusal_groups(plan: Plan) -> dict[str, list[str]]:
    """Reason -> modules that were left out before planning."""
    groups: dict[str, list[str]] = {}
    for module, reason in plan.refusals.items():
        groups.setdefault(reason, []).append(module)
    return groups


def summary_view(summary: Summary) -> RenderableType:
    """Dense, upstream and gacfx as columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for side in summary.sides:
        table.add_column(side.name, justify="right")
    sides, whole = summary.sides, summary.sides[0].targeted_params
    tiers = sorted({t for s in sides for t in s.tiers})
    rows = [
        ("parameters", [f"{s.params:,}" for s in sides]),
        ("targeted parameters", [f"{s.targeted_params:,}" for s in sides]),
        (
            "removed of the targeted",
            [_removed(s.targeted_params, whole) for s in sides],
        ),
        ("changed dims aligned", [_aligned(s.aligned_dims, s.changed_dims) for s in sides]),
        *((f"flops in tier {t}", [f"{s.tiers.get(t, 0.0):.1%}" for s in sides]) for t in tiers),
        (f"nats/token, {summary.text}", [f"{s.nats_per_token:.4f}" for s in sides]),
        (f"perplexity, {summary.text}", [f"{_exp(s.nats_per_token):.3f}" for s in sides]),
        (f"forecast, us ({summary.forecast})", [f"{s.forecast_us:,.1f}" for s in sides]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    head = Text(f"{summary.gpu}  {summary.workload}", style="bold")
    return Group(head, table)


def dims_view(dims: Dims) -> RenderableType:
    """Free and frozen dims, those of equal size and role folded."""
    table = _table(">dims", ">size", "shows in", "frozen because")
    for (size, where, frozen), names in fold_dims(dims).items():
        table.add_row(str(len(names)), str(size), where, frozen)
    notes = [Text(f"not followed: {note}") for note in dims.notes]
    groups = len(dims.groups())
    head = Text(
        f"{len(dims.dims)} dims in {groups} groups, {len(dims.free())} of them free", style="bold"
    )
    return Group(head, table, *notes)


def fold_dims(dims: Dims) -> dict[tuple[int, str, str], list[str]]:
    """(size, where it shows without layer numbers, why frozen) -> names of the dims."""
    folded: dict[tuple[int, str, str], list[str]] = {}
    for dim in dims.dims:
        folded.setdefault((dim.size, _where(dim), dim.frozen), []).append(dim.name)
    return folded


def _where(dim: Dim) -> str:
    seen: Counter[str] = Counter()
    for use in dim.uses:
        _, _, short = split_layer(use.weight.removesuffix(".weight"))
        seen[f"{short}[{use.axis}]"] += 1
    shown = [name if n == 1 else f"{n} {name}" for name, n in seen.items()]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def count(number: int) -> str:
    """``8.03 G``, ``1.25 M``, ``64``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def signed(number: int) -> str:
    """``-7.7 M``, ``0``."""
    return "0" if number == 0 else f"{'-' if number < 0 else '+'}{count(abs(number))}"


def _removed(kept: int, dense: int) -> str:
    return f"{1 - kept / dense:.2%}" if dense else "-"


def _aligned(good: int, changed: int) -> str:
    return f"{good} of {changed} ({good / changed:.0%})" if changed else "-"


def _exp(nats: float) -> float:
    return exp(nats) if nats < 700 else inf


def _some(modules: list[str]) -> str:
    shown = ", ".join(modules[:3])
    return shown if len(modules) <= 3 else f"{shown} and {len(modules) - 3} more"


def _table(*headings: str) -> Table:
    """A plain table; ``>`` before a heading aligns its column to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        name = heading.removeprefix(">")
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=name not in ("why", "note", "shows in"),
        )
    return table
