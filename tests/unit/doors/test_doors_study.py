"""A study judges value models on text that their curves did not see, and plans from all of it."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from gacfx import study as door
from gacfx.api import load_profile, read_calibration, summarise, verify
from gacfx.calibration.evaluate import evaluate, token_losses
from gacfx.calibration.text import Corpus, split
from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.values import TRIED
from gacfx.core.curve_file import Curves
from gacfx.core.own_sizes import OWN_RANKS
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.core.statistics import Statistics
from gacfx.errors import PlanError
from gacfx.evidence import Evidence
from gacfx.study import Study
from gacfx.suitable import check_tp
from gacfx.trials import best_of
from tests import tiny

PROFILE = load_profile("h200")


@cache
def corpus() -> Corpus:
    return read_calibration(tiny.texts(), tiny.llama(), tiny.tokenizer())


@cache
def study() -> Study:
    return Study.make(tiny.llama(layers=1), corpus())


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Statistics]:
    """The statistics of every planning, in order."""
    seen: list[Statistics] = []
    real = Study.curves

    def spy(self: Study, value: str, known: Evidence | None = None, **more: Any) -> Curves:
        seen.append((known or self.full).statistics)
        return real(self, value, known, **more)

    monkeypatch.setattr(Study, "curves", spy)
    return seen


def test_a_study_knows_three_quarters_of_the_text_and_all_of_it() -> None:
    part, held_back = split(corpus())
    fit, full = study().fit.statistics, study().full.statistics
    assert (fit.tokens, fit.text_digest) == (part.tokens, part.digest)
    assert (full.tokens, full.text_digest) == (corpus().tokens, corpus().digest)
    assert study().held_back.digest == held_back.digest
    assert part.tokens + held_back.tokens == corpus().tokens
    # The corpora differ, so what was found on them does.
    assert all(
        not full.moments[n].side_moment.equal(fit.moments[n].side_moment) for n in fit.moments
    )


def test_ranks_of_a_method_alone_say_where_they_come_from() -> None:
    made = study().upstream("0.3", profile=PROFILE).plan
    found = made.provenance
    assert (found.value_model, found.gpu, found.search) == ("upstream", "h200", OWN_RANKS)
    assert made.digests == study().full.statistics.digests and made.proof is None
    curves = study().curves("two-sided").curves
    for choice in made.choices:
        (weight,) = choice.weights
        assert choice.wanted == wanted_rank(weight.rows, weight.columns, "0.3")
        assert choice.loss_nats == curves[choice.group].loss(choice.decision)


def test_trials_see_the_part_and_the_plan_all_of_the_text(used: list[Statistics]) -> None:
    planned = study().plan("0.3", profile=PROFILE)
    part, _ = split(corpus())
    digests = [found.text_digest for found in used]
    # Once more where losses are measured token by token, of the same factors.
    assert digests == [part.digest] * (len(TRIED) + 1) + [corpus().digest]
    made = planned.plan.provenance
    assert (made.calibration_tokens, made.calibration_digest) == (corpus().tokens, corpus().digest)


def test_one_value_model_needs_no_trial_and_sees_all_of_the_text(used: list[Statistics]) -> None:
    study().plan("0.3", profile=PROFILE, search=Search(value="fisher"))
    assert [found.text_digest for found in used] == [corpus().digest]


def test_trials_are_judged_on_the_held_back_text(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def spy(model: Any, text: Corpus, **more: Any) -> Any:
        judged.append(text.digest)
        return token_losses(model, text, **more)

    monkeypatch.setattr(door, "token_losses", spy)
    study().plan("0.3", profile=PROFILE)
    assert judged == [study().held_back.digest] * len(TRIED)


def test_a_plan_is_verified_on_random_tokens_of_the_whole_vocabulary() -> None:
    made, seen = study().plan("0.3", profile=PROFILE, search=Search(value="fisher")), []

    def spy(_model: object, _args: object, given: dict[str, Any]) -> None:
        seen.append(given["input_ids"])

    hook = study().model.register_forward_pre_hook(spy, with_kwargs=True)
    try:
        verify(study(), made, PROFILE, Workload())
    finally:
        hook.remove()
    (ids,) = seen
    assert len(ids.unique()) > ids.numel() // 2 and int(ids.max()) > 200


@pytest.mark.parametrize("own", [True, False])
def test_losses_of_a_summary_are_those_of_the_text_that_it_names(own: bool) -> None:
    judge = read_calibration(tiny.texts(3)[::-1], tiny.llama(), tiny.tokenizer()) if own else None
    made = study().plan("0.3", profile=PROFILE, search=Search(value="fisher"))
    found = summarise(study(), {"gacfx": made}, PROFILE, Workload(), judge)
    text = judge or study().held_back
    assert text.digest != study().held_back.digest or not own
    assert found.text == ("evaluation text" if own else "calibration text")
    assert [side.nats_per_token for side in found.sides] == [
        evaluate(study().model, text).nats_per_token,
        study().measure(made, text),
    ]


def test_the_remedy_for_a_tp_that_does_not_divide_the_heads_divides_all_of_them() -> None:
    config = SimpleNamespace(num_attention_heads=32, num_key_value_heads=8)
    with pytest.raises(PlanError, match="the 32 query heads.* take one of 1, 2, 4, 8$"):
        check_tp(3, config)
    with pytest.raises(PlanError, match="the 8 key-value heads.* take one of 1, 2, 4, 8$"):
        check_tp(16, config)
    check_tp(8, config)
    check_tp(5, SimpleNamespace())  # no heads are known


def test_menus_that_lie_together_give_way_to_the_plainer_one() -> None:
    auto, ranks = Search(prune="auto"), Search()
    assert best_of([0.1004, 0.1, 0.0999], auto) == 0
    assert best_of([0.11, 0.1003, 0.1], auto) == 1
    assert best_of([0.1004, 0.1, 0.0999], ranks) == 2
    assert best_of([float("nan"), float("inf"), 0.3], auto) == 2
    assert best_of([float("nan")], ranks) == 0
