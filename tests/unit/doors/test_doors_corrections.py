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
from gacfx.core.provenance import Trial
from gacfx.core.pruning import Skip
from gacfx.core.search import Bound, Search
from gacfx.core.structures import Member, Structure
from gacfx.corrections import LEAST_RISE, MOST, NOISE, STEP, as_seen, correct, parts_of
from gacfx.errors import PlanError
from gacfx.replan import plan_from_curves
from gacfx.report.plan_view import plan_view
from gacfx.request import check_request
from gacfx.study import Study
from tests import tiny
from tests.golden.goldens import render

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


def test_a_structure_that_is_pruned_is_one_part_whatever_else_has_its_weights() -> None:
    plan = planned(0).plan
    last = next(choice for choice in plan.choices if len(choice.weights) > 1).weights[-1]
    member = Member(last.module, last.rows, last.columns)
    stray = Structure("stray", "width", 8, 1, (member,), refused="for a norm in between")
    parts = parts_of(plan, (*study().structures, stray))
    for choice in plan.choices:
        modules = {weight.module for weight in choice.weights}
        assert [part.modules >= modules for part in parts].count(True) == 1


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


def test_a_factor_has_bounds_and_a_part_that_promises_nothing_gets_the_usual_one() -> None:
    parts = parts_of(planned(0).plan, study().structures)
    saves = dict(zip((frozenset(part.modules) for part in parts), (-1, 9, 1, 0), strict=True))
    leading = {min(part.names & groups()): 1.0 for part in parts[:3]}  # promise 1 nat each
    choices = tuple(
        replace(c, loss_nats=leading.get(c.group, 0.0)) for c in planned(0).plan.choices
    )
    asked: list[dict[str, float]] = []

    def solve(known: Any) -> Planned:
        asked.append(dict(known))
        return scaled(replace(planned(0).plan, choices=choices), known)

    def measure(_made: Planned, dense: frozenset[str]) -> float:
        return 1.0 - saves.get(dense, 0)

    correct(solve, measure, study().structures, rounds=1)
    noise = NOISE / 4
    usual = (1 + noise) / (3 + noise)
    for part, factor in zip(parts, (1 / MOST, MOST, 1.0, usual), strict=True):
        (found,) = {asked[1][name] for name in part.names}
        assert found == pytest.approx(factor**STEP)


def groups() -> set[str]:
    return {choice.group for choice in planned(0).plan.choices}


def test_a_plan_that_is_worse_than_the_first_one_is_not_taken() -> None:
    plan = planned(0).plan
    other = replace(plan, choices=tuple(replace(c, decision=DENSE) for c in plan.choices))

    def measure(made: Planned, dense: frozenset[str]) -> float:
        worse = made.plan.choices[0].decision == DENSE
        return 9.0 if worse else 1.0 - any("layers.0" in module for module in dense)

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

    monkeypatch.setattr("gacfx.best_plan.correct", watched)
    search = Search(align=1, value="two-sided", prune="both", bounds=bounds, corrections=1)
    study().plan("0.5", profile=PROFILE, search=search)
    assert abs(seen["none"]) < 1e-9 < 1e-6 < seen["all"]


def watched(monkeypatch: pytest.MonkeyPatch, **asked: Any) -> tuple[Planned, Corpus]:
    """(first plan that is measured, text that it is measured on)."""
    seen: list[Any] = []

    def once(solve: Any, *_: Any) -> dict[str, float]:
        seen.append(solve({}))
        return {}

    def reference(model: nn.Module, corpus: Corpus) -> Reference:
        seen.append(corpus)
        return Reference(model, corpus)

    monkeypatch.setattr("gacfx.best_plan.correct", once)
    monkeypatch.setattr("gacfx.best_plan.Reference", reference)
    search = Search(align=1, value="two-sided", corrections=1, **asked)
    study().plan("0.3", profile=PROFILE, search=search)
    text, made = seen
    return made, text


def test_what_is_measured_is_a_plan_of_three_quarters_on_text_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, text = watched(monkeypatch, prune="both", bounds=STAYS)
    assert made.plan.loss_nats == planned(0).plan.provenance.trials[0].promised_nats
    assert text.digest == study().held_back.digest  # it is shorter than 2,048 tokens
    monkeypatch.setattr("gacfx.best_plan.TOKENS", 1)
    _, text = watched(monkeypatch)
    assert text.digest == study().held_back.sample(1).digest != study().held_back.digest


def test_parts_are_measured_before_pivots_go_into_other_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = Search(align=1, value="two-sided", form="pivot")
    plan = study().plan("0.3", profile=PROFILE, search=search).plan
    made, _ = watched(monkeypatch, form="pivot")
    kinds = [plan.counts.get("pivot-in-order", 0), made.plan.counts.get("pivot-in-order", 0)]
    assert kinds[0] > kinds[1] == 0


def test_the_trial_is_renewed_by_the_corrected_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def trials(**factors: float) -> list[Trial]:
        names = planned(0).plan.weights
        found = {n: factors.get(n.rpartition(".")[2], factors["other"]) for n in names}
        monkeypatch.setattr("gacfx.best_plan.correct", lambda *_: found)
        search = Search(align=1, corrections=1)
        made = study().plan("0.3", profile=PROFILE, search=search).plan.provenance
        return sorted(made.trials, key=lambda trial: not trial.chosen)

    plain, *rivals = trials(other=1.0)
    before = study().plan("0.3", profile=PROFILE, search=Search(align=1)).plan.provenance.trials
    promised = {plain.promised_nats, *(each.promised_nats for each in rivals)}
    assert promised < {each.promised_nats for each in before}
    doubled, *same = trials(other=2.0)
    assert plain.promised_nats and doubled.promised_nats == 2 * plain.promised_nats
    assert (doubled.nats_per_token, same) == (plain.nats_per_token, rivals)
    other, *same = trials(other=1.0, down_proj=50.0)
    assert other.nats_per_token != plain.nats_per_token and same == rivals


def test_a_corrected_plan_without_a_loss_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gacfx.best_plan.correct", lambda *_: {})
    monkeypatch.setattr(Study, "token_losses", lambda *_: torch.tensor([math.inf]))
    search = Search(align=1, value="two-sided", corrections=1)
    made = study().plan("0.3", profile=PROFILE, search=search, tried=True).plan
    assert made.provenance.trials[0].nats_per_token is None
    assert Plan.from_json(made.to_json()) == made


@pytest.mark.parametrize("found", [math.inf, -2e-9, 0.0, 5e-8])
def test_a_model_that_gives_no_numbers_or_rounding_alone_is_not_measured_on(found: float) -> None:
    calls = []

    def measure(_made: Planned, dense: frozenset[str]) -> float:
        calls.append(dense)
        return found

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


def test_the_plan_says_how_far_its_losses_were_corrected() -> None:
    factors = planned(2).plan.provenance.corrections.values()
    said = f"cost in the model: x {min(factors):.2f} .. {max(factors):.2f}"
    assert min(factors) < max(factors) and said in render(plan_view(planned(2).plan))
    assert "corrected" not in render(plan_view(planned(0).plan))


def test_a_plan_that_changes_nothing_has_no_corrections_and_can_be_made_again() -> None:
    search = Search(align=1, value="two-sided", corrections=1)
    made = study().plan("0", profile=PROFILE, search=search).plan
    assert made.provenance.corrections == {}
    again = plan_from_curves(study().curves_of(made), ratio="0", search=search)
    assert again.choices == made.choices


def test_corrections_of_corrected_curves_multiply_what_they_say() -> None:
    plain = study().curves("two-sided")
    one, two, *_ = plain.losses
    twice = plain.corrected({one: 2.0}).corrected({one: 3.0, two: 5.0})
    assert twice.facts.provenance.corrections == {one: 6.0, two: 5.0}
    assert (twice.losses[one] == plain.losses[one] * 2 * 3).all()


def test_ranks_alone_are_corrected_by_structures_too() -> None:
    model = tiny.llama(layers=1)
    alone = Study.make(model, read_calibration(tiny.texts(), model, tiny.tokenizer()))
    search = Search(align=1, corrections=1)
    made = alone.plan("0.3", profile=PROFILE, search=search).plan
    factors = made.provenance.corrections
    members = [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert len({factors[name] for name in members}) == 1
    tried = {trial.value_model for trial in made.provenance.trials}
    assert tried == {"two-sided", "per-token", "fisher"}


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


@pytest.mark.parametrize(
    ("rise", "factor"),
    [
        (0.5, 2.5),
        (0.1, 0.5),
        (0.01, LEAST_RISE),  # chance: no text is as cheap as that
        (-0.2, LEAST_RISE),
        (math.inf, 1.0),
        (math.nan, 1.0),
    ],
)
def test_a_plan_promises_the_rise_that_it_was_seen_to_bring(rise: float, factor: float) -> None:
    found = as_seen({"a": 2.0, "b": 0.5}, 0.2, rise)
    assert found == pytest.approx({"a": 2.0 * factor, "b": 0.5 * factor})
    assert as_seen({"a": 2.0}, 0.0, rise) == {"a": 2.0}


def test_the_level_of_a_plan_is_that_of_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(1).plan
    trial = next(each for each in plan.provenance.trials if each.chosen)
    assert trial.promised_nats and trial.nats_per_token is not None
    rise = trial.nats_per_token - study().dense_nats
    monkeypatch.setattr("gacfx.best_plan.as_seen", lambda corrections, *_: corrections)
    measured = planned.__wrapped__(1).plan
    factor = max(rise / trial.promised_nats, LEAST_RISE)
    assert plan.provenance.corrections == pytest.approx(
        {name: factor * each for name, each in measured.provenance.corrections.items()}
    )
    assert plan.loss_nats == pytest.approx(factor * measured.loss_nats)
    assert plan.decisions == measured.decisions
