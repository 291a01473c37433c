"""The explanation of one weight as text."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.explain import Explanation, Other
from gacfx.report.tables import signed


def explain_view(seen: Explanation) -> RenderableType:
    """The chosen size, its neighbours, and what holds it, one line each."""
    head = (
        f"{seen.module}  {seen.rows} x {seen.columns}  {size_text(seen.rank)}  "
        f"loss {seen.loss_nats:.3e}  {seen.params:,} parameters"
    )
    parts: list[RenderableType] = [Text(head, style="bold")]
    parts.append(Text(f"price of the budget: {seen.price:.3e} nats per million parameters"))
    if seen.smaller or seen.larger or seen.nearest:
        parts += [Text(), _table(seen), Text()]
    if seen.nearest is not None and seen.pays_at is not None:
        parts.append(Text(dense_line(seen)))
    for hold in seen.held_by:
        gain = "" if hold.gain_nats is None else f" (without it: {hold.gain_nats:.1e} nats less)"
        parts.append(Text(f"held by {hold.by}: {hold.why}{gain}"))
    if not seen.held_by:
        parts.append(Text("held by nothing: no other size loses less"))
    parts += [Text(f"note: {note}") for note in seen.notes]
    return Group(*parts)


def size_text(rank: int | None) -> str:
    """``rank 112`` or ``dense``."""
    return "dense" if rank is None else f"rank {rank}"


def dense_line(seen: Explanation) -> str:
    """How far a dense weight is from being factorized."""
    assert seen.nearest is not None and seen.pays_at is not None
    far = seen.nearest.reduced_cost_nats
    times = f", {seen.pays_at / seen.price:.3g} times today's" if seen.price > 0 else ""
    return (
        f"{size_text(seen.nearest.rank)} comes closest to paying: {far:.1e} nats short; a rank "
        f"pays from a price of {seen.pays_at:.3e}{times}"
    )


def _table(seen: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("size", "loss", "params", "per million", "plan would lose"):
        table.add_column(heading, justify="right")
    named: list[tuple[str, Other | None]] = [
        ("next smaller", seen.smaller),
        ("next larger", seen.larger),
        ("nearest to paying", seen.nearest),
    ]
    for name, other in named:
        if other is None or (other == seen.smaller and name.startswith("nearest")):
            continue
        table.add_row(
            name,
            size_text(other.rank),
            f"{other.loss_change_nats:+.2e}",
            signed(other.params_change),
            f"{other.nats_per_million_params:.2e}",
            f"{other.reduced_cost_nats:.2e}",
        )
    return table
