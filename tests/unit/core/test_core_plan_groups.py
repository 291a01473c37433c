"""Plans of groups: weights that are decided together, and plans of the version before them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.plan import Budget, Choice, Plan, Weight
from gacfx.core.provenance import Provenance
from gacfx.core.search import Search
from gacfx.errors import PlanError
from tests.unit.core import toy_kinds
from tests.unit.core.toy_kinds import Experts

GROUP = tuple(Weight(f"layers.0.experts.{i}", 8 + i, 6) for i in range(3))


@pytest.fixture(autouse=True)
def experts() -> Iterator[None]:
    with toy_kinds.known():
        yield


def grouped(ranks: tuple[int, ...] = (2, 0, 3)) -> Plan:
    """Three experts in one group, and a weight by itself."""
    choices = (
        Choice("layers.0.experts", GROUP, Experts(ranks), None, 0.5, "together"),
        Choice.single("layers.0.a", 8, 8, Pivot(4), 3.5, 0.25),
    )
    budget = Budget("0.2", "targeted", 48 + 54 + 60 + 64, 1000, 200)
    return Plan(choices, budget, None, Provenance("svd", "fisher", "h200", 1, "bf16"))


def raw(plan: Plan) -> Any:
    return json.loads(plan.to_json())


def test_a_group_comes_back_as_it_was() -> None:
    plan = grouped()
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.to_json() == plan.to_json()
    assert raw(plan)["choices"][0]["decision"] == {"kind": "toy-experts", "ranks": [2, 0, 3]}


def test_every_weight_of_a_group_has_its_part() -> None:
    plan = grouped()
    group, single = plan.choices
    assert group.decisions == {
        "layers.0.experts.0": LowRank(2),
        "layers.0.experts.1": DENSE,
        "layers.0.experts.2": LowRank(3),
    }
    # 2 (8 + 6), 9 x 6 dense, 3 (10 + 6).
    assert (group.params, group.dense_params, group.shape) == (28 + 54 + 48, 162, "3 weights")
    assert (single.params, single.dense_params, single.shape) == (4 * 12, 64, "8 x 8")
    assert (group.module, single.module) == ("layers.0.experts", "layers.0.a")
    assert plan.kept_params == 28 + 54 + 48 + 48
    assert plan.loss_nats == 0.75


def test_a_plan_speaks_of_weights_not_of_groups() -> None:
    plan = grouped()
    assert list(plan.weights) == [*(weight.module for weight in GROUP), "layers.0.a"]
    assert plan.decisions == {
        "layers.0.experts.0": LowRank(2),
        "layers.0.experts.2": LowRank(3),
        "layers.0.a": Pivot(4),
    }
    assert plan.ranks == {"layers.0.experts.0": 2, "layers.0.experts.2": 3, "layers.0.a": 4}
    assert plan.counts == {"low-rank": 2, "pivot": 1, "dense": 1}
    assert plan.sizes == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("spot", "value", "message"),
    [
        ((0, "weights", 1, "module"), "layers.0.experts.0", "experts: lists a weight twice: layer"),
        (
            (1, "weights", 0, "module"),
            "layers.0.experts.2",
            "a: is planned twice: layers.0.experts",
        ),
        ((1, "group"), "layers.0.experts", "layers.0.experts is planned twice"),
        ((0, "weights"), [], "layers.0.experts: a group without weights"),
        ((0, "weights", 2, "rows"), 0, "layers.0.experts.2: rows and columns must be positive"),
        ((0, "decision", "ranks", 2), 7, "layers.0.experts.2: rank 7 is outside 1 .. 6"),
        (
            (0, "decision", "ranks", 0),
            True,
            "layers.0.experts: toy-experts: True is no whole number",
        ),
        ((0, "decision", "kind"), "lost", "layers.0.experts: no kind of decision 'lost'"),
        ((0, "decision"), None, "layers.0.experts: a decision is a table with its kind"),
        ((1, "decision", "rank"), 8, "layers.0.a: pivot rank 8 is outside 1 .. 7"),
        ((1, "decision", "rank"), "4", "layers.0.a: pivot: '4' is no whole number"),
        ((1, "decision"), {"kind": "pivot"}, "layers.0.a: pivot: rank is missing"),
        ((1, "group"), "a b", "'a b' is no name of a module"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(
    spot: tuple[str | int, ...], value: object, message: str
) -> None:
    broken = raw(grouped())
    place = broken["choices"]
    for step in spot[:-1]:
        place = place[step]
    place[spot[-1]] = value
    with pytest.raises(PlanError, match=f"^plan.json: .*{message}") as caught:
        Plan.from_json(json.dumps(broken))
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_says_who_wrote_the_plan() -> None:
    plan = grouped()
    made = replace(plan.provenance, versions={"gacfx": "9.1.0"})
    broken = raw(replace(plan, provenance=made))
    broken["choices"][1]["decision"]["kind"] = "butterfly"
    with pytest.raises(PlanError, match=r"'butterfly'.*\(the plan was written by gacfx 9\.1\.0\)$"):
        Plan.from_json(json.dumps(broken))


def test_a_part_that_no_weight_has_is_not_read_past() -> None:
    """A decision whose parts do not fit the names of its group is no plan of anything."""
    with pytest.raises((PlanError, IndexError)):
        Plan.from_json(grouped((2, 0)).to_json())


# -- version 2 -----------------------------------------------------------------------------------


def old(**changes: Any) -> dict[str, Any]:
    """A plan as version 2 wrote it: a choice for each weight, its rank or null."""
    made = raw(replace(grouped(), choices=()))
    del made["provenance"]["search"]["form"]
    choices = [
        {
            "module": "layers.0.a",
            "rows": 8,
            "columns": 6,
            "rank": 2,
            "wanted": 2.5,
            "loss_nats": 0.5,
        },
        {"module": "layers.0.b", "rows": 8, "columns": 6, "rank": None, "wanted": None}
        | {"loss_nats": 0.0},
    ]
    choices = [{**choice, "reason": ""} for choice in choices]
    choices[0] |= changes
    return {**made, "choices": choices, "version": 2}


def test_a_plan_of_version_2_is_read_as_pairs() -> None:
    plan = Plan.from_json(json.dumps(old()))
    assert plan.choices == (
        Choice.single("layers.0.a", 8, 6, LowRank(2), 2.5, 0.5),
        Choice.single("layers.0.b", 8, 6, DENSE, None, 0.0),
    )
    assert (plan.version, plan.provenance.search) == (3, Search(form="pair"))
    assert plan.kept_params == 2 * 14 + 48
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 7}, "layers.0.a: rank 7 is outside 1 .. 6"),
        ({"rank": 0}, "layers.0.a: rank 0 is outside 1 .. 6"),
        ({"rank": True}, "layers.0.a: low-rank: True is no whole number"),
        ({"rank": "2"}, "layers.0.a: low-rank: '2' is no whole number"),
        ({"rank": 2.0}, "layers.0.a: low-rank: 2.0 is no whole number"),
        ({"module": "layers.0.b"}, "layers.0.b is planned twice"),
        ({"rows": "8"}, "choices.0.weights.0.rows"),
        ({"decision": {"kind": "pivot", "rank": 2}}, "choices.0.group"),
        ({"colour": "blue"}, "choices.0.colour"),
    ],
    ids=str,
)
def test_what_version_2_could_not_say_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=f"^plan.json: .*{message}") as caught:
        Plan.from_json(json.dumps(old(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["rank", "rows", "columns", "module", "loss_nats"])
def test_a_field_that_version_2_had_is_missed(field: str) -> None:
    broken = old()
    del broken["choices"][0][field]
    with pytest.raises(PlanError, match="^plan.json: choices.0"):
        Plan.from_json(json.dumps(broken))


@pytest.mark.parametrize("version", [1, 4, 0, -3, True, "3", None, 2.0, [3]])
def test_other_versions_are_refused(version: object) -> None:
    broken = {**raw(grouped()), "version": version}
    with pytest.raises(PlanError, match="^plan.json: plan version .*; this gacfx reads 2 and 3$"):
        Plan.from_json(json.dumps(broken))


def test_a_choice_of_each_version_is_none_of_the_other() -> None:
    for version, made in ((3, old()), (2, raw(grouped()))):
        with pytest.raises(PlanError, match="^plan.json: "):
            Plan.from_json(json.dumps({**made, "version": version, "choices": "x"}))
    with pytest.raises(PlanError, match="^plan.json: choices.0"):
        Plan.from_json(json.dumps({**old(), "version": 3}))
