"""What can be pruned as text: one row for each kind of block, equal layers folded.

layers  block      units           weights                            params
0-31    self_attn  8 kv x 4 heads  q_proj, k_proj, v_proj -> o_proj   1.34 G
0-31    mlp        14336 channels  gate_proj, up_proj -> down_proj    5.64 G
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gacfx.core.structures import Structure
from gacfx.graph.layers import ranges, split_layer
from gacfx.report.layout import GAP, Column, Flow, grid, listing, width_of
from gacfx.report.numbers import count


@dataclass(frozen=True)
class Group:
    """Structures that differ in nothing but the layer."""

    name: str
    """Of the block, without what stands before the layer number."""
    layers: str
    units: str
    weights: str
    params: int
    """Of all of them."""
    number: int
    refused: str
    keeps_block: str


@dataclass(frozen=True)
class GroupsView:
    """Renders structures for whatever width the console has."""

    model: str
    params: int
    structures: tuple[Structure, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from parts(self, options.max_width)


def groups_view(model: str, params: int, structures: tuple[Structure, ...]) -> RenderableType:
    """What can be pruned and how much that is, then what cannot and why.

    Args:
        model: its name.
        params: of the whole model.
        structures: all of them, in graph order.
    """
    return GroupsView(model, params, structures)


def parts(view: GroupsView, width: int) -> Iterator[RenderableType]:
    """Head, table of what can be pruned, blocks that stay, table of what is refused."""
    groups = fold(view.structures)
    free = [group for group in groups if not group.refused]
    refused = [group for group in groups if group.refused]
    able = sum(group.params for group in free)
    share = able / view.params if view.params else 0.0
    number = sum(group.number for group in free)
    head = (
        view.model,
        f"{count(view.params)} parameters",
        f"{count(able)} ({share:.0%}) in {number} structures that can be pruned",
    )
    yield Flow(head, style="bold")
    if free:
        yield Text()
        yield table(free, [""] * len(free), width)
    kept_for = _by_reason(free)
    if kept_for:
        yield Text()
    for reason, kept in kept_for.items():
        yield listing(f"cannot be taken out whole: {', '.join(kept)} ({reason})")
    if refused:
        yield Text()
        yield Text("cannot be pruned", style="bold")
        yield table(refused, [group.refused for group in refused], width)


def table(groups: Sequence[Group], reasons: Sequence[str], width: int) -> Text:
    """One row for each group; weights and reasons stand below it where no column fits."""
    why = Column("why", reasons)
    weights = Column("weights", [group.weights for group in groups])
    lead = [
        Column("layers", [group.layers for group in groups]),
        Column("block", [group.name for group in groups]),
        Column("units", [group.units for group in groups]),
    ]
    size = Column("params", [count(group.params) for group in groups], right=True)
    last = [why] if any(reasons) else []
    if width_of([*lead, weights, size, *last]) <= width:
        return grid([*lead, weights, size, *last])
    below: list[list[str]] = [[] for _ in groups]
    room = max(width - width_of(lead[:1]) - len(GAP), 1)
    apart = not last or width_of([*lead, weights, size]) > width
    for lines, group, reason in zip(below, groups, reasons, strict=True):
        lines += Flow(group.weights.split(" "), " ", 2).lines(room) if apart else []
        lines += Flow(reason.split(" "), " ", 2).lines(room) if reason else []
    return grid([*lead, size] if apart else [*lead, weights, size], below)


def fold(structures: Iterable[Structure]) -> tuple[Group, ...]:
    """Structures that differ in nothing but the layer become one, in order of first appearance.

    Names lose what stands before the layer number, unless there are several stacks of layers.
    """
    same: dict[tuple[object, ...], list[Structure]] = {}
    prefixes = set()
    for each in structures:
        prefix, layer, rest = split_layer(each.name)
        prefixes |= {prefix} if layer else set()
        key = prefix, rest, units_text(each), weights_text(each), each.refused, each.keeps_block
        same.setdefault(key, []).append(each)
    return tuple(_group(each, len(prefixes) > 1) for each in same.values())


def _group(same: list[Structure], full: bool) -> Group:
    one = same[0]
    prefix, layer, rest = split_layer(one.name)
    return Group(
        name=f"{prefix}.*.{rest}" if layer and full else rest,
        layers=ranges(int(split_layer(each.name)[1]) for each in same) if layer else "",
        units=units_text(one),
        weights=weights_text(one),
        params=sum(each.dense_params for each in same),
        number=len(same),
        refused=one.refused,
        keeps_block=one.keeps_block,
    )


def units_text(structure: Structure) -> str:
    """``14336 channels``, ``12 heads``, or ``8 kv x 4 heads``."""
    if structure.kind == "width":
        return f"{structure.units} channels"
    if structure.heads == 1:
        return f"{structure.units} heads"
    return f"{structure.units} kv x {structure.heads} heads"


def weights_text(structure: Structure) -> str:
    """``gate_proj, up_proj -> down_proj``, without what all their names begin with."""
    names = [module.split(".") for module in structure.modules]
    common = 0
    while all(len(name) > common + 1 and name[common] == names[0][common] for name in names):
        common += 1
    short = [".".join(name[common:]) for name in names]
    members = list(zip(short, structure.members, strict=True))
    opens = ", ".join(name for name, member in members if not member.closes)
    return f"{opens} -> {', '.join(name for name, member in members if member.closes)}".strip()


def _by_reason(groups: Iterable[Group]) -> dict[str, list[str]]:
    """Why a block cannot be taken out -> blocks with their layers."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.keeps_block:
            found.setdefault(group.keeps_block, []).append(f"{group.name} {group.layers}".strip())
    return found
