"""What prompt-aware ranks are worth, and what they cost, as tables for 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.report.layout import sentence
from gacfx.routing.evaluate import Row
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE, Cell


def trained_view(report: Mapping[str, Any]) -> RenderableType:
    """What was planned, in a few lines."""
    said = report["routing"]
    kinds = ", ".join(
        f"{name} ({prompts} prompts)"
        for name, prompts in zip(said["kinds"], said["prompts"], strict=True)
    )
    counts = ", ".join(f"{count} {kind}" for kind, count in said["decisions"].items() if count)
    lines = [
        f"kinds of text: {kinds}",
        f"weights: {counts}; blocks of {said['block']} ranks, as {said['gpu']} likes them",
        f"of the targeted weights {said['active_share']:.0%} run for a prompt, and "
        f"{said['stored_share']:.0%} are stored",
        "held-back text, nats per token behind prompts: "
        + ", ".join(f"{name} {nats:.4f}" for name, nats in said["trials"].items()),
        f"taken: {said['plan']}" + ("" if said["plan"] != "static" else ", no routing pays here"),
    ]
    return Group(Text("prompt-aware ranks", style="bold"), *map(sentence, lines))


def picks_view(rows: Sequence[Row], prompt_tokens: int) -> RenderableType:
    """A row for each text: the static prefix against what the router picked."""
    dense = all(row.dense_nats is not None for row in rows)
    names = ("text", ">prompts", *([">dense"] if dense else []), ">static", ">routed")
    names = (*names, *((">KL static", ">KL routed", ">change") if dense else ()))
    table = _table(names)
    for row in rows:
        cells: list[str | Text] = [row.text, f"{row.prompts:,}"]
        if row.dense_nats is not None:
            cells.append(f"{row.dense_nats:.4f}")
        cells += [f"{row.static_nats:.4f}", f"{row.routed_nats:.4f}"]
        if row.static_kl is not None and row.routed_kl is not None:
            change = row.routed_kl / row.static_kl - 1 if row.static_kl else 0.0
            style = "green" if change < 0 else "red" if change > 0 else ""
            cells += [f"{row.static_kl:.4f}", f"{row.routed_kl:.4f}"]
            cells.append(Text(f"{change:+.1%}", style=style))
        table.add_row(*cells)
    head = f"nats per token behind prompts of {prompt_tokens} tokens"
    picked = [f"{row.text}: {_kinds(row)}" for row in rows if row.kinds]
    return Group(Text(head, style="bold"), table, Text(), *map(sentence, picked))


def cost_view(cells: Sequence[Cell], machine: str) -> RenderableType:
    """A row for each workload: milliseconds of each way, and what a new prompt pays."""
    ways = [way for way in ("dense", "static", AGGREGATED, GATHERED, WHOLE) if way in cells[0].us]
    short = {AGGREGATED: "picked", GATHERED: "gathering", WHOLE: "whole pool"}
    names = ("step", ">batch", *(f">{short.get(way, way)}" for way in ways), ">router", ">new pick")
    table = _table(names)
    for cell in cells:
        times = [f"{cell.us[way].median / 1e3:.2f}" for way in ways]
        paid = (cell.router_us, cell.install_us)
        table.add_row(
            f"{cell.mode} {cell.seq}",
            str(cell.batch),
            *times,
            *(f"{each.median / 1e3:.2f}" for each in paid),
        )
    lines = [
        "picked: gathered once when the prompt came; gathering: by every layer of every step; "
        "whole pool: all ranks, and a mask",
        *(_said(cell) for cell in cells),
    ]
    head = Text(f"milliseconds of a step on {machine}", style="bold")
    return Group(head, table, Text(), *map(sentence, lines))


def _said(cell: Cell) -> str:
    step = f"{cell.mode}, batch {cell.batch}"
    static = cell.ratio(AGGREGATED, "static")
    naive = max(cell.ratio(AGGREGATED, GATHERED), cell.ratio(AGGREGATED, WHOLE))
    said = f"{step}: {static:.2f} of the speed of static, {naive:.2f} x that of the slower way"
    if cell.mode == "prefill":
        said += f"; router and new pick are {cell.share_of_prompt:.1%} of it"
    return said


def _kinds(row: Row) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in row.kinds.items())


def _table(names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=True)
    return table
