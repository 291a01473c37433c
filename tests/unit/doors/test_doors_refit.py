"""Second factors refitted in the compressed model: least squares, held-back text, and the doors."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.api import calibrate, load_profile
from gacfx.calibration.text import Corpus
from gacfx.compressors.methods import METHODS
from gacfx.core.decision import Pivot
from gacfx.core.materialise import Factors
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.errors import PipelineError, UnsupportedModel
from gacfx.modules.dense import dense_weight
from gacfx.modules.install import swapped
from gacfx.refit import RIDGE, Refitted, Texts, error_of, least_squares, refit
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
NAME = "svd-llm:update=true"


def corpus(seed: int = 0, count: int = 8, length: int = 48) -> Corpus:
    random = torch.Generator().manual_seed(seed)
    found = (torch.randint(2, 258, (length,), generator=random) for _ in range(count))
    return Corpus(tuple(found))


def model(layers: int = 2) -> Any:
    return tiny.llama(hidden=32, width=48, layers=layers)


@cache
def study() -> Study:
    """Its factors are those of plain SVD, which leave something to a refit."""
    return calibrate(model(), calibration=corpus(), method="svd", force=True)


@cache
def base() -> Planned:
    return study().upstream("0.4", profile=PROFILE)


def texts() -> Texts:
    fitted = study().fitted
    assert fitted is not None
    return Texts(fitted, study().held_back)


@cache
def found() -> Refitted:
    return refit(study().model, base(), texts())


def inputs(name: str, factors: dict[str, Factors], text: Corpus) -> Tensor:
    """[K, N] of a module of the dense model with these factors in it, float64."""
    seen: list[Tensor] = []
    with swapped(study().model, factors), torch.no_grad():
        module = study().model.get_submodule(name)
        hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        for ids in text.documents:
            study().model(ids[None])
        hook.remove()
    return torch.cat(seen).double()


# -- the numbers ----------------------------------------------------------------------------------


def test_the_second_factor_is_that_of_least_squares() -> None:
    random = torch.Generator().manual_seed(3)
    weight, down, x = (
        torch.randn(shape, generator=random, dtype=torch.float64)
        for shape in ((7, 12), (4, 12), (50, 12))
    )
    z = x @ down.T
    up = least_squares(weight, z.T @ z, x.T @ z)
    expected = torch.linalg.lstsq(z, x @ weight.T).solution.T
    assert up is not None and torch.allclose(up, expected, rtol=1e-4, atol=1e-5)
    # The ridge moves it by its share, and by no more.
    assert not torch.allclose(up, expected, rtol=1e-12, atol=1e-12) and RIDGE == 1e-6


def test_fewer_tokens_than_ranks_have_a_solution_and_none_have_not() -> None:
    random = torch.Generator().manual_seed(4)
    weight, x = torch.randn(5, 6, generator=random), torch.randn(2, 6, generator=random).double()
    up = least_squares(weight, x.T @ x, x.T @ x)  # down is the identity, rank 6 of 2 tokens
    assert up is not None and bool(torch.isfinite(up).all())
    assert torch.allclose(x @ up.T, x @ weight.double().T, atol=1e-3)
    nothing = torch.zeros(6, 6, dtype=torch.float64)
    assert least_squares(weight, nothing, nothing) is None
    assert least_squares(weight, nothing * torch.nan, nothing) is None
    assert least_squares(weight, -torch.eye(6).double() + 2 * torch.ones(6, 6), nothing) is None


def test_the_error_is_that_of_the_outputs() -> None:
    random = torch.Generator().manual_seed(5)
    weight, down, up, x = (
        torch.randn(shape, generator=random) for shape in ((7, 12), (4, 12), (7, 4), (9, 12))
    )
    lost = ((weight - up @ down) @ x.T).square().sum()
    assert error_of(weight, Factors.pair(down, up), x) == pytest.approx(float(lost), rel=1e-5)
    half = error_of(weight, Factors.pair(down.half(), up.half()), x.half())
    assert half == pytest.approx(float(lost), rel=1e-2)


@pytest.mark.parametrize("layer", ["0", "1"])
def test_inputs_are_those_behind_the_compressed_layers(layer: str) -> None:
    name = next(name for name in found().taken[::-1] if name.split(".")[2] == layer)
    made, before = found().planned.factors, base().factors
    prefix = {n: one for n, one in made.items() if n.split(".")[2] < layer}
    x = inputs(name, prefix, texts().fitted)
    z = x @ before[name].tensors["down"].double().T
    weight = dense_weight(study().model.get_submodule(name))
    up = least_squares(weight, z.T @ z, x.T @ z)
    judged = inputs(name, prefix, texts().held_back)
    assert up is not None
    assert torch.allclose(made[name].tensors["up"].double(), up, rtol=1e-3, atol=1e-4)
    assert error_of(weight, made[name], judged) < error_of(weight, before[name], judged)


def test_only_second_factors_change_and_the_model_is_as_it_was() -> None:
    made, modules = found().planned, dict(study().model.named_modules())
    again = refit(study().model, base(), texts())
    assert dict(study().model.named_modules()) == modules
    assert not any(each._forward_pre_hooks for each in modules.values())
    assert made.plan is base().plan and {*found().taken, *found().left} == base().factors.keys()
    for name, one in made.factors.items():
        old, same = base().factors[name], again.planned.factors[name]
        assert one.tensors["down"].equal(old.tensors["down"])
        assert one.tensors["up"].equal(old.tensors["up"]) == (name in found().left)
        assert one.tensors["up"].equal(same.tensors["up"])


def test_what_held_back_text_does_not_like_is_left() -> None:
    few = Texts(corpus(seed=9, count=1, length=4), texts().held_back)  # far fewer tokens than ranks
    made = refit(study().model, base(), few)
    assert made.left
    assert all(made.planned.factors[name] is base().factors[name] for name in made.left)


def test_pivots_stay_as_they_are() -> None:
    plan = study().plan("0.4", profile=PROFILE, search=Search(align=1, form="pivot"))
    assert any(isinstance(one.decision, Pivot) for one in plan.factors.values())
    made = refit(study().model, plan, texts())
    assert (made.planned, made.taken, made.left) == (plan, (), ())


# -- the doors ------------------------------------------------------------------------------------


def test_the_update_is_of_own_sizes_and_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, by = study().with_method("svd-llm"), study().with_method(NAME)
    assert METHODS.find(NAME).refits and not METHODS.find("svd-llm").refits
    search = Search(align=1, form="pair", value="two-sided")
    seen: list[tuple[str, str, str]] = []

    def doubled(of: Any, made: Planned, texts: Texts, **_: Any) -> Refitted:
        assert of is study().model
        seen.append((made.plan.provenance.method, texts.fitted.digest, texts.held_back.digest))
        new = {
            name: replace(one, tensors={**one.tensors, "up": 2 * one.tensors["up"]})
            for name, one in made.factors.items()
        }
        return Refitted(Planned(made.plan, new), tuple(new), ())

    monkeypatch.setattr("gacfx.study.refit", doubled)
    for one, other in (
        (each.upstream("0.5", profile=PROFILE) for each in (plain, by)),
        (each.plan("0.5", profile=PROFILE, search=search) for each in (plain, by)),
    ):
        assert one.plan.ranks == other.plan.ranks and other.plan.provenance.method == NAME
        for name, each in one.factors.items():
            assert other.factors[name].tensors["up"].equal(2 * each.tensors["up"])
    fit = study().fit.statistics.text_digest
    assert seen == [(NAME, fit, study().held_back.digest)] * 2


def test_a_model_whose_layers_do_not_run_alone_is_refused_with_what_to_do() -> None:
    lone = calibrate(model(layers=1), calibration=corpus(), method=NAME, force=True)
    with pytest.raises(UnsupportedModel, match=r"one at a time: .*; take the method without it"):
        lone.upstream("0.3", profile=PROFILE)


@pytest.mark.parametrize("said", ["update=yes", "update=1", "update", "refit=true"])
def test_a_bad_setting_lists_what_there_is(said: str) -> None:
    with pytest.raises(PipelineError, match="it has: update=false"):
        METHODS.find(f"svd-llm:{said}")
