"""What prompt-aware ranks are worth, and what they cost, as tables for 80 columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.hardware.measure.interleave import Interval
from gacfx.report.layout import Flow, listing, sentence
from gacfx.routing.evaluate import Row
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE, Cell

PLANS = {
    "static": "the same ranks for every prompt",
    "planned pools": "picked ranks planned weight by weight",
    "own ranks": "static sizes, every rank picked",
    "own ranks, half shared": "static sizes, half of the ranks picked",
    "static mask": "other ranks in their place, trained",
    "domain masks": "a trained mask for each kind of text",
    "linear router": "trained linear scores of all blocks",
}
WAYS = {
    "dense": "dense model",
    "static": "static: ranks that serve any prompt",
    AGGREGATED: "picked: gathered once, with the prompt",
    GATHERED: "  gathered in every layer and step",
    WHOLE: "  all that are stored run, and a mask",
}
ABREAST = 3
"""Workloads that stand beside each other."""


def trained_view(report: Mapping[str, Any]) -> RenderableType:
    """What was planned, what it loses against what, and which plan was taken."""
    said = report["routing"]
    kinds = ", ".join(
        f"{name} ({_some(prompts, 'prompt')})"
        for name, prompts in zip(said["kinds"], said["prompts"], strict=True)
    )
    counts = ", ".join(f"{count} {kind}" for kind, count in said["decisions"].items() if count)
    routed, block = said["decisions"].get("routed", 0), said["block"]
    picks = f"; prompts pick among the ranks of the routed ones, in blocks of {block}"
    lines = [
        f"weights: {counts}" + (picks if routed else ""),
        f"of the parameters of these weights {said['active_share']:.0%} run for a prompt, and "
        f"{said['stored_share']:.0%} are stored",
    ]
    table = _table("plan", ">loss", "", "")
    for name, nats in said["trials"].items():
        taken = "taken" if name == said["plan"] else ""
        table.add_row(name, f"{nats:.4f}", PLANS.get(name, ""), Text(taken, style="green"))
    length = _some(said["prompt_tokens"], "token")
    head = f"loss behind prompts of {length} on held-back text, nats per token"
    parts: list[RenderableType] = [
        Text("prompt-aware ranks", style="bold"),
        listing(f"kinds of text: {kinds}"),
        *map(sentence, lines),
        Text(),
        sentence(head),
        table,
    ]
    if not routed and said.get("picks") != "static":
        none = "picking does not pay here: the model has no router, and all prompts run the same"
        parts += [Text(), sentence(none)]
    return Group(*parts)


def picks_view(rows: Sequence[Row], prompt_tokens: int) -> RenderableType:
    """The static prefix against what the router picked: losses, distances, and the picks."""
    losses = _table("text", ">prompts", *_if_dense(rows, ">dense"), ">static", ">picked")
    for row in rows:
        found = (row.dense_nats, row.static_nats, row.routed_nats)
        shown = [f"{nats:.4f}" for nats in found if nats is not None]
        losses.add_row(_name(row), f"{row.prompts:,}", *shown)
    parts: list[RenderableType] = [
        Flow(
            [f"loss behind prompts of {_some(prompt_tokens, 'token')}, nats per token"],
            style="bold",
        ),
        losses,
    ]
    if _if_dense(rows, "dense"):
        parts += [Text(), Text("distance from the dense model (KL), nats per token", style="bold")]
        parts.append(_distances(rows))
    parts += [
        Text(),
        sentence(
            "static: ranks that serve any prompt, also where the router is not sure; picked: those "
            "of the kind of text that it takes the prompt for"
        ),
    ]
    picked = [Flow(_given(row), ", ") for row in rows if row.kinds]
    if picked:
        parts += [Text(), Text("what the router takes the prompts for", style="bold"), *picked]
    return Group(*parts)


def cost_view(cells: Sequence[Cell], machine: str) -> RenderableType:
    """Milliseconds of each way to run a step, and what a new prompt pays once."""
    parts: list[RenderableType] = [Flow([f"milliseconds of a step on {machine}"], style="bold")]
    for first in range(0, len(cells), ABREAST):
        parts += [_times(cells[first : first + ABREAST]), Text()]
    return Group(*parts, *(sentence(line) for cell in cells for line in _said(cell)))


def _times(cells: Sequence[Cell]) -> Table:
    table = _table("", *(f">{cell.mode}" for cell in cells))
    table.add_row("sequences x tokens", *(f"{cell.batch} x {cell.seq}" for cell in cells))
    for way, name in WAYS.items():
        if way in cells[0].us:
            table.add_row(name, *_milliseconds(cell.us[way] for cell in cells))
    table.add_row()
    table.add_row("once for a prompt")
    table.add_row("  the router", *_milliseconds(cell.router_us for cell in cells))
    table.add_row("  putting its pick in place", *_milliseconds(cell.install_us for cell in cells))
    return table


def _said(cell: Cell) -> list[str]:
    static = cell.ratio(AGGREGATED, "static")
    naive = max(cell.ratio(AGGREGATED, GATHERED), cell.ratio(AGGREGATED, WHOLE))
    said = [
        f"{cell.mode}: picked runs at {static:.2f} times the speed of static, and at {naive:.2f} "
        "times that of the slower of the two other ways to run a pick"
    ]
    if cell.mode == "prefill":
        paid = f"{cell.share_of_prompt:.1%} of the time that a prompt takes"
        said.append(f"{cell.mode}: router and pick are {paid}")
    return said


def _distances(rows: Sequence[Row]) -> Table:
    table = _table("text", ">static", ">picked", ">change")
    for row in rows:
        if row.static_kl is not None and row.routed_kl is not None:
            change = row.routed_kl / row.static_kl - 1 if row.static_kl else 0.0
            style = "green" if change < 0 else "red" if change > 0 else ""
            said = Text(f"{change:+.1%}", style=style)
            table.add_row(_name(row), f"{row.static_kl:.4f}", f"{row.routed_kl:.4f}", said)
    return table


def _given(row: Row) -> list[str]:
    first, *others = (f"{count} {kind}" for kind, count in row.kinds.items())
    return [f"{row.text}: {first}", *others]


def _if_dense(rows: Sequence[Row], name: str) -> list[str]:
    return [name] if all(row.dense_nats is not None for row in rows) else []


def _name(row: Row) -> Text:
    return Text(row.text, overflow="fold")


def _milliseconds(found: Iterable[Interval]) -> list[str]:
    return [f"{each.median / 1e3:.2f}" for each in found]


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _table(*names: str) -> Table:
    """The first column folds what is too long for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(names):
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=at > 0, overflow="fold")
    return table
