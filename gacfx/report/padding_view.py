"""What was padded, what it costs and what it is forecast to bring, as text."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from gacfx.padding import Padding
from gacfx.report.inspection_view import tiers_line
from gacfx.report.layout import Column, Flow, grid, listing, sentence
from gacfx.report.numbers import count, signed


def padding_view(padding: Padding) -> RenderableType:
    """One row for each size that grew, kernel tiers before and after, and what was left alone."""
    return Group(*_parts(padding))


def _parts(padding: Padding) -> Iterator[RenderableType]:
    before, after = padding.before, padding.after
    run, forecast = before.workload, before.profile.forecast
    head = (
        before.model,
        f"{before.profile.name} ({forecast})",
        f"{run.mode}, batch {run.batch}, {run.seq} tokens, {run.execution}",
    )
    yield Flow(head, style="bold")
    if padding.changes:
        yield grid(_columns(padding))
        yield Text("before  ") + tiers_line(before)
        yield Text("after   ") + tiers_line(after)
    else:
        yield sentence("nothing to pad: no size that can be padded is forecast to be faster so")
        yield tiers_line(before)
    for reason, blocks in _left(padding).items():
        yield listing(f"left alone: {', '.join(blocks)} ({reason})")
    if still := [f"{row.name} {row.layers}".rstrip() for row in after.folded() if row.tier > 1]:
        yield listing(f"below tier 1 still: {', '.join(still)}")
    added = after.params - before.params
    yield sentence(
        f"parameters {count(before.params)} -> {count(after.params)} ({added / before.params:+.1%}"
        f"{', zeros all' if added else ''}), forecast {before.latency_us / 1e3:,.3g} -> "
        f"{after.latency_us / 1e3:,.3g} ms for all sites of one step ({forecast})"
    )


def _columns(padding: Padding) -> list[Column]:
    changes = padding.changes
    return [
        Column("size", [each.what for each in changes]),
        Column("blocks", [str(len(each.blocks)) for each in changes], right=True),
        Column("change", [f"{each.fitting.old} -> {each.fitting.new}" for each in changes]),
        Column("zeros at", [each.layout or "end" for each in changes]),
        Column("params", [signed(each.params) for each in changes], right=True),
        Column(
            "us of its sites",
            [f"{each.fitting.old_us:,.1f} -> {each.fitting.new_us:,.1f}" for each in changes],
        ),
        Column("differs by", [f"{each.difference:.0e}" for each in changes], right=True),
    ]


def _left(padding: Padding) -> dict[str, list[str]]:
    """Reason -> blocks."""
    found: dict[str, list[str]] = {}
    for block, reason in padding.left.items():
        found.setdefault(reason, []).append(block)
    return found
