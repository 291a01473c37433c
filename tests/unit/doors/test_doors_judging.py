"""Plans are compared on a sample first; only those that may be the best are read to the end."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx import judging
from gacfx.api import calibrate, load_profile
from gacfx.calibration.evaluate import evaluate, mean_loss
from gacfx.calibration.text import Corpus
from gacfx.core.planned import Planned
from gacfx.core.provenance import Trial
from gacfx.core.search import Search
from gacfx.core.store import MemoryStore
from gacfx.judging import Judge, clearly_worse
from gacfx.modules.install import swapped
from gacfx.report.plan_view import trials_line
from gacfx.study import Study
from tests import tiny

PROFILE, SEARCH = load_profile("h200"), Search(align=8)


def corpus(windows: int) -> Corpus:
    torch.manual_seed(windows)
    return Corpus(tuple(torch.randint(0, 250, (40,)) for _ in range(windows)))


@pytest.fixture(scope="module")
def study() -> Study:
    return calibrate(tiny.llama(), calibration=corpus(40), force=True)


class Reads:
    """A study in which each plan is a loss for each token, or a way to make it."""

    def __init__(self, windows: int) -> None:
        self.held_back, self.read = corpus(windows), list[int]()
        self.method, self.fit = "gfwsvd", SimpleNamespace(store=None)

    def token_losses(self, made: Any, text: Corpus) -> Tensor:
        count = text.tokens - len(text.documents)
        self.read.append(count)
        found: Tensor = made.losses(count)
        return found


def made(level: float, noise: float = 0.1, seed: int = 0) -> Any:
    """What stands for a plan: losses around a level, with noise of its own on a common part."""

    def losses(count: int) -> Tensor:
        common = torch.randn(count, generator=torch.Generator().manual_seed(99))
        own = torch.randn(count, generator=torch.Generator().manual_seed(seed))
        return 3.0 + level + common + noise * own

    return SimpleNamespace(losses=losses, plan=None)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    monkeypatch.setattr(judging, "plan_digest", lambda _: "plan")
    return Reads(windows=200)


def test_the_sample_is_read_by_all_and_the_rest_by_those_that_may_win(reads: Reads) -> None:
    judge = Judge(reads)  # type: ignore[arg-type]
    first, worse, better, close = (
        judge.judge(made(level, seed=seed)) for seed, level in enumerate((0.1, 0.2, 0.0, 0.004))
    )
    whole = reads.held_back.tokens - len(reads.held_back.documents)
    sample = len(first.sample)
    assert 2048 <= sample + 53 < 2048 + 40  # 53 windows, of each of which a token is not predicted
    assert reads.read == [sample, whole - sample, sample, *2 * [sample, whole - sample]]
    assert [each.out for each in (first, worse, better, close)] == [False, True, False, False]
    assert worse.nats_per_token == float("inf")
    assert first.nats_per_token == pytest.approx(3.1, abs=0.05)
    assert judge.best is better


def test_a_plan_that_breaks_after_the_sample_keeps_nobody_out(reads: Reads) -> None:
    def broken(count: int) -> Tensor:
        return torch.full((count,), 1.0 if count < 3000 else float("nan"))

    judge = Judge(reads)  # type: ignore[arg-type]
    first = judge.judge(SimpleNamespace(losses=broken, plan=None))  # type: ignore[arg-type]
    sound = judge.judge(made(0.0))
    assert first.nats_per_token == float("inf") and not first.out
    assert sound.nats_per_token < 4 and judge.best is sound


def test_the_rest_is_kept_apart_from_the_sample_and_neither_is_read_again(reads: Reads) -> None:
    wanted = Judge(reads).judge(made(0.0)).nats_per_token  # type: ignore[arg-type]
    reads.fit = SimpleNamespace(store=MemoryStore())
    reads.read.clear()
    for _ in range(2):  # measured, and found
        found = Judge(reads).judge(made(0.0))  # type: ignore[arg-type]
        assert found.nats_per_token == wanted
        assert sum(reads.read) == reads.held_back.tokens - len(reads.held_back.documents)


def test_plans_as_good_as_each_other_are_not_told_apart() -> None:
    """Three standard errors: one of 741 by chance, and one draw in 500 may be it."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(500):
        one, other = torch.randn(2, 500, generator=draw)
        assert not clearly_worse(one, other)


def test_a_certain_difference_counts_when_it_says_something() -> None:
    losses = torch.rand(100)
    assert clearly_worse(losses + 1e-3, losses)
    assert not clearly_worse(losses + 4e-4, losses)  # certain, and next to nothing
    assert not clearly_worse(losses, losses + 1e-3)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_numbers_lose_to_numbers_alone(number: float) -> None:
    losses, broken = torch.rand(100), torch.rand(100)
    broken[3] = number
    assert clearly_worse(broken, losses)
    assert not clearly_worse(losses, broken)
    assert not clearly_worse(broken, broken)


def test_the_loss_is_that_of_all_the_text(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = study.plan("0.3", profile=PROFILE, search=SEARCH)
    monkeypatch.setattr(judging, "SAMPLE_TOKENS", 100)
    judge = Judge(study)
    assert judge.rest is not None
    both = [*judge.sample.documents, *judge.rest.documents]
    assert sorted(map(tuple, (d.tolist() for d in both))) == sorted(
        map(tuple, (d.tolist() for d in study.held_back.documents))
    )
    with swapped(study.model, planned.factors, planned.plan.blocks):
        wanted = evaluate(study.model, study.held_back).nats_per_token
    assert judge.judge(planned).nats_per_token == pytest.approx(wanted, rel=1e-6)


def trials_of(planned: Planned) -> dict[str, Trial]:
    return {trial.value_model: trial for trial in planned.plan.provenance.trials}


def test_trials_that_lost_on_the_sample_say_so(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trial after the first, one that is better or worse by a tenth of a nat."""
    whole = study.plan("0.3", profile=PROFILE, search=SEARCH)
    assert all(trial.tokens is None for trial in trials_of(whole).values())
    own, seen = Study.token_losses, list[int]()

    def shifted(self: Study, made: Planned, text: Corpus) -> Tensor:
        seen.append(text.tokens)
        worse = made.plan.provenance.value_model.startswith("fisher")
        return own(self, made, text) + 0.1 * worse

    monkeypatch.setattr(judging, "SAMPLE_TOKENS", 100)
    monkeypatch.setattr(Study, "token_losses", shifted)
    raced = study.plan("0.3", profile=PROFILE, search=SEARCH)
    one, other = trials_of(whole), trials_of(raced)
    assert other["fisher"].tokens == 117 and not other["fisher"].chosen
    wanted = one["fisher"].nats_per_token
    assert wanted is not None
    assert other["fisher"].nats_per_token == pytest.approx(wanted + 0.1, abs=0.02)
    assert "fisher about " in trials_line(raced.plan)
    chosen = next(trial for trial in other.values() if trial.chosen)
    assert chosen.tokens is None
    assert replace(chosen, nats_per_token=0.0) == replace(
        one[chosen.value_model], nats_per_token=0.0
    )


def test_the_mean_of_no_number_is_infinite() -> None:
    assert mean_loss([torch.ones(3), torch.full((1,), 5.0)]) == 2.0
    assert mean_loss([torch.ones(3), torch.tensor([float("nan")])]) == float("inf")
