"""Gates and refitted factors in models with biases, norms of heads, sliding windows and experts."""

from functools import cache
from typing import Any

import pytest
import torch

from gacfx.api import calibrate, load_profile
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus
from gacfx.gated import Gated
from gacfx.refit import Texts, refit
from gacfx.study import Study
from tests.families.zoo import FAMILIES, VOCAB
from tests.few import few

NAMES = ("qwen2", "qwen3", "mistral", "gpt2", "mixtral")
"""Biases, norms of heads, sliding windows, Conv1D, experts."""


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, VOCAB, (40,), generator=random) for _ in range(8)))


@cache
def study(name: str) -> Study:
    return calibrate(FAMILIES[name].make(), calibration=corpus(), method="svd", force=True)


@pytest.mark.parametrize("name", few(NAMES, "qwen3", "gpt2", "mixtral"))
def test_open_gates_are_the_dense_model(name: str) -> None:
    by = study(name)
    by.curves("two-sided")
    known: Any = by.full.decompositions
    gates = {n: torch.ones(min(known[n].weight_MN.shape), dtype=torch.float64) for n in known}
    text = Corpus(corpus().documents[:1])
    nats, slopes = Gated(by.model, known, text)(gates, 1, 0)
    assert nats == pytest.approx(evaluate(by.model, text).nats_per_token, rel=1e-5)
    assert gates and all(bool(torch.isfinite(each).all()) for each in slopes.values())


@pytest.mark.parametrize("name", few(NAMES, "qwen3", "gpt2", "mixtral"))
def test_a_refit_keeps_whatever_it_does_not_help(name: str) -> None:
    by = study(name)
    assert by.fitted is not None
    base = by.upstream("0.5", profile=load_profile("h200"))
    made = refit(by.model, base, Texts(by.fitted, by.held_back))
    assert {*made.taken, *made.left} == base.factors.keys() and made.taken
    assert all(one.finite for one in made.planned.factors.values())
    assert made.planned.plan is base.plan and by.measure(made.planned) < 9
