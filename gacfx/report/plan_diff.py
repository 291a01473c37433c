"""What two plans for one model do differently: values, and a table of the rows that differ."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.core.decision import DENSE
from gacfx.core.plan import Choice, Plan
from gacfx.core.pruning import Each
from gacfx.errors import PlanMismatch
from gacfx.graph.layers import ranges, split_layer
from gacfx.report.numbers import signed
from gacfx.report.plan_view import loss_unit
from gacfx.report.pruned_view import said

LEFT_ALONE = "left alone"
"""Size of a weight that only the other plan targets."""
MEASURED = ("trials",)
"""Of the provenance, what was measured on the way and says nothing of where a plan comes from."""


@dataclass(frozen=True, slots=True)
class Change:
    """One weight or structure whose size, parameters or loss differ."""

    group: str
    shape: str
    """``1024 x 4096``, or how many weights."""
    before: int | str
    """The rank of a pair, ``pivot 96``, ``width 192: dense, pivot 8``, or ``left alone``."""
    after: int | str
    params_before: int
    params_after: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that differs: of the whole plan, of its budget or of where it comes from."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """All that differs between two plans."""

    changes: tuple[Change, ...]
    """Weights in the order of the first plan; what only the second one has comes last."""
    totals: tuple[Difference, ...]
    provenance: tuple[Difference, ...]
    comparable: bool
    """The losses are of the same kind and of the same calibration."""
    unit_before: str
    unit_after: str

    def __bool__(self) -> bool:
        """Is there any difference?"""
        return bool(self.changes or self.totals or self.provenance)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def diff(before: Plan, after: Plan) -> PlanDiff:
    """What ``after`` does differently from ``before``; empty for equal plans.

    What was measured while planning (trials, seconds) is left out.

    Raises:
        PlanMismatch: the plans are for different models.
    """
    check_same_model(before, after)
    coupled = {c.group: c for plan in (before, after) for c in plan.choices if len(c.weights) > 1}
    one, two = (_by_group(plan, coupled.values()) for plan in (before, after))
    groups = [*one, *(group for group in two if group not in one)]
    made = [_change(one.get(group), two.get(group)) for group in groups]
    losses = [
        (plan.provenance.value_model, plan.provenance.calibration_digest)
        for plan in (before, after)
    ]
    kinds = tuple(dict.fromkeys((*before.counts, *after.counts)))
    return PlanDiff(
        changes=tuple(change for change in made if change is not None),
        totals=_differences(_totals(before, kinds), _totals(after, kinds)),
        provenance=_differences(_origin(before), _origin(after)) + _weights(before, after),
        comparable=losses[0] == losses[1],
        unit_before=loss_unit(before),
        unit_after=loss_unit(after),
    )


def check_same_model(before: Plan, after: Plan) -> None:
    """Nothing when both plans are for one architecture.

    Raises:
        PlanMismatch: their fingerprints differ, or the shape of a weight.
    """
    if before.fingerprint and after.fingerprint and before.fingerprint != after.fingerprint:
        raise PlanMismatch(
            "the plans are for different models (their fingerprints differ); compare plans of one "
            "model"
        )
    shapes = {module: weight.shape for module, weight in before.weights.items()}
    for module, weight in after.weights.items():
        if (there := shapes.get(module, weight.shape)) != weight.shape:
            raise PlanMismatch(
                f"{module}: {there} in one plan, {weight.shape} in the other; compare plans of one "
                "model"
            )
    if not shapes.keys() & after.weights.keys():
        raise PlanMismatch("the plans have no weight in common; compare plans of one model")


def _by_group(plan: Plan, coupled: Iterable[Choice]) -> dict[str, Choice]:
    """Group -> choice; weights that one of the plans decides together are one group in both."""
    found = {choice.group: choice for choice in plan.choices}
    for whole in coupled:
        own = [found.pop(weight.module, None) for weight in whole.weights]
        if whole.group not in found and any(own):
            parts = tuple(choice.decision if choice else DENSE for choice in own)
            loss = sum(choice.loss_nats for choice in own if choice)
            found[whole.group] = Choice(whole.group, whole.weights, Each(parts), None, loss)
    order = {weight.module: at for at, weight in enumerate(plan.weights.values())}
    return dict(
        sorted(found.items(), key=lambda item: min(order.get(w.module, 0) for w in item[1].weights))
    )


def _change(one: Choice | None, two: Choice | None) -> Change | None:
    shape = one or two
    assert shape is not None
    sides = [(_size(c), *_counts(c, shape)) for c in (one, two)]
    if sides[0] == sides[1]:
        if one is None or two is None or one.decision == two.decision:
            return None
        sides[1] = (f"{sides[1][0]} (other units)", *sides[1][1:])
    (before, params_before, loss_before), (after, params_after, loss_after) = sides
    return Change(
        shape.group,
        shape.shape,
        before,
        after,
        params_before,
        params_after,
        loss_before,
        loss_after,
    )


def _size(choice: Choice | None) -> int | str:
    if choice is None:
        return LEFT_ALONE
    return said(choice.decision) if len(choice.weights) > 1 else choice.decision.label


def _counts(choice: Choice | None, shape: Choice) -> tuple[int, float]:
    if choice is None:  # it stays as it is
        return shape.dense_params, 0.0
    return choice.params, choice.loss_nats


def _totals(plan: Plan, kinds: tuple[str, ...]) -> dict[str, Any]:
    """What a plan comes to; weights are counted for every kind that one of the plans has."""
    proof, counts = plan.proof, plan.counts
    return {
        "budget": plan.budget.asked,
        "limit_params": plan.budget.limit_params,
        "targeted_params": plan.budget.targeted_params,
        "kept_params": plan.kept_params,
        "loss": plan.loss_nats,
        **{kind: counts.get(kind, 0) for kind in kinds if kind != "dense"},
        "dense": counts["dense"],
        "left_alone": len(plan.refusals),
        "unpruned": len(plan.unpruned),
        **{f"limit {limit.name}": (limit.spent, limit.most) for limit in plan.limits},
        "rules": plan.rules,
        "status": proof.status if proof else None,
        "multiplier": proof.multiplier if proof else None,
    }


def _origin(plan: Plan) -> dict[str, Any]:
    """Provenance as one level of names: ``search.tp``, ``versions.torch``."""
    made, flat = plan.provenance, dict[str, Any]()
    for part in fields(made):
        found = getattr(made, part.name)
        if part.name in MEASURED:
            continue
        if part.name == "versions":
            flat |= {f"versions.{name}": text for name, text in sorted(found.items())}
        elif part.name == "search":
            flat |= {f"search.{f.name}": _plain(getattr(found, f.name)) for f in fields(found)}
        else:
            flat[part.name] = found
    return flat


def _plain(found: object) -> object:
    return ";".join(map(str, found)) if isinstance(found, tuple) else found


def _weights(before: Plan, after: Plan) -> tuple[Difference, ...]:
    """Weights of other values under the same names: another checkpoint or dtype."""
    both = before.digests.keys() & after.digests.keys()
    other = sorted(module for module in both if before.digests[module] != after.digests[module])
    return (Difference("weights of other values", 0, len(other)),) if other else ()


def _differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[Difference, ...]:
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        Difference(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def diff_view(found: PlanDiff, names: tuple[str, str] = ("before", "after")) -> RenderableType:
    """Rows that differ, equal layers folded, then totals and provenance."""
    if not found:
        return Text("the plans are equal")
    parts: list[RenderableType] = []
    if found.changes:
        parts += [_changes_table(found, names), Text()]
    for title, rows in (("totals", found.totals), ("made from", found.provenance)):
        if rows:
            parts += [_facts_table(title, rows, names), Text()]
    if not found.comparable:
        parts.append(
            Text(
                "losses are of different value models or calibration texts; their difference "
                "means nothing"
            )
        )
    else:
        parts.pop()
    return Group(*parts)


def _changes_table(found: PlanDiff, names: tuple[str, str]) -> Table:
    table = _table("layers", "weight", "dense", *(f">{name}" for name in names), ">params")
    for column in (1, 3, 4):  # where the terminal is narrow they break, none is cut
        table.columns[column].no_wrap, table.columns[column].overflow = False, "fold"
    if found.comparable:
        table.add_column(f"loss, {found.unit_after}", justify="right")
    for same in fold_changes(found.changes):
        _, layer, name = split_layer(same[0].group)
        moved = sum(change.params_after - change.params_before for change in same)
        cells = [
            ranges(int(split_layer(change.group)[1]) for change in same) if layer else "",
            name,
            same[0].shape,
            str(same[0].before),
            str(same[0].after),
            signed(moved),
        ]
        if found.comparable:
            cells.append(_moved(sum(c.loss_after - c.loss_before for c in same)))
        table.add_row(*cells)
    return table


def fold_changes(changes: tuple[Change, ...]) -> list[list[Change]]:
    """Changes that differ in the layer alone, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Change]] = {}
    for change in changes:
        prefix, _, name = split_layer(change.group)
        key = (prefix, name, change.shape, change.before, change.after)
        groups.setdefault(key, []).append(change)
    return list(groups.values())


def _facts_table(title: str, rows: tuple[Difference, ...], names: tuple[str, str]) -> Table:
    table = _table(title, *(f">{name}" for name in names), ">change")
    for side in table.columns[1:3]:
        side.no_wrap = False  # where the terminal is narrow the longest cells break, none is cut
    for row in rows:
        numbers = all(type(side) in (int, float) for side in (row.before, row.after))
        table.add_row(
            row.what.replace("_", " "),
            _text(row.before),
            _text(row.after),
            _moved(row.after - row.before) if numbers else "",
        )
    return table


def _text(found: object) -> str:
    if isinstance(found, bool) or not isinstance(found, int | float):
        if isinstance(found, tuple):
            return " of ".join(f"{number:,}" for number in found)
        text = "-" if found in (None, "") else str(found)
        return text if len(text) <= 40 else f"{text[:12]}..."  # a digest says enough by its head
    return f"{found:,}" if isinstance(found, int) else f"{found:.4e}"


def _moved(number: float) -> str:
    if not number:
        return "0"
    return signed(number) if isinstance(number, int) else f"{number:+.1e}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        side = "right" if heading.startswith(">") else "left"
        table.add_column(heading.removeprefix(">"), justify=side, no_wrap=True)  # type: ignore[arg-type]
    return table
