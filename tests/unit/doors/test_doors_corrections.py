"""Corrections: parts of a plan are measured in the model, and the next plan knows their cost."""

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gacfx.api import load_profile, plan_synthetic, read_calibration
from gacfx.calibration.divergence import Reference
from gacfx.calibration.text import Corpus
from gacfx.core.decision import DENSE
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.pruning import Skip
from gacfx.core.search import Bound, Search
from gacfx.corrections import MOST, NOISE, STEP, correct, parts_of
from gacfx.errors import PlanError
from gacfx.replan import plan_from_curves
from gacfx.request import check_request
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
STAYS = (Bound("*.mlp", 8), Bound("*.self_attn", 1))
"""A random model loses nothing without its blocks, so that they would all go."""


@cache
def study() -> Study:
    model = tiny.llama()
    return Study.make(
        model, read_calibration(tiny.texts(), model, tiny.tokenizer()), structures=True
    )


@cache
def planned(rounds: int) -> Planned:
    search = Search(align=1, value="two-sided", prune="both", bounds=STAYS, corrections=rounds)
    return study().plan("0.3", profile=PROFILE, search=search, tried=True)


class Table(nn.Module):
    """Logits of the next token by the token before it."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(logits))

    def forward(self, ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.table(ids))


def test_the_divergence_is_that_of_kullback_and_leibler() -> None:
    text = Corpus((torch.tensor([0, 1] * 20), torch.tensor([1] * 40)))
    reference = Reference(Table([[0.0, 1.0], [2.0, 0.0]]), text)
    assert reference.divergence(Table([[0.0, 1.0], [2.0, 0.0]])) == 0.0
    p, q = (torch.tensor(row, dtype=torch.float64).softmax(0) for row in ([2.0, 0.0], [1.0, 0.0]))
    one = float((p * (p / q).log()).sum())
    found = reference.divergence(Table([[0.0, 1.0], [1.0, 0.0]]))
    assert found == pytest.approx(one * 60 / 80, rel=1e-5)


def test_what_is_impossible_in_both_models_is_no_difference_and_in_one_is_all() -> None:
    text = Corpus((torch.tensor([0, 1] * 20),))
    masked = [[0.0, 1.0, -math.inf], [2.0, 0.0, -math.inf], [0.0, 0.0, 0.0]]
    reference = Reference(Table(masked), text)
    assert reference.divergence(Table(masked)) == 0.0
    masked[0] = [0.0, -math.inf, 1.0]
    assert reference.divergence(Table(masked)) == math.inf
    masked[0] = [math.nan] * 3
    assert reference.divergence(Table(masked)) == math.inf


@pytest.mark.parametrize("most", [32, 3, 1])
def test_every_weight_is_in_one_part_and_neighbours_of_a_kind_share_it(most: int) -> None:
    plan = planned(0).plan
    parts = parts_of(plan, study().structures, most)
    modules = [module for part in parts for module in part.modules]
    assert sorted(modules) == sorted(plan.weights)
    assert len(parts) <= max(most, 2)
    if most == 32:
        assert len(parts) == len(study().structures)
        for structure in study().structures:
            assert any(part.modules == set(structure.modules) for part in parts)
    else:
        assert [part.kind for part in parts] == ["self_attn", "mlp"]


def test_the_corrections_are_what_parts_cost_over_what_they_promise() -> None:
    """Attentions cost thrice what they promise, MLPs as much as that."""
    plan = planned(0).plan
    attention, *_, mlp = parts_of(plan, study().structures)
    true = {"self_attn": 3.0, "mlp": 1.0}
    asked: list[dict[str, float]] = []

    def solve(known: Any) -> Planned:
        asked.append(dict(known))
        return scaled(plan, known)

    def measure(made: Planned, dense: frozenset[str]) -> float:
        return sum(
            c.loss_nats * true["mlp" if "mlp" in c.group else "self_attn"]
            for c in plan.choices
            if not dense & {weight.module for weight in c.weights}
        )

    found = correct(solve, measure, study().structures, rounds=1)
    assert asked[0] == {} and len(asked) == 2
    whole = measure(planned(0), frozenset())
    noise = NOISE * whole / len(parts_of(plan, study().structures))
    losses = {
        part.kind: sum(c.loss_nats for c in plan.choices if c.group in part.names)
        for part in (attention, mlp)
    }
    assert min(losses.values()) > 0
    for part in (attention, mlp):
        loss, name = losses[part.kind], next(iter(part.names))
        factor = min((loss * true[part.kind] + noise) / (loss + noise), MOST)
        assert asked[1][name] == pytest.approx(factor**STEP)
    # All are raised alike until the plan promises what it cost.
    levels = {found[name] / asked[1][name] for name in asked[1]}
    assert max(levels) == pytest.approx(min(levels))
    again = solve(found).plan
    assert again.loss_nats == pytest.approx(whole)


def scaled(plan: Plan, known: Any) -> Planned:
    choices = tuple(
        replace(c, loss_nats=c.loss_nats * known.get(c.group, 1.0)) for c in plan.choices
    )
    return Planned(replace(plan, choices=choices), planned(0).factors)


def test_corrections_of_later_rounds_multiply_those_before() -> None:
    plan, asked = planned(0).plan, list[dict[str, float]]()

    def solve(known: Any) -> Planned:
        asked.append(dict(known))
        return scaled(plan, known)

    def measure(_made: Planned, dense: frozenset[str]) -> float:
        losses = (c.loss_nats for c in plan.choices if not dense & {w.module for w in c.weights})
        return 3 * sum(losses)

    correct(solve, measure, study().structures, rounds=12)
    assert len(asked) == 13
    far = [max(abs(math.log(f / 3)) for f in each.values()) for each in asked[1:]]
    assert far == sorted(far, reverse=True) and far[0] > 0.2 and far[-1] < 0.02


def test_a_plan_that_is_worse_than_the_first_one_is_not_taken() -> None:
    plan = planned(0).plan
    other = replace(plan, choices=tuple(replace(c, decision=DENSE) for c in plan.choices))

    def measure(made: Planned, dense: frozenset[str]) -> float:
        worse = made.plan.choices[0].decision == DENSE
        return 9.0 if worse else 1.0 / (1 + len(dense))

    def solve(known: Any) -> Planned:
        return scaled(other if known else plan, known)

    found = correct(solve, measure, study().structures, rounds=1)
    assert len(set(found.values())) == 1  # those of the first plan, and its level
    assert scaled(plan, found).plan.loss_nats == pytest.approx(1.0)


@pytest.mark.parametrize("bounds", [STAYS, ()], ids=["narrow", "skipped"])
def test_a_part_is_measured_dense_with_all_its_weights(
    monkeypatch: pytest.MonkeyPatch, bounds: tuple[Bound, ...]
) -> None:
    seen: dict[str, float] = {}

    def watched(solve: Any, measure: Any, *_: Any) -> dict[str, float]:
        made = solve({})
        modules = {weight.module for choice in made.plan.choices for weight in choice.weights}
        skips = [c for c in made.plan.choices if c.decision == Skip()]
        assert bool(skips) == (not bounds)
        seen["all"] = measure(made, frozenset())
        seen["none"] = measure(made, frozenset(modules))
        return {}

    monkeypatch.setattr("gacfx.study.correct", watched)
    search = Search(align=1, value="two-sided", prune="both", bounds=bounds, corrections=1)
    study().plan("0.5", profile=PROFILE, search=search)
    assert abs(seen["none"]) < 1e-9 < 1e-6 < seen["all"]


def test_a_model_that_gives_no_numbers_is_not_measured_on() -> None:
    calls = []

    def measure(_made: Planned, dense: frozenset[str]) -> float:
        calls.append(dense)
        return math.inf

    assert correct(lambda _: planned(0), measure, study().structures, rounds=3) == {}
    assert calls == [frozenset()]


def test_a_corrected_plan_promises_what_was_measured_and_its_curves_say_the_same() -> None:
    made = planned(2).plan
    assert made.provenance.corrections and not planned(0).plan.provenance.corrections
    assert Plan.from_json(made.to_json()) == made
    curves = study().curves_of(made)
    again = plan_from_curves(
        curves, goal=Goal(ratio="0.3"), gpu="h200", search=made.provenance.search
    )
    assert again.loss_nats == pytest.approx(made.loss_nats)
    plain = study().curves("two-sided", structures=True)
    name = next(iter(plain.curves))
    factor = made.provenance.corrections[name]
    assert (curves.losses[name] == plain.losses[name] * factor).all()
    structure = study().structures[0].name
    own = made.provenance.corrections[structure]
    assert (curves.losses[f"{structure}:sizes"] == plain.losses[f"{structure}:sizes"] * own).all()


def test_ranks_alone_are_corrected_by_structures_too() -> None:
    model = tiny.llama(layers=1)
    alone = Study.make(model, read_calibration(tiny.texts(), model, tiny.tokenizer()))
    search = Search(align=1, corrections=1)
    made = alone.plan("0.3", profile=PROFILE, search=search).plan
    factors = made.provenance.corrections
    members = [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert len({factors[name] for name in members}) == 1
    assert {trial.value_model for trial in made.provenance.trials} == {"two-sided", "fisher"}


def test_corrections_that_cannot_be_are_refused() -> None:
    for bad in (-1, 17, 1.0, True):
        with pytest.raises(PlanError, match=r"a whole number of rounds, 0 \.\. 16"):
            Search(corrections=bad)  # type: ignore[arg-type]
    for refused in (
        lambda: check_request("gfwsvd", "0.2", replace(Search.paper(), corrections=1)),
        lambda: study().plan("0.2", profile=PROFILE, search=Search(value="paper", corrections=1)),
    ):
        with pytest.raises(PlanError, match="measured in nats, and value model 'paper' counts"):
            refused()
    with pytest.raises(PlanError, match="these curves have none, and to measure them takes"):
        plan_synthetic("llama-3-8b", search=Search(corrections=2))
    text = planned(2).plan.to_json().replace('"corrections": {', '"corrections": {"a": 0.0,', 1)
    with pytest.raises(PlanError, match=r"provenance\.corrections: a: 0\.0 is not above 0"):
        Plan.from_json(text)
