"""Explanations of plans with limits and rules, on the two hand-made weights.

Sizes cost 16, 32, 48 and 64 (dense) parameters. Losses of a: 0.5, 0.25, 0.125, 0; of b: 0.1, 0.05,
0.02, 0. The limit counts the rank of a pair, and 2 for a dense weight. The price of a parameter is
1/128 nats, so 16 of them are worth 0.125; a unit of the limit is worth 1/16.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gacfx.core.decision import DENSE, Decision, LowRank
from gacfx.core.offered import Offered
from gacfx.core.plan import Plan
from gacfx.core.search import Search
from gacfx.core.sites import MatmulSite
from gacfx.errors import PlanError, PlanMismatch, ProfileError
from gacfx.explain import Explanation, Moved, Other, Tie, explain
from gacfx.explain.bundle import Bundle
from gacfx.graph.gacpass import PASSES, register
from gacfx.graph.limiting import LimitingPass
from gacfx.knapsack import Group, Problem
from gacfx.knapsack.limits import Implies, Label, Limit, SameLabel
from gacfx.replan import plan_from_curves
from gacfx.report.explain_view import explain_view
from tests.unit import made_curves

A, B = made_curves.LOSSES
NAMES = ("count-ranks", "follow", "tie-both")


@dataclass(frozen=True)
class CountRanks(LimitingPass):
    """Ranks may sum to ``most``; a dense weight counts 2."""

    name = "count-ranks"
    most: int = 5

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        known = offered.candidates or {}
        costs = {m: np.array([each.rank or 2 for each in found]) for m, found in known.items()}
        offered.limit(Limit("ranks", self.most, costs))


@dataclass(frozen=True)
class Follow(LimitingPass):
    """If a has a rank, then b has rank 3."""

    name = "follow"

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        offered.rule(Implies(A, (1, 2, 3), B, (3,)))


@dataclass(frozen=True)
class TieBoth(LimitingPass):
    """a and b take one size."""

    name = "tie-both"

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        offered.rule(SameLabel((A, B)))


@pytest.fixture(autouse=True)
def passes() -> Iterator[None]:
    register(CountRanks)
    register(Follow)
    register(TieBoth)
    yield
    for name in NAMES:
        PASSES.pop(name, None)


def plan(*limits: str, ratio: str = "0.5", **search: Any) -> Plan:
    made = plan_from_curves(
        made_curves.curves(),
        ratio=ratio,
        search=Search(align=1, form="pair", limits=limits, **search),
    )
    assert made.proof is not None
    kept = tuple(replace(limit, multiplier=1 / 16) for limit in made.limits)
    return replace(made, proof=replace(made.proof, multiplier=1 / 128), limits=kept)


def seen(module: str, *limits: str, **options: Any) -> Explanation:
    return explain(plan(*limits, **options), made_curves.curves(), module)


def text(found: Explanation) -> str:
    out = StringIO()
    Console(width=200, file=out, highlight=False, markup=False).print(explain_view(found))
    return out.getvalue()


def test_the_price_of_a_limit_is_in_the_plan() -> None:
    made = plan_from_curves(
        made_curves.curves(),
        ratio="0.4",
        search=Search(align=1, form="pair", limits=("count-ranks{most=3}",)),
    )
    # Without the limit a would take rank 3 and b rank 1, which count 4.
    assert [limit.multiplier for limit in made.limits] != [0.0]
    assert made.limits[0].multiplier is not None and made.limits[0].multiplier > 0
    assert Plan.from_json(made.to_json()) == made


def test_a_plan_from_before_prices_were_kept_can_be_read_and_says_so() -> None:
    made = plan("count-ranks{most=4}")
    old = made.to_json().replace(',\n   "multiplier": 0.0625', "")
    assert "0.0625" not in old
    found = explain(Plan.from_json(old), made_curves.curves(), A)
    assert found.prices[1].nats_per_unit is None
    assert found.larger == Other(DENSE, -0.125, 16, 0.0, (-1,))
    assert "does not hold the price of its limit 'ranks'" in found.notes[0]
    assert "not kept" in text(found)


def test_a_limit_counts_at_its_price() -> None:
    # Budget 64: a of rank 3 and b of rank 1; ranks 3 + 1 of 4 are used.
    found = seen(A, "count-ranks{most=4}")
    assert (found.decision.rank, [price.left for price in found.prices]) == (3, [0, 0])
    assert found.smaller == Other(LowRank(2), 0.125, -16, 0.0 - 1 / 16, (-1,))
    assert found.larger == Other(DENSE, -0.125, 16, 0.0 - 1 / 16, (-1,))
    other = seen(B, "count-ranks{most=4}")
    assert other.larger is not None
    assert other.larger.reduced_cost_nats == pytest.approx(-0.05 + 0.125 + 1 / 16)


def test_budget_and_limit_both_hold_where_both_are_used_up() -> None:
    found = seen(B, "count-ranks{most=4}")
    holds = {hold.by: hold for hold in found.held_by}
    assert set(holds) == {"budget", "limit ranks"}
    assert holds["budget"].why == "the next size that loses less needs 16 parameters, 0 are left"
    assert holds["limit ranks"].why == "the next size that loses less needs 1 units, 0 are left"
    # Free parameters: dense wins 0.1 and needs a unit; a free limit does not pay the parameters.
    assert holds["budget"].gain_nats == pytest.approx(0.1 - 1 / 16)
    assert holds["limit ranks"].gain_nats == 0.0


def test_a_limit_with_room_does_not_hold() -> None:
    found = seen(B, "count-ranks{most=5}")
    assert [hold.by for hold in found.held_by] == ["budget"]
    loose = replace(plan("count-ranks{most=5}"), limits=())
    with pytest.raises(PlanMismatch, match=r"gives ranks: 4 of 5, 0 rules here, .* keeps 0 rules"):
        explain(loose, made_curves.curves(), B)


def test_sizes_that_each_pass_something_else_are_held_by_all() -> None:
    # a has rank 2 and b rank 1: 48 of 64 parameters, 3 of 3 units. For a, rank 3 fits the
    # parameters and needs a unit; dense needs no unit, and 16 parameters too many.
    found = seen(A, "count-ranks{most=3}")
    assert (found.decision.rank, [price.left for price in found.prices]) == (2, [16, 0])
    assert [(hold.by, hold.why) for hold in found.held_by] == [
        ("budget and limit ranks", "every size that loses less passes one of them")
    ]
    assert [hold.by for hold in seen(B, "count-ranks{most=3}").held_by] == ["limit ranks"]


def test_tied_weights_are_compared_together() -> None:
    found = seen(A, "tie-both")
    assert (found.decision.rank, found.tied) == (2, (Tie("same size", (B,)),))
    # a and b together: 0.25 + 0.05 now, 0.5 + 0.1 with rank 1, 0.125 + 0.02 with rank 3.
    assert found.smaller is not None and found.larger is not None
    assert found.smaller.loss_change_nats == pytest.approx(0.3)
    assert found.smaller.params_change == -32
    assert found.larger.loss_change_nats == pytest.approx(-0.155)
    assert found.larger.reduced_cost_nats == pytest.approx(-0.155 + 0.25)
    holds = {hold.by: hold for hold in found.held_by}
    assert set(holds) == {"budget"}
    assert "needs 32 parameters, 0 are left" in holds["budget"].why
    # b alone would take rank 1, which loses 0.05 more and saves 0.125.
    other = {hold.by: hold for hold in seen(B, "tie-both").held_by}
    assert "it would take rank 1" in other["rules"].why
    assert other["rules"].gain_nats == pytest.approx(0.075)
    assert "one size with b 0; all are counted together" in text(found)


def test_what_an_implication_takes_along_is_shown() -> None:
    # Budget 102: a is dense and b has rank 2; a of rank 3 would take b to rank 3.
    found = seen(A, "follow", ratio="0.2")
    assert found.tied == (Tie("implication", (B,)),)
    assert found.decision.rank is None and found.smaller is not None
    assert (found.smaller.decision.rank, found.smaller.params_change) == (3, -16 + 16)
    assert found.smaller.moved == (Moved(B, LowRank(3)),)
    assert found.smaller.loss_change_nats == pytest.approx(0.125 + 0.02 - 0.05)
    assert found.smaller.reduced_cost_nats == pytest.approx(0.095)
    assert "b 0: rank 3" in text(found) and "tied by implication to b 0" in text(found)
    assert found.pays_at is None and "a rank pays from" not in text(found)


def test_a_pass_that_is_not_imported_is_named() -> None:
    made = plan("count-ranks{most=5}")
    PASSES.pop("count-ranks")
    with pytest.raises(PlanError, match=r"no pass 'count-ranks'.* import the module that defines"):
        explain(made, made_curves.curves(), A)


def test_a_limit_of_another_profile_is_refused() -> None:
    made = plan("limit-latency{share=9}")
    explain(made, made_curves.curves(), A)
    with pytest.raises(PlanMismatch, match=r"latency: .* name the profile .*--gpu"):
        explain(made, made_curves.curves(), A, gpu="a100")
    elsewhere = replace(made, provenance=replace(made.provenance, gpu="mine"))
    with pytest.raises(ProfileError, match="no profile 'mine'"):
        explain(elsewhere, made_curves.curves(), A)
    assert explain(elsewhere, made_curves.curves(), A, gpu="h200").prices[1].unit == "ns"


def test_times_are_shown_as_people_say_them() -> None:
    said = text(seen(A, "limit-latency{share=9}"))
    assert "per ms" in said and " us" in said


# -- bundles against enumeration -----------------------------------------------------------------

LABELS: tuple[Label, ...] = (1, 2, 3, "dense")
MEANING: dict[Label, Decision] = {1: LowRank(1), 2: LowRank(2), 3: LowRank(3), "dense": DENSE}
numbers = st.lists(st.integers(0, 9), min_size=4, max_size=4)
some = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3, unique=True).map(tuple)
rules = st.one_of(
    st.builds(Implies, st.sampled_from("abc"), some, st.sampled_from("abc"), some),
    st.lists(st.sampled_from("abc"), min_size=2, max_size=2, unique=True).map(
        lambda names: SameLabel(tuple(names))
    ),
)


def keeps(taken: dict[str, Label], rule: Implies | SameLabel) -> bool:
    if isinstance(rule, SameLabel):
        return len({taken[name] for name in rule.groups}) == 1
    return taken[rule.group] not in rule.labels or taken[rule.then_group] in rule.then_labels


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=3, max_size=3), st.lists(rules))
def test_a_bundle_finds_the_best_that_rules_allow(
    tables: list[tuple[list[int], list[int], list[int]]], ties: list[Implies | SameLabel]
) -> None:
    named = dict(zip("abc", tables, strict=True))
    groups = tuple(
        Group(name, np.array(costs), -np.array(losses, float), LABELS)
        for name, (costs, losses, _) in named.items()
    )
    limit = Limit("l", 99, {name: np.array(extra) for name, (_, _, extra) in named.items()})
    prices = (0.5, 0.25)
    worth = {
        (name, label): -losses[i] - prices[0] * costs[i] - prices[1] * extra[i]
        for name, (costs, losses, extra) in named.items()
        for i, label in enumerate(LABELS)
    }
    plans = [dict(zip("abc", labels, strict=True)) for labels in product(LABELS, repeat=3)]
    legal = [taken for taken in plans if all(keeps(taken, rule) for rule in ties)]
    if not legal:
        return
    chosen = legal[0]
    problem = Problem(groups, 99, (limit,), tuple(ties))
    bundle = Bundle.make(problem, "a", chosen, prices, dict.fromkeys("abc", MEANING))
    tied = {name for tie in bundle.ties for name in tie.modules} | {"a"}
    best: dict[Label, float] = {}
    for taken in legal:
        if all(taken[name] == chosen[name] for name in "abc" if name not in tied):
            total = sum(worth[name, taken[name]] for name in tied)
            best[taken["a"]] = max(best.get(taken["a"], total), total)
    now = sum(worth[name, chosen[name]] for name in tied)
    del best[chosen["a"]]
    assert set(bundle.others) == {MEANING[label] for label in best}
    for label, total in best.items():
        other = bundle.others[MEANING[label]]
        needs = sum(price * need for price, need in zip(prices, other.needs, strict=True))
        assert other.reduced_cost_nats == now - total == other.loss_change_nats + needs
