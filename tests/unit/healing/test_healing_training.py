"""Trials, the training and its best state: never worse, the same bits after a stop, no crash."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.applying import apply
from gacfx.calibration.batches import Reads
from gacfx.calibration.running import runnable
from gacfx.calibration.text import Corpus, split
from gacfx.core.store import MemoryStore, Store
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import CalibrationError, HealingError
from gacfx.healing.adapters import LoraLearner
from gacfx.healing.divergence import Judgement, judge
from gacfx.healing.schedule import Schedule
from gacfx.healing.settings import MOST_TRIALS, RATES, Healing
from gacfx.healing.steps import Training
from gacfx.healing.trainable import Learner, Student, healed_plan, trained_names
from gacfx.healing.training import PROBING, TRAINING, Healer, Outcome, is_better
from gacfx.modules.install import decisions_in
from tests import tiny
from tests.families.narrow import decision_of, mlp, plan_of
from tests.families.zoo import FAMILIES
from tests.unit.healing import patients

SETTINGS = Healing(tokens=5_000, step_tokens=192, rates=(3e-4, 1e-3, 3e-3))
"""20 steps, trials of two."""


class StopError(Exception):
    """Somebody killed the run."""


@cache
def dense() -> Any:
    return patients.dense()


def small(model: Any | None = None) -> Any:
    model = dense() if model is None else model
    return apply(model, patients.planned(model))


def healer(
    settings: Healing = SETTINGS, model: Any | None = None, known: Any | None = None, **options: Any
) -> Healer:
    model = small() if model is None else model
    names = trained_names(model)
    texts = split(patients.corpus())
    known = dense() if known is None else known
    return Healer(Student(model, names), Learner(model, names), known, texts, settings, **options)


@cache
def whole() -> Outcome:
    """A run that nobody stops."""
    return healer().run()


def healer_result() -> Outcome:
    return Outcome(Schedule(9, 0, 9), {}, 1e-3, Judgement(1.0, 1.0, 9), (), (), 9, None)


def same(one: Outcome, other: Outcome) -> bool:
    assert one.best is not None and other.best is not None
    bits = all(torch.equal(one.best[name], other.best[name]) for name in one.best)
    facts = [
        (each.schedule, each.tried, each.seen, each.losses, each.before, each.tokens, each.rate)
        for each in (one, other)
    ]
    return bits and one.best.keys() == other.best.keys() and facts[0] == facts[1]


def stopping(stage: str, after: int) -> Any:
    def progress(what: str, done: int, total: int) -> None:
        assert done <= total
        if (what, done) == (stage, after):
            raise StopError

    return progress


def test_a_training_makes_the_model_better_by_the_factors_and_norms_alone() -> None:
    model = small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    here = healer(model=model)
    found = here.run()
    assert found.after.kl < 0.9 * found.before.kl
    assert found.after == judge(dense(), model, here.held, here.judged_reads)
    assert found.after.score == min(each.score for _, each in found.seen)
    names = trained_names(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in names), name
    assert found.tokens <= 5_000
    assert list(found.tried) == list(SETTINGS.offered)
    assert found.rate == min(found.tried, key=lambda rate: found.tried[rate].score)


def test_factors_biases_and_norms_learn_and_nothing_that_is_dense_or_shared() -> None:
    model = small(patients.dense(attention_bias=True, tie_word_embeddings=True))
    names = set(trained_names(model))
    layer = "model.layers.0"
    inside = {f"{layer}.self_attn.q_proj.{n}" for n in ("down.weight", "up.weight", "up.bias")}
    assert inside | {f"{layer}.input_layernorm.weight", "model.norm.weight"} <= names
    assert not any("k_proj" in n or "embed" in n or "lm_head" in n or "gate" in n for n in names)
    model.model.layers[0].post_attention_layernorm = model.model.norm  # one norm in two places
    shared = names - set(trained_names(model))
    assert shared == {"model.norm.weight", f"{layer}.post_attention_layernorm.weight"}
    with pytest.raises(HealingError, match="no layer that a plan changed"):
        trained_names(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_what_is_left_of_pruned_weights_learns_too() -> None:
    model = FAMILIES["llama"].make()
    made = patients.pruned(model)
    cut = apply(model, made)
    names = trained_names(cut)
    assert {f"{n}.weight" for n in decisions_in(cut) if ".layers.1." in n} <= set(names)
    student = Student(cut, names)
    student.take({name: torch.full_like(value, 0.5) for name, value in student.holds().items()})
    healed = healed_plan(made, cut)
    for name, factors in healed.factors.items():
        for key, tensor in factors.tensors.items():
            if tensor.is_floating_point():
                assert bool((tensor == 0.5).all()), (name, key)
            else:
                assert torch.equal(tensor, made.factors[name].tensors[key])


def test_what_is_left_of_a_conv1d_goes_back_outputs_first() -> None:
    model: Any = FAMILIES["gpt2"].make()
    width = mlp(model, "gpt2", 1)
    made = plan_of(model, (width, decision_of(width, tuple(range(0, 88, 2)))))
    cut = apply(model, made)
    student = Student(cut, trained_names(cut))
    held = student.holds()
    assert any(name.endswith("c_fc.bias") for name in held)
    student.take({name: value.flip(0) + 1 for name, value in held.items()})
    for name, factors in healed_plan(made, cut).factors.items():
        layer: Any = cut.get_submodule(name)
        assert torch.equal(factors.tensors["weight"], layer.weight.T)
        assert not torch.equal(factors.tensors["weight"], made.factors[name].tensors["weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_kept_and_judged_is_rounded_as_it_will_be_saved(dtype: torch.dtype) -> None:
    known = patients.dense(dtype=dtype)
    model = small(known)
    here = healer(model=model, known=known.float())
    found = here.run()
    assert found.best is not None and found.after.kl < found.before.kl
    assert {each.dtype for each in found.best.values()} == {dtype}
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in found.best.items())
    assert judge(here.dense, runnable(model), here.held, here.judged_reads) == found.after


def test_nothing_worse_than_the_model_as_it_came_is_kept() -> None:
    found = healer(replace(SETTINGS, rates=(0.5,))).run()
    assert found.best is None
    assert all(not each.kl < found.before.kl for _, each in found.seen) and found.seen
    assert found.tried == {}
    assert found.after == found.before and found.best_step == 0


def test_better_is_closer_to_the_dense_model_and_no_worse_on_the_text() -> None:
    before = Judgement(0.5, 2.0, 9)
    assert is_better(Judgement(0.4, 2.0, 9), before)
    assert not is_better(Judgement(0.4, 2.1, 9), before)
    assert not is_better(Judgement(0.5, 1.0, 9), before)
    assert not is_better(Judgement(math.nan, 1.0, 9), before)
    seen = ((3, Judgement(0.3, 1.9, 9)), (6, Judgement(0.1, 2.1, 9)), (9, Judgement(0.4, 1.7, 9)))
    found = replace(healer_result(), before=before, seen=seen)
    assert found.best_step == 9 and found.after == seen[2][1]  # by both together
    assert Judgement(math.nan, 1.0, 9).score == Judgement(1.0, math.inf, 9).score == math.inf


def test_a_state_that_pays_more_for_the_text_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    here, made = healer(), list[float]()

    def paying(known: Any, model: Any, text: Corpus, reads: Reads) -> Judgement:
        said = judge(known, model, text, reads)
        made.append(said.kl)
        return replace(said, nats=2.0 + (len(made) > 2))  # timing, as it came, then healed

    monkeypatch.setattr("gacfx.healing.training.judge", paying)
    found = here.run()
    assert min(made) < found.before.kl and found.best is None


def test_the_usual_rates_are_searched_and_the_best_of_those_that_were_tried_is_taken() -> None:
    settings = replace(SETTINGS, rates=())
    found = healer(settings).run()
    assert 2 <= len(found.tried) <= MOST_TRIALS and set(found.tried) <= set(RATES)
    assert RATES[len(RATES) // 2] in found.tried
    assert found.rate == min(found.tried, key=lambda rate: found.tried[rate].score)
    assert found.after.kl < found.before.kl
    steps = len(found.tried) * found.schedule.probe_steps + found.schedule.steps
    assert 0.9 * found.tokens <= 192 * steps and found.tokens <= 5_000


def test_a_rate_that_diverges_is_a_result() -> None:
    found = healer(replace(SETTINGS, rates=(1e-3, 1e30))).run()
    assert found.tried[1e30].kl == math.inf and math.isfinite(found.tried[1e-3].score)
    assert found.rate == 1e-3 and found.best is not None
    found = healer(replace(SETTINGS, rates=(1e29, 1e30))).run()
    assert found.best is None and found.seen == () and found.after == found.before
    found = healer(replace(SETTINGS, rates=(1e30,))).run()  # not tried, and stopped early
    assert found.best is None and len(found.losses) < found.schedule.steps


@pytest.mark.parametrize(
    ("stage", "after"),
    [(PROBING, 1), (PROBING, 3), (TRAINING, 2), (TRAINING, 9), (TRAINING, 19)],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    stage: str, after: int, tmp_path: Path
) -> None:
    with WorkFolder(tmp_path, {}) as store, pytest.raises(StopError):
        healer(store=store, progress=stopping(stage, after)).run()
    steps: list[str] = []
    with WorkFolder(tmp_path, {}) as store:
        again = healer(store=store, progress=lambda what, *_: steps.append(what)).run()
    assert same(again, whole())
    kept = {(PROBING, 1): 0, (PROBING, 3): 2, (TRAINING, 2): 6, (TRAINING, 9): 14}
    assert 26 - len(steps) == kept.get((stage, after), 24)
    with WorkFolder(tmp_path, {}) as store:  # all is done
        assert same(healer(store=store, progress=stopping(TRAINING, 1)).run(), whole())


def test_the_schedule_of_the_first_run_is_kept_whatever_the_clock_says() -> None:
    store: Store = MemoryStore()
    ticks = iter(range(10**6))
    settings = replace(SETTINGS, minutes=1.0, tokens=10**6)
    with pytest.raises(StopError):
        healer(
            settings, store=store, clock=lambda: next(ticks) / 2, progress=stopping(TRAINING, 9)
        ).run()
    planned = {name: int(store.get("schedule", name)) for name in store.keys("schedule")}
    assert planned["steps"] < 100
    found = healer(settings, store=store).run()
    assert found.schedule.steps == planned["steps"]
    store.drop("schedule")
    with pytest.raises(StopError):  # what was done under another schedule is done again
        healer(settings, store=store, progress=stopping(PROBING, 1)).run()
    assert "training" not in store and "probe.0" not in store


def test_rates_follow_the_size_of_each_parameter_and_slopes_are_cut() -> None:
    model = small(patients.dense(attention_bias=True))
    learner = Learner(model, trained_names(model))
    windows = patients.corpus().documents
    other = tiny.llama(32, 48, 1, 3)
    with torch.no_grad():
        other.lm_head.weight *= 300
    training = Training(learner, other, windows, Reads.ALONE, SETTINGS, 0.01, 4)
    for name, parameter in learner.parameters.items():
        size = float(parameter.detach().square().mean().sqrt())
        assert training.rates[name] == pytest.approx(0.01 * (size or 1e-3)), name
    assert any(not bool(p.any()) for p in learner.parameters.values())  # a bias of zeros
    training.step()
    slopes = torch.cat(
        [p.grad.flatten() for p in learner.parameters.values() if p.grad is not None]
    )
    assert float(slopes.norm()) == pytest.approx(1.0, rel=1e-4)


def test_an_expert_that_no_token_met_has_no_moments_and_goes_on() -> None:
    class Halves(torch.nn.Module):
        """Its second half is never used."""

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(258, 258)
            self.idle = torch.nn.Parameter(torch.ones(3))

        def forward(self, ids: Tensor) -> Tensor:
            found: Tensor = self.table(ids)
            return found

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, known = Halves(), Halves()
    learner = Learner(model, ("table.weight", "idle"))
    windows = patients.corpus().documents
    one, other = (
        Training(learner, known, windows, Reads.ALONE, SETTINGS, 1e-2, 6) for _ in range(2)
    )
    for _ in range(3):
        one.step()
    state = {name: tensor.clone() for name, tensor in one.state().items()}
    assert "step.table.weight" in state and "step.idle" not in state
    for _ in range(3):
        one.step()
    want = learner.values()["table.weight"].clone()
    other.restore(state)
    while not other.finished:
        other.step()
    assert torch.equal(learner.values()["table.weight"], want)
    assert one.losses == other.losses


def test_a_model_without_numbers_is_refused() -> None:
    model = small()
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(CalibrationError, match="the compressed model gives no numbers"):
        healer(model=model).run()


def test_adapters_add_to_the_weights_that_they_stand_on() -> None:
    pytest.importorskip("peft", reason="LoRA needs peft")
    model = small()
    names = trained_names(model)
    learner = LoraLearner(model, names, rank=2, seed=0)
    first = learner.values()
    own = dict(model.named_parameters())
    assert first.keys() <= set(names) and all(torch.equal(first[n], own[n]) for n in first)
    assert sum(name.endswith(("down.weight", "coefficients.weight")) for name in first) == 4
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            if "lora_B" in name:
                parameter.fill_(0.1)
    ids = patients.corpus().documents[0][None]
    student = Student(model, names)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    student.take(learner.values())
    torch.testing.assert_close(model(ids).logits, learner.model(ids).logits, atol=1e-4, rtol=1e-4)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(learner.weights)
    learner.restart()
    assert all(torch.equal(each, first[n]) for n, each in learner.values().items())
