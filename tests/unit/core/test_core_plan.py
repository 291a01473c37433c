"""Plans: JSON that reads back as the same plan, and nothing else that is read."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.core.decision import DENSE, LowRank, Pivot, of_rank
from gacfx.core.plan import Budget, Choice, LimitKept, Plan, Proof
from gacfx.core.provenance import Provenance, Trial
from gacfx.core.routed import Routed
from gacfx.core.search import Bound, Search
from gacfx.errors import PlanError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 10**12)
WORDS = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" \n\t"))
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,9}(\.[A-Za-z0-9_-]{1,9}){0,4}", fullmatch=True)
TEXTS = st.dictionaries(WORDS, WORDS, max_size=3)
NAMED = st.dictionaries(NAMES, WORDS, max_size=3)


@st.composite
def choices(draw: st.DrawFn) -> tuple[Choice, ...]:
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    made = []
    for name in names:
        rows, columns = draw(st.integers(1, 10**6)), draw(st.integers(1, 10**6))
        rank = draw(st.integers(0, short := min(rows, columns)))
        pair, pool = LowRank(max(rank, 1)), Routed(3 * max(rank, 1), max(rank, 1), 0, 1)
        known = (DENSE, pair, pool, Pivot(min(max(rank, 1), short - 1)))
        decision = draw(st.sampled_from(known if short > 1 else known[:3]))
        wanted = draw(st.none() | NUMBERS)
        loss, reason = draw(NUMBERS), draw(WORDS)
        made.append(Choice.single(name, rows, columns, decision, wanted, loss, reason))
    return tuple(made)


SEARCHES = st.sampled_from(
    (
        Search(),
        Search.paper(),
        Search(align=16, tp=2, quant="2:4", bounds=(Bound("*.q", 8), Bound("*.k", 8, 16))),
        Search(uniform=True, limits=("limit-latency{share=0.9}", "other")),
    )
)
PLANS = st.builds(
    Plan,
    choices=choices(),
    budget=st.builds(
        Budget,
        *(WORDS, st.sampled_from(["targeted", "model"]), COUNTS, COUNTS, COUNTS),
        st.sampled_from(["ratio", "params", "bytes"]),
    ),
    proof=st.none()
    | st.builds(
        Proof,
        *(st.sampled_from(["optimal", "bounded"]), NUMBERS, NUMBERS, NUMBERS, NUMBERS),
        *(COUNTS, NUMBERS, NUMBERS, COUNTS, NUMBERS, WORDS),
    ),
    provenance=st.builds(
        Provenance,
        *(WORDS, WORDS, WORDS, st.integers(1, 256), WORDS, TEXTS, COUNTS),
        *(WORDS, COUNTS, st.none() | NUMBERS),
        st.lists(st.builds(Trial, WORDS, NUMBERS, st.booleans()), max_size=3).map(tuple),
        SEARCHES,
        st.dictionaries(NAMES, st.floats(1e-3, 1e3), max_size=3),
    ),
    fingerprint=WORDS,
    digests=NAMED,
    refusals=NAMED,
    limits=st.lists(
        st.builds(LimitKept, WORDS, COUNTS, COUNTS, WORDS, st.none() | COUNTS, WORDS),
        max_size=2,
    ).map(tuple),
    rules=COUNTS,
)


def a_plan() -> Plan:
    made = (
        Choice.single("model.layers.0.q_proj", 48, 32, of_rank(16), 15.4, 0.001),
        Choice.single("model.layers.0.up_proj", 88, 48, DENSE, 24.8, 0.0, "failed"),
    )
    budget = Budget("0.2", "targeted", 48 * 32 + 88 * 48, 10_000, 5504)
    return Plan(made, budget, None, Provenance("svd", "two-sided", "h200", 8, "bf16"))


def raw() -> dict[str, Any]:
    loaded = json.loads(a_plan().to_json())
    assert isinstance(loaded, dict)
    return loaded


@settings(max_examples=40)
@given(PLANS)
def test_json_gives_the_same_plan_back(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


def test_equal_plans_have_equal_text() -> None:
    assert a_plan().to_json() == Plan.from_json(a_plan().to_json()).to_json()


def test_what_a_plan_adds_up_to() -> None:
    plan = a_plan()
    assert plan.ranks == {"model.layers.0.q_proj": 16}
    assert plan.kept_params == 16 * (48 + 32) + 88 * 48
    assert plan.loss_nats == 0.001
    assert [c.dense_params for c in plan.choices] == [48 * 32, 88 * 48]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_plan_with_infinity_or_nan_is_not_written(number: float) -> None:
    plan = a_plan()
    odd = replace(plan, choices=(replace(plan.choices[0], loss_nats=number),))
    with pytest.raises(ValueError, match="JSON"):
        odd.to_json()


FIRST = ("choices", 0)
DECIDED, WEIGHT = (*FIRST, "decision"), (*FIRST, "weights", 0)


@pytest.mark.parametrize(
    ("spot", "value", "message"),
    [
        ((), {"surprise": 1}, "surprise: Unexpected keyword"),
        (FIRST, {"surprise": 1}, "choices.0.surprise: Unexpected keyword"),
        (("budget",), {"surprise": 1}, "budget.surprise: Unexpected keyword"),
        ((), {"version": 1}, "plan version 1; this gacfx reads 2 and 3"),
        ((), {"version": "1"}, "plan version '1'; this gacfx reads 2 and 3"),
        ((), {"version": True}, "plan version True; this gacfx reads 2 and 3"),
        ((), {"version": None}, "plan version None; this gacfx reads 2 and 3"),
        (DECIDED, {"rank": "16"}, "model.layers.0.q_proj: low-rank: '16' is no whole number"),
        (DECIDED, {"rank": 16.0}, "low-rank: 16.0 is no whole number"),
        (DECIDED, {"rank": True}, "low-rank: True is no whole number"),
        (DECIDED, {"rank": [16]}, "low-rank: [16] is no whole number"),
        (DECIDED, {"rank": None}, "low-rank: None is no whole number"),
        (DECIDED, {"width": 3}, "low-rank: width is no field of it"),
        (DECIDED, {"kind": "dense"}, "dense: rank is no field of it"),
        (
            DECIDED,
            {"kind": "butterfly"},
            "q_proj: no kind of decision 'butterfly'; known: dense",
        ),
        (DECIDED, {"kind": ["low-rank"]}, "no kind of decision ['low-rank']; known"),
        (FIRST, {"decision": 16}, "a decision is a table with its kind, not 16"),
        (DECIDED, {"kind": "pivot", "rank": 32}, "q_proj: pivot rank 32 is outside 1 .. 31"),
        (FIRST, {"loss_nats": None}, "choices.0.loss_nats: Input should be a valid number"),
        (FIRST, {"loss_nats": float("nan")}, "choices.0.loss_nats: Input should be a finite"),
        (FIRST, {"wanted": float("inf")}, "choices.0.wanted: Input should be a finite"),
        (("budget",), {"ratio_of": "all"}, "budget.ratio_of: Input should be 'targeted' or"),
        (("budget",), {"amount": 0.2}, "budget.amount: Input should be a valid string"),
        (("budget",), {"ratio": "0.2"}, "budget.ratio: Unexpected keyword"),
        (("budget",), {"unit": "flops"}, "budget.unit: Input should be 'ratio', 'params' or"),
        (("provenance", "search"), {"tp": 0}, "provenance.search: tp 0: must be a whole number"),
        (("provenance", "search"), {"tp": 2.0}, "search.tp: Input should be a valid integer"),
        (("provenance", "search"), {"solver": "x"}, "search.solver: Input should be 'core', 'dp'"),
        (("provenance", "search"), {"bounds": [["*.q", 9, 8]]}, "provenance.search: bound *.q=9:8"),
        ((), {"limits": [{"name": "x", "most": 1}]}, "limits.0.spent: Field required"),
        ((), {"choices": {}}, "choices: Input should be a valid"),
        ((), {"choices": None}, "choices: Input should be a valid"),
        (DECIDED, {"rank": 0}, "model.layers.0.q_proj: rank 0 is outside 1 .. 32"),
        (DECIDED, {"rank": 33}, "model.layers.0.q_proj: rank 33 is outside 1 .. 32"),
        (DECIDED, {"rank": -1}, "rank -1 is outside 1 .. 32"),
        (("provenance",), {"align": 0}, "provenance.align: 0 is no step of ranks"),
        (("provenance",), {"align": -8}, "provenance.align: -8 is no step of ranks"),
        (WEIGHT, {"rows": 0}, "rows and columns must be positive"),
        (WEIGHT, {"module": "model.layers.0.up_proj"}, "is planned twice: model.layers.0.up_proj"),
        (FIRST, {"group": "model.layers.0.up_proj"}, "model.layers.0.up_proj is planned twice"),
        (FIRST, {"weights": []}, "model.layers.0.q_proj: a group without weights"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_spot(
    spot: tuple[str | int, ...], value: dict[str, Any], message: str
) -> None:
    spoilt = raw()
    inner: Any = spoilt
    for key in spot:
        inner = inner[key]
    inner.update(value)
    with pytest.raises(PlanError) as caught:
        Plan.from_json(json.dumps(spoilt), where="here.json")
    assert str(caught.value).startswith("here.json")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", [k for k in raw() if k in ("choices", "budget", "provenance")])
def test_a_missing_field_is_named(key: str) -> None:
    spoilt = raw()
    del spoilt[key]
    with pytest.raises(PlanError, match=f"^plan.json: {key}: Field required"):
        Plan.from_json(json.dumps(spoilt))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"plan"', "\ufeff{}"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="^plan.json"):
        Plan.from_json(text)


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    with pytest.raises(PlanError):
        Plan.from_json("[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize(
    ("budget", "ratio", "asked"),
    [
        (Budget("0.2", "targeted", 100, 150, 80), "0.2", "ratio 0.2 of the targeted weights"),
        (Budget("0.2", "model", 100, 150, 70), "0.2", "ratio 0.2 of the model weights"),
        (Budget("120", "model", 100, 150, 70, "params"), "0.2000", "120 parameters of the model"),
        (Budget("1kB", "model", 100, 150, 90, "bytes"), "0.0667", "1kB of weights of the model"),
    ],
)
def test_a_budget_says_what_was_asked_for(budget: Budget, ratio: str, asked: str) -> None:
    assert (budget.ratio, budget.asked) == (ratio, asked)


@pytest.mark.parametrize("key", ["\x1b[2J", "\u202e", "y" * 10_000])
def test_an_unknown_field_is_named_without_escapes_and_at_no_length(key: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(json.dumps({**raw(), key: 1}))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_an_unknown_kind_is_refused_by_its_name_and_that_of_its_writer() -> None:
    spoilt = raw()
    spoilt["choices"][0]["decision"] = {"kind": "butterfly", "blocks": 4}
    spoilt["provenance"]["versions"] = {"gacfx": "9.1"}
    with pytest.raises(PlanError, match=r"'butterfly'.*\(the plan was written by gacfx 9\.1\)$"):
        Plan.from_json(json.dumps(spoilt))
