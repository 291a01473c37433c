"""The value model that is measured token by token: plans, stores, and what it cannot tell."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from gacfx.api import load_profile, read_calibration
from gacfx.calibration.text import Corpus
from gacfx.compressors.lowrank import WeightedSvd
from gacfx.compressors.methods import METHODS
from gacfx.core.search import Search
from gacfx.core.statistics import Moments
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import DecompositionFailed, InfeasibleBudget
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
SEARCH = Search(value="per-token", align=1)


def corpus(model: Any) -> Corpus:
    return read_calibration(tiny.texts(), model, tiny.tokenizer())


@cache
def study() -> Study:
    model = tiny.llama()
    return Study.make(model, corpus(model), structures=True)


def test_a_plan_by_it_keeps_the_budget_and_is_in_nats() -> None:
    made = study().plan("0.3", profile=PROFILE, search=SEARCH, tried=True)
    plan = made.plan
    assert plan.kept_params <= plan.budget.limit_params
    assert plan.provenance.value_model == "per-token" and plan.provenance.trials[0].promised_nats
    told, moments = study().curves("per-token"), study().curves("two-sided")
    differ = [
        n for n in told.losses if not np.allclose(told.losses[n], moments.losses[n], rtol=0.01)
    ]
    assert differ and told.losses.keys() == moments.losses.keys()
    for losses in told.losses.values():
        assert losses[-1] == 0 and (np.diff(losses) <= 0).all()


def test_both_texts_have_the_losses_of_the_held_back_one() -> None:
    fit, full = (study().curves("per-token", known) for known in (study().fit, study().full))
    assert all(np.array_equal(fit.losses[name], full.losses[name]) for name in fit.losses)


def test_corrections_and_pruning_go_with_it() -> None:
    search = Search(value="per-token", align=1, prune="both", corrections=1)
    plan = study().plan("0.3", profile=PROFILE, search=search, tried=True).plan
    assert plan.kept_params <= plan.budget.limit_params and plan.provenance.corrections


def test_a_folder_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama()
    with WorkFolder(tmp_path / "work", {"of": "this"}) as store:
        one = Study.make(model, corpus(model), store=store)
        first = one.plan("0.3", profile=PROFILE, search=SEARCH).plan

    def reads(*_: Any) -> None:
        raise AssertionError("what is kept is not measured again")

    monkeypatch.setattr("gacfx.calibration.tails.TailSums", reads)
    with WorkFolder(tmp_path / "work", {"of": "this"}) as store:
        again = Study.make(model, corpus(model), store=store)
        assert again.plan("0.3", profile=PROFILE, search=SEARCH).plan == first
        for curves in (tmp_path / "work").glob("*per-token*"):
            curves.unlink()
        assert again.plan("0.2", profile=PROFILE, search=SEARCH).plan.loss_nats > 0
    memory = study().plan("0.3", profile=PROFILE, search=SEARCH).plan
    assert memory.loss_nats == pytest.approx(first.loss_nats, rel=1e-3)


@pytest.mark.parametrize("method", ["svd-llm", "asvd", "palu:heads-per-group=2"])
def test_methods_whose_factors_are_nested_have_it(method: str) -> None:
    found = study().with_method(method)
    plan = found.plan("0.2", profile=PROFILE, search=SEARCH).plan
    assert plan.kept_params <= plan.budget.limit_params and plan.loss_nats > 0
    assert found.method in study().on_text


@dataclass(frozen=True, eq=False)
class Opaque(WeightedSvd):
    """Factors that are not nested, as far as one is told."""

    @property
    def components(self) -> None:  # type: ignore[override]
        return None


def test_factors_that_are_not_nested_have_no_such_curve() -> None:
    plain = METHODS.find("svd")

    def decompose(weight_MN: Tensor, moments: Moments, module: str = "") -> Opaque:
        made: Any = plain.decompose(weight_MN, moments, module)
        return Opaque(**{name: getattr(made, name) for name in made.__dataclass_fields__})

    opaque = study().with_method("svd")
    for evidence in (opaque.fit, opaque.full):
        for name in study().full.statistics.moments:
            weight: Any = opaque.model.get_submodule(name).weight
            evidence.decompositions[name] = decompose(
                weight, evidence.statistics.moments[name], name
            )
    with pytest.raises(InfeasibleBudget, match="measured on text, and nothing was of this weight"):
        opaque.plan("0.3", profile=PROFILE, search=SEARCH)


def test_a_decomposition_alone_does_not_know_it() -> None:
    found = study().full.decompositions[next(iter(study().full.statistics.moments))]
    with pytest.raises(DecompositionFailed, match="is measured on text"):
        found.curve("per-token")
    losses = np.linspace(1.0, 0.0, min(found.moments.shape) + 1)
    assert found.curve("per-token", losses).loss(found.decision(1)) == losses[1]
