"""The explanation of one weight as text."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.explain import Explanation, Moved, Other, Price, Tie
from gacfx.graph.layers import ranges, split_layer
from gacfx.report.layout import Flow, listing, sentence
from gacfx.report.numbers import count, signed
from gacfx.report.pruned_view import said

CHOSEN = "bold"
"""Style of the row of the chosen size."""

LEGEND = "all against the chosen size; in all: what the plan would lose with another one"
BELOW_0 = "below 0: worth its price, but the budget is filled with whole sizes"


def explain_view(seen: Explanation) -> RenderableType:
    """The prices, the chosen size among its neighbours, and what holds it."""
    head = (
        seen.module,
        seen.shape,
        said(seen.decision),
        f"{count(seen.params)} of {count(seen.dense_params)} parameters",
        f"loss {seen.loss_nats:.2e}",
    )
    parts: list[RenderableType] = [Flow(head, style="bold"), Text(), _prices(seen.prices), Text()]
    parts += [listing(tie_line(tie)) for tie in seen.tied]
    if seen.below or seen.above:
        parts += [_sizes(seen), Text(), Text(LEGEND)]
        if any(other.reduced_cost_nats < 0 for other in (*seen.below, *seen.above)):
            parts.append(Text(BELOW_0))
    if seen.nearest is not None:
        parts.append(sentence(dense_line(seen)))
    for hold in seen.held_by:
        gain = "" if hold.gain_nats is None else f" ({hold.gain_nats:.1e} less loss without it)"
        parts.append(sentence(f"held by {hold.by}: {hold.why}{gain}"))
    if not seen.held_by:
        parts.append(Text("held by nothing: no other size loses less"))
    parts += [sentence(f"note: {note}") for note in seen.notes]
    return Group(*parts)


def amount(price: Price, number: int, *, change: bool = False) -> str:
    """Units of a price as people say them: ``5.58 G``, ``4.50 ms``; with a sign for changes."""
    if price.unit != "ns":
        text = signed(number) if change else count(number)
        return f"{text} {price.unit}".rstrip()
    for unit, size in (("ms", 10**6), ("us", 10**3)):
        if abs(number) >= size:
            return f"{number / size:{'+' if change else ''}.2f} {unit}"
    return f"{number:{'+' if change else ''}d} ns" if number else "0"


def rate(price: Price) -> str:
    """What a handy number of units is worth: ``1.25e-04 per million``, ``3.10e-03 per ms``."""
    if price.nats_per_unit is None:
        return "not kept"
    if price.nats_per_unit == 0:
        return "does not bind"
    per = "ms" if price.unit == "ns" else f"million {price.unit}".rstrip()
    return f"{1e6 * price.nats_per_unit:.2e} per {per}"


def tie_line(tie: Tie) -> str:
    """Which weights hang on this one, equal layers folded."""
    how = {"same size": "one size with", "implication": "tied by implication to"}[tie.how]
    return f"{how} {', '.join(_folded(tie.modules))}; all are counted together"


def dense_line(seen: Explanation) -> str:
    """How far a dense weight is from being factorized."""
    assert seen.nearest is not None
    far = seen.nearest.reduced_cost_nats
    line = f"{said(seen.nearest.decision)} comes closest to paying: {far:.1e} nats short"
    if seen.pays_at is None:
        return line
    times = f", {seen.pays_at / seen.price:.3g} times today's" if seen.price > 0 else ""
    what = "a rank" if len(seen.weights) == 1 else "another size"
    return f"{line}; {what} pays from {seen.pays_at:.2e} per million parameters{times}"


def _prices(prices: Sequence[Price]) -> Table:
    table = _table("price of", ">worth", ">used", ">of", ">left")
    for price in prices:
        numbers = (price.spent, price.most, price.left)
        table.add_row(price.name, rate(price), *(amount(price, number) for number in numbers))
    return table


def _sizes(seen: Explanation) -> Table:
    """One row for each size: its loss, what it needs and what that is worth, and the sum."""
    headings = list[str]()
    for price in seen.prices:
        heading = price.name.replace(" ", "\n")  # narrow columns fit a terminal
        headings += [f">{heading}", *[">worth"] * bool(price.nats_per_unit)]
    moves = any(other.moved for other in (*seen.below, *seen.above))
    several = len(seen.weights) > 1
    size = "size" if several else ">size"
    table = _table("", size, ">loss", *headings, ">in all", *["with"] * moves)
    table.columns[1].no_wrap = not several
    far = [seen.nearest] if seen.nearest and seen.nearest not in seen.below else []
    for other in (*far, *reversed(seen.below)):
        table.add_row("", *_cells(other, seen.prices))
    table.add_row(">", said(seen.decision), style=CHOSEN)
    for other in seen.above:
        table.add_row("", *_cells(other, seen.prices))
    return table


def _cells(other: Other, prices: Sequence[Price]) -> list[str]:
    cells = [said(other.decision), _nats(other.loss_change_nats)]
    for price, need in zip(prices, other.needs, strict=True):
        cells.append(amount(price, need, change=True))
        if price.nats_per_unit:
            cells.append(_nats(price.nats_per_unit * need))
    moved = [", ".join(map(_moved, other.moved))] if other.moved else []
    return [*cells, _nats(other.reduced_cost_nats), *moved]


def _nats(number: float) -> str:
    return f"{number:+.2e}" if number else "0"


def _moved(moved: Moved) -> str:
    _, layer, name = split_layer(moved.module)
    return f"{name} {layer}".rstrip() + f": {said(moved.decision)}"


def _folded(modules: Sequence[str]) -> list[str]:
    """``mlp.up_proj 1-31``."""
    layers: dict[str, list[int]] = {}
    for module in modules:
        _, layer, name = split_layer(module)
        layers.setdefault(name, []).extend([int(layer)] if layer else [])
    return [f"{name} {ranges(found)}".rstrip() for name, found in layers.items()]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        side = "right" if heading.startswith(">") else "left"
        table.add_column(heading.removeprefix(">"), justify=side, no_wrap=True)  # type: ignore[arg-type]
    return table
