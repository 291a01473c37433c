"""Plans are judged with their routers at work, and the model is as it was afterwards."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.applying import apply_
from gacfx.calibration.text import Corpus, split
from gacfx.core.plan import Plan
from gacfx.core.routed import Routed
from gacfx.errors import CalibrationError, GacError
from gacfx.modules.routing_hooks import attach_, pick_for, picked, router_of
from gacfx.routing import trials
from gacfx.routing.own_ranks import plans_to_try
from gacfx.routing.planning import Budgets, with_own_ranks
from gacfx.routing.study import RoutingStudy
from gacfx.routing.trials import Candidate, Trial, check_long
from tests import two_kinds
from tests.two_kinds import PROMPT

BLOCK = 4
KINDS = ("low", "num")


def held_of(*corpora: Corpus) -> list[Corpus]:
    return [split(corpus)[1] for corpus in corpora]


@cache
def corpora() -> tuple[Corpus, ...]:
    """Windows of two lengths."""
    made = [(two_kinds.corpus(kind), two_kinds.corpus(kind, 8, 1, 70)) for kind in KINDS]
    return tuple(Corpus((*long.documents, *short.documents)) for long, short in made)


@cache
def study() -> RoutingStudy:
    texts = dict(zip(KINDS, corpora(), strict=True))
    return RoutingStudy.make(two_kinds.model(), texts, prompt_tokens=PROMPT)


@cache
def plans() -> dict[str, Plan]:
    return plans_to_try(study(), Budgets("0.4", None, BLOCK, BLOCK))


def judged(
    made: RoutingStudy, tried: Mapping[str, Plan], held: Sequence[Corpus], prompt_tokens: int
) -> list[Trial]:
    """Plans with factors and routers of the part to fit."""
    candidates = (
        Candidate(name, made.planned(plan, made.fit), made.router(plan, fit_only=True))
        for name, plan in tried.items()
    )
    parts = dict(zip(made.names, held, strict=True))
    return [*trials.judged(made.model, candidates, parts, prompt_tokens)]


def facts(model: nn.Module) -> dict[str, Any]:
    """What a trial could leave behind."""
    return {
        "modules": {name: id(module) for name, module in model.named_modules()},
        "tensors": {name: id(tensor) for name, tensor in model.named_parameters()},
        "hooks": {
            name: (len(module._forward_pre_hooks), len(module._forward_hooks))
            for name, module in model.named_modules()
        },
        "training": [module.training for module in model.modules()],
        "grads": [weight.grad is None for weight in model.parameters()],
    }


@pytest.fixture
def unchanged() -> Iterator[None]:
    """The model of the study is the same to the bit, and has the same modules and hooks."""
    model = study().model
    before, state = facts(model), copy.deepcopy(model.state_dict())
    yield
    assert facts(model) == before and router_of(model) is None
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


def loss_by_hand(plan: Plan, held: list[Corpus]) -> float:
    """Prompt by prompt, with a copy of the model that has the plan."""
    model = copy.deepcopy(study().model)
    apply_(model, study().planned(plan, study().fit))
    router = study().router(plan, fit_only=True)
    if router is not None:
        attach_(model, router)
    losses = []
    for corpus in held:
        nats = list[Tensor]()
        for ids_T in corpus.documents:
            seen, next_T = ids_T[: 2 * PROMPT], ids_T[PROMPT : 2 * PROMPT]
            pick = None if router is None else pick_for(model, seen[None, :PROMPT])
            with torch.no_grad(), picked(model, pick):
                log_TV = model(seen[None]).logits[0].double().log_softmax(-1)
            nats.append(-log_TV[PROMPT - 1 : -1].gather(1, next_T[:, None])[:, 0])
        losses.append(float(torch.cat(nats).mean()))
    return sum(losses) / len(losses)


@pytest.mark.usefixtures("unchanged")
def test_the_least_loss_is_first_and_each_is_that_of_its_prompts() -> None:
    held = held_of(*corpora())
    lengths = {len(ids_T) for corpus in held for ids_T in corpus.documents}
    assert len(lengths) == 2
    found = judged(study(), plans(), held, PROMPT)
    assert {trial.name for trial in found} == {*plans()}
    losses = [trial.nats_per_token for trial in found]
    assert losses == sorted(losses) and found[0].name != "static"
    for trial in found:
        assert trial.nats_per_token == pytest.approx(
            loss_by_hand(plans()[trial.name], held), rel=1e-5
        )


@pytest.mark.usefixtures("unchanged")
def test_kinds_count_alike_however_much_text_they_have() -> None:
    low, num = held_of(*corpora())
    few = num.part([0])
    both, first, second = (
        judged(study(), {"static": plans()["static"]}, held, PROMPT)[0].nats_per_token
        for held in ([low, few], [low, low], [few, few])
    )
    assert both == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.usefixtures("unchanged")
def test_short_windows_are_left_out() -> None:
    low, num = held_of(*corpora())
    short = Corpus(tuple(ids_T[: PROMPT + 1] for ids_T in low.documents))
    mixed = Corpus((*low.documents, *short.documents))
    one = {"static": plans()["static"]}
    found, want = (judged(study(), one, [first, num], PROMPT)[0] for first in (mixed, low))
    assert found == want


@pytest.mark.usefixtures("unchanged")
def test_no_more_prompts_than_the_most_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MOST", 2)
    held, one = held_of(*corpora()), {"own ranks": plans()["own ranks"]}
    few = [corpus.part([0, 1]) for corpus in held]
    assert judged(study(), one, held, PROMPT) == judged(study(), one, few, PROMPT)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("prompt_tokens", [95, 96, 500])
def test_a_kind_without_text_behind_its_prompts_is_refused(prompt_tokens: int) -> None:
    held = held_of(*corpora())
    with pytest.raises(CalibrationError, match=rf"^low: .*{prompt_tokens} tokens.* has 96; give"):
        judged(study(), plans(), held, prompt_tokens)
    short = Corpus(tuple(ids_T[: PROMPT + 1] for ids_T in held[1].documents))
    with pytest.raises(CalibrationError, match=r"^num: .*has 33; give longer texts"):
        judged(study(), plans(), [held[0], short], PROMPT)
    check_long(dict(zip(KINDS, held, strict=True)), 94)


@pytest.mark.usefixtures("unchanged")
def test_a_plan_that_cannot_be_made_leaves_the_model_as_it_was() -> None:
    held, good = held_of(*corpora()), plans()["own ranks"]
    other = replace(
        good,
        choices=tuple(
            replace(choice, decision=replace(choice.decision, pool=choice.decision.pool + BLOCK))
            if isinstance(choice.decision, Routed)
            else choice
            for choice in good.choices
        ),
    )
    with pytest.raises((GacError, ValueError)):
        judged(study(), {"good": good, "other": other}, held, PROMPT)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("after", [0, 3])
def test_a_model_that_fails_is_left_as_it_was(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = study().model, list[int]()
    forward = type(model).forward

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("out of luck")
        return forward(*args, **kwargs)

    monkeypatch.setattr(type(model), "forward", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        judged(study(), plans(), held_of(*corpora()), PROMPT)
    monkeypatch.undo()


def test_each_candidate_is_counted() -> None:
    seen = list[float]()
    held = dict(zip(KINDS, held_of(*corpora()), strict=True))
    some = [
        Candidate(name, study().planned(plans()[name], study().fit))
        for name in ("static", "own ranks")
    ]
    trials.judged(study().model, some, held, PROMPT, seen.append)
    assert seen == [1, 1]


# -- where own directions do not help --------------------------------------------------------------


def test_kinds_that_are_the_same_text_gain_nothing() -> None:
    same = two_kinds.corpus("low"), two_kinds.corpus("low", seed=1)
    texts = dict(zip(("one", "other"), same, strict=True))
    alike = RoutingStudy.make(two_kinds.model(), texts, prompt_tokens=PROMPT)
    static = plans_to_try(alike, Budgets("0.4", "1.25", BLOCK, BLOCK))["static"]
    tried = {"own ranks": with_own_ranks(static, 0.0, BLOCK, 2), "static": static}
    found = {
        each.name: each.nats_per_token for each in judged(alike, tried, held_of(*same), PROMPT)
    }
    # Prompts of no sure kind run the prefix, which own ranks leave as it is.
    assert found["own ranks"] == pytest.approx(found["static"], abs=2e-3)


def test_the_static_plan_is_first_among_equals() -> None:
    static = plans()["static"]
    found = judged(study(), {"static": static, "again": static}, held_of(*corpora()), PROMPT)
    assert [each.name for each in found] == ["static", "again"]
    assert found[0].nats_per_token == found[1].nats_per_token
