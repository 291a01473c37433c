"""Gates in a model: the loss, its gradient, what is left of it afterwards, and Dobi-SVD's ranks."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.api import calibrate, load_profile
from gacfx.calibration.text import Corpus
from gacfx.compressors.methods import METHODS
from gacfx.gated import Gated, _loss, instead, windows
from gacfx.modules.install import swapped
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
DOBI = "dobi-svd:steps=4,tokens=48"


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, 258, (48,), generator=random) for _ in range(8)))


def calibrated(method: str = DOBI, work: Path | None = None, **more: Any) -> Study:
    model = tiny.llama(hidden=32, width=48)
    return calibrate(model, calibration=corpus(), method=method, force=True, work=work, **more)


@cache
def study() -> Study:
    found = calibrated()
    found.curves("two-sided")
    return found


def gated() -> Gated:
    text = study().fitted
    assert text is not None
    return Gated(study().model, study().full.decompositions, text)


def ones() -> dict[str, Tensor]:
    known = study().full.decompositions
    return {n: torch.ones(min(known[n].weight_MN.shape), dtype=torch.float64) for n in known}


def dense_loss(documents: list[Tensor]) -> float:
    """Of the model as it is now, nats per token."""
    total, count = 0.0, 0
    for ids in documents:
        logits = study().model(ids[None]).logits[0, :-1].detach()
        total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        count += len(ids) - 1
    return total / count


def test_open_gates_are_the_dense_model_and_closed_ones_a_rank() -> None:
    loss, text = gated(), study().fitted
    assert text is not None
    read = windows(text, 90, 3)
    assert loss(ones(), 90, 3)[0] == pytest.approx(dense_loss(read), rel=1e-5)
    cut = {name: (torch.arange(len(each)) < 7).double() for name, each in ones().items()}
    factors = {name: study().full.decompositions[name].factors(7) for name in cut}
    with swapped(study().model, factors):
        expected = dense_loss(read)
    assert loss(cut, 90, 3)[0] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(dense_loss(read), rel=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    """Along the gradient of each weight alone, in float64 but for the norms of the model."""
    random = torch.Generator().manual_seed(2)
    given = {n: torch.rand(len(g), generator=random).double() for n, g in ones().items()}
    loss = Gated(copy.deepcopy(study().model).double(), gated().decompositions, gated().text)
    _, slopes = loss(given, 48, 1)
    steep = {name: float(slope.norm()) for name, slope in slopes.items()}
    for name in [name for name, size in steep.items() if size > 1e-3 * max(steep.values())]:
        step = 0.1 * slopes[name] / steep[name]
        up, down = (loss({**given, name: given[name] + s}, 48, 1)[0] for s in (step, -step))
        assert (up - down) / 0.2 == pytest.approx(steep[name], rel=0.05, abs=3e-6)
    assert max(steep.values()) > 1e-4


def test_equal_singular_values_give_no_nan() -> None:
    name = "model.layers.0.self_attn.q_proj"
    known = study().full
    moments = known.statistics.moments[name]
    even = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1))).Q
    found = METHODS.find("svd").decompose(even, moments, name)  # all singular values are 1
    made = Gated(study().model, {name: found}, gated().text)
    nats, slopes = made({name: torch.full((32,), 0.5, dtype=torch.float64)}, 48, 0)
    assert nats < 20 and bool(torch.isfinite(slopes[name]).all()) and bool(slopes[name].any())


def test_a_model_without_numbers_has_no_loss_and_no_gradient() -> None:
    loss = gated()
    broken = {name: torch.full_like(each, torch.inf) for name, each in ones().items()}
    nats, slopes = loss(broken, 48, 0)
    assert nats == float("inf") and not any(bool(each.any()) for each in slopes.values())


def test_an_infinite_loss_with_finite_gradients_has_none_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a token that the model masks."""
    monkeypatch.setattr("gacfx.gated._loss", lambda *given: _loss(*given) + torch.inf)
    nats, slopes = gated()(ones(), 48, 0)
    assert nats == float("inf") and not any(bool(each.any()) for each in slopes.values())


def test_the_model_is_as_it_was() -> None:
    model: Any = study().model
    before = {n: p.clone() for n, p in study().model.named_parameters()}
    gated()(ones(), 48, 0)
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(p.equal(before[n]) and p.grad is None for n, p in model.named_parameters())
    layer = model.model.layers[0].mlp.up_proj
    layer.forward = own = lambda x: x
    with instead(model, {"model.layers.0.mlp.up_proj": abs}):
        assert layer.forward is abs
    assert layer.forward is own
    del layer.forward


def test_windows_are_drawn_by_their_seed() -> None:
    text = corpus()
    assert [len(windows(text, tokens, 0)) for tokens in (1, 48, 49, 10_000)] == [1, 1, 2, 8]
    one, again, other = ([ids.tolist() for ids in windows(text, 200, seed)] for seed in (4, 4, 5))
    assert one == again != other


def test_dobi_trains_on_fitted_text_alone_and_keeps_places(tmp_path: Path) -> None:
    work = tmp_path / "work"
    first = calibrated(work=work)
    one = first.upstream("0.3", profile=PROFILE)
    assert one.plan.kept_params <= one.plan.budget.limit_params
    even = first.with_method("svd-llm").upstream("0.3", profile=PROFILE)
    assert one.plan.ranks != even.plan.ranks
    first.close()
    again = calibrated(work=work)

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("it was trained before")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gacfx.gated.Gated.__call__", never)
        assert again.upstream("0.3", profile=PROFILE).plan.to_json() == one.plan.to_json()
    again.close()
    seen: list[Corpus] = []

    class Spy(Gated):
        def __init__(self, model: Any, known: Any, text: Corpus) -> None:
            seen.append(text)
            super().__init__(model, known, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gacfx.upstream.Gated", Spy)
        replace(study(), measured={}).upstream("0.3", profile=PROFILE)
    assert [text.digest for text in seen] == [study().fit.statistics.text_digest]
    assert seen[0].digest != study().held_back.digest
