"""Differences of two plans: nothing for equal ones, every difference for others, by name."""

import json
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gacfx.core.decision import LowRank, Pivot
from gacfx.core.plan import Choice, Plan, Weight
from gacfx.core.provenance import Trial
from gacfx.core.pruning import Width
from gacfx.core.search import Search
from gacfx.errors import PlanMismatch
from gacfx.replan import plan_from_curves
from gacfx.report.plan_diff import Change, Difference, PlanDiff, diff, diff_view
from tests.unit import made_curves, made_structures

A, B = made_curves.LOSSES


def plan(ratio: str = "0.5", **search: Any) -> Plan:
    asked = Search(**{"align": 1, "form": "pair", **search})
    return plan_from_curves(made_curves.curves(), ratio=ratio, search=asked)


def text(found: PlanDiff, width: int = 200) -> list[list[str]]:
    out = StringIO()
    Console(width=width, file=out, highlight=False, markup=False).print(diff_view(found))
    return [line.split() for line in out.getvalue().splitlines()]


def facts(rows: tuple[Difference, ...]) -> dict[str, tuple[Any, Any]]:
    return {row.what: (row.before, row.after) for row in rows}


def test_a_plan_does_not_differ_from_itself() -> None:
    found = diff(plan(), plan())
    assert not found and found.comparable
    assert (found.changes, found.totals, found.provenance) == ((), (), ())
    assert text(found) == [["the", "plans", "are", "equal"]]
    assert diff(plan(), Plan.from_json(plan().to_json())) == found


def test_what_was_measured_on_the_way_is_no_difference() -> None:
    one = plan()
    made = replace(one.provenance, trials=(Trial("fisher", 3.0, True),))
    assert one.proof is not None
    assert not diff(one, replace(one, provenance=made, proof=replace(one.proof, seconds=9.0)))


def test_every_weight_that_differs_is_listed_with_both_sides() -> None:
    found = diff(plan("0.5"), plan("0.1"))
    assert found.changes == (
        Change(A, "8 x 8", 3, "dense", 48, 64, 0.125, 0.0),
        Change(B, "8 x 8", 1, 3, 16, 48, 0.1, 0.02),
    )
    totals = facts(found.totals)
    assert totals["budget"] == (
        "ratio 0.5 of the targeted weights",
        "ratio 0.1 of the targeted weights",
    )
    assert totals["limit_params"] == (64, 115)
    assert totals["kept_params"] == (64, 112)
    assert totals["loss"] == (0.225, 0.02)
    assert (totals["low-rank"], totals["dense"]) == ((2, 1), (0, 1))
    assert found.provenance == ()


def test_another_form_of_the_same_rank_is_a_difference() -> None:
    found = diff(plan("0.5"), plan("0.5", form="auto"))
    assert found.changes == (
        Change(A, "8 x 8", 3, "pivot 4", 48, 48, 0.125, 0.0),
        Change(B, "8 x 8", 1, "pivot 1", 16, 15, 0.1, 0.1),
    )
    totals = facts(found.totals)
    assert (totals["low-rank"], totals["pivot"]) == ((2, 0), (0, 2))
    assert facts(found.provenance) == {"search.form": ("pair", "auto")}


def test_a_weight_that_does_not_differ_is_not_listed() -> None:
    one, two = plan("0.5"), plan("0.625")
    assert two.ranks == {A: 2, B: 1}
    found = diff(one, two)
    assert [change.group for change in found.changes] == [A]


def test_where_plans_come_from_is_compared_field_by_field() -> None:
    one = plan()
    made = replace(
        one.provenance,
        gpu="a100",
        versions={"gacfx": "0.2.0", "torch": "2.13"},
        calibration_digest="c" * 64,
        search=Search(align=2, tp=2, form="pair", bounds=((A, 1, None),)),  # type: ignore[arg-type]
    )
    found = facts(diff(one, replace(one, provenance=made)).provenance)
    assert found == {
        "gpu": ("h200", "a100"),
        "versions.gacfx": ("0.1.0", "0.2.0"),
        "versions.torch": (None, "2.13"),
        "calibration_digest": ("", "c" * 64),
        "search.align": (1, 2),
        "search.tp": (1, 2),
        "search.bounds": ("", f"{A}=1:"),
    }


def test_nothing_is_cut_on_80_columns() -> None:
    """What no column holds is broken: in one column the words of a cell follow each other."""
    lines = text(diff(plan("0.5"), plan("0.1")), 80)
    assert not any("…" in word for line in lines for word in line)
    assert ["limit", "params", "64", "115", "+51"] in lines


def test_losses_of_different_kinds_are_not_subtracted() -> None:
    one, two = plan("0.5"), plan("0.1")
    two = replace(two, provenance=replace(two.provenance, value_model="relative"))
    found = diff(one, two)
    assert not found.comparable and (found.unit_before, found.unit_after) == ("nats", "share")
    lines = text(found)
    assert "loss," not in lines[0]
    assert "means nothing" in " ".join(lines[-1])
    assert "loss," in text(diff(one, plan("0.1")))[0]


def test_weights_of_other_values_are_counted() -> None:
    one = plan()
    found = diff(one, replace(one, digests={**one.digests, A: "0" * 64}))
    assert found.provenance == (Difference("weights of other values", 0, 1),)


def test_a_weight_that_only_one_plan_targets_stays_as_it_is_in_the_other() -> None:
    one = plan()
    found = diff(one, replace(one, choices=one.choices[:1]))
    assert found.changes == (Change(B, "8 x 8", 1, "left alone", 16, 64, 0.1, 0.0),)
    assert diff(replace(one, choices=one.choices[:1]), one).changes == (
        Change(B, "8 x 8", "left alone", 1, 64, 16, 0.0, 0.1),
    )


def test_limits_are_compared() -> None:
    step = "limit-latency{share=9}"
    found = facts(diff(plan(), plan(limits=(step,))).totals)
    before, after = found["limit prefill latency"]
    assert before is None and 0 < after[0] <= after[1]


def test_equal_layers_fold_into_one_row() -> None:
    one = plan()
    names = [f"layers.{i}.up" for i in range(5)]
    choices = [Choice.single(name, 8, 8, LowRank(3), None, 0.125) for name in names]
    others = [replace(choice, decision=LowRank(1), loss_nats=0.5) for choice in choices[:3]]
    others += [replace(choices[3], decision=Pivot(2), loss_nats=0.25), choices[4]]
    found = diff(replace(one, choices=tuple(choices)), replace(one, choices=tuple(others)))
    assert len(found.changes) == 4
    rows = text(found)
    assert rows[0] == ["layers", "weight", "dense", "before", "after", "params", "loss,", "nats"]
    assert rows[1] == ["0-2", "up", "8", "x", "8", "3", "1", "-96", "+1.1e+00"]
    assert rows[2] == ["3", "up", "8", "x", "8", "3", "pivot", "2", "-20", "+1.2e-01"]


def test_plans_for_different_models_are_refused() -> None:
    one = plan()
    with pytest.raises(PlanMismatch, match="fingerprints differ"):
        diff(one, replace(one, fingerprint="0" * 64))
    wider = replace(one.choices[0], weights=(Weight(A, 16, 8),))
    with pytest.raises(PlanMismatch, match="8 x 8 in one plan, 16 x 8 in the other"):
        diff(one, replace(one, choices=(wider, one.choices[1])))
    other = tuple(
        Choice.single(f"x.{module}", 8, 8, LowRank(1), None, 0.5) for module in made_curves.LOSSES
    )
    with pytest.raises(PlanMismatch, match="no weight in common"):
        diff(one, replace(one, choices=other, fingerprint=""))
    assert diff(one, replace(one, fingerprint="")) == diff(one, one)  # a plan without the lock


def test_everything_is_plain_json() -> None:
    found = diff(plan(), plan("0.1", tp=2))
    raw = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert raw["changes"][0]["group"] == A and raw["comparable"] is True
    assert {row["what"] for row in raw["provenance"]} == {"align", "search.tp"}


def pruned(ratio: str, prune: Any) -> Plan:
    curves = made_structures.curves(layers=3)
    return plan_from_curves(curves, ratio=ratio, search=Search(prune=prune))


def test_structures_are_compared_with_structures_and_with_their_weights() -> None:
    one, two = pruned("0.3", "none"), pruned("0.3", "both")
    found = diff(one, two)
    rows = {change.group: change for change in found.changes}
    several = {c.group: c for c in two.choices if len(c.weights) > 1}
    assert several and several.keys() <= rows.keys()
    for name, choice in several.items():
        change = rows[name]
        own = [c for c in one.choices if c.group in choice.decisions]
        assert change.after == str(choice.decision) and str(change.before)[:5] in ("whole", "dense")
        assert change.params_before == sum(c.params for c in own)
        assert change.loss_before == pytest.approx(sum(c.loss_nats for c in own))
        assert not {c.group for c in own} & rows.keys()
    # Every parameter and every loss that moved is in one row.
    moved = sum(change.params_after - change.params_before for change in found.changes)
    assert moved == two.kept_params - one.kept_params
    lost = sum(change.loss_after - change.loss_before for change in found.changes)
    assert lost == pytest.approx(two.loss_nats - one.loss_nats)
    back = diff(two, one)
    assert {(c.group, c.before, c.after) for c in back.changes} == {
        (c.group, c.after, c.before) for c in found.changes
    }
    assert not diff(two, two) and diff(two, pruned("0.5", "only")).changes
    assert not any("…" in word for line in text(found, 80) for word in line)


def test_other_channels_of_the_same_number_are_a_difference() -> None:
    one = pruned("0.4", "only")
    at, choice = next((at, c) for at, c in enumerate(one.choices) if isinstance(c.decision, Width))
    assert isinstance(choice.decision, Width)
    kept = tuple(range(len(choice.decision.kept)))
    other = replace(choice, decision=replace(choice.decision, kept=kept))
    choices = (*one.choices[:at], other, *one.choices[at + 1 :])
    (change,) = diff(one, replace(one, choices=choices)).changes
    assert change.after == f"{change.before} (other units)"
