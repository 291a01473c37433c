"""Irregular ranks of a tiny model: scores, counts and what cannot be asked."""

import json
from typing import Any

import pytest
import torch

from gacfx import api
from gacfx.compressors.importance import importance
from gacfx.compressors.proportional import proportional_ranks
from gacfx.core.defaults import PREVALENCE_RATIOS, PROXIES
from gacfx.errors import CalibrationError, DecompositionFailed, PlanError, UnsupportedModel
from gacfx.prevalence import Prevalence, prevalence
from gacfx.work import Work
from tests import tiny


def model() -> Any:
    """Its layers differ in importance."""
    found = tiny.llama(hidden=64, width=176, layers=3, initializer_range=0.1)
    with torch.no_grad():
        for at, layer in enumerate(found.model.layers):
            for parameter in layer.parameters():
                parameter *= 1.0 + 0.6 * at
    return found


@pytest.fixture(scope="module")
def found() -> Prevalence:
    return prevalence(model(), tiny.tokenizer(), calibration=tiny.texts(), name="tiny")


def test_ranks_are_those_of_the_scores_of_calibration(found: Prevalence) -> None:
    dense = model()
    study = api.calibrate(dense, tiny.tokenizer(), calibration=tiny.texts())
    moments = study.full.statistics.moments
    weights = {name: dense.get_submodule(name).weight.detach() for name in moments}
    shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
    assert (found.proxies, found.ratios) == (PROXIES, PREVALENCE_RATIOS)
    assert len(found.cells) == 16 and found.weights == len(shapes) == 21
    assert found.params == sum(m * n for m, n in shapes.values())
    assert found.tokens == study.full.statistics.tokens > 0
    for cell in found.cells:
        scores = {
            name: importance(weights[name], moments[name], cell.proxy, module=name)
            for name in shapes
        }
        wanted = proportional_ranks(shapes, scores, cell.ratio)
        assert cell.found.ranks == wanted.ranks
        spread = max(scores.values()) / min(scores.values())
        assert found.spread[cell.proxy] == pytest.approx(spread)


def test_shares_count_ranks_and_weigh_by_flops(found: Prevalence) -> None:
    for cell in found.cells:
        shapes = {name: model().get_submodule(name).weight.shape for name in cell.found.ranks}
        for step, share in cell.irregular.items():
            odd = [name for name, rank in cell.found.ranks.items() if rank % step != 0]
            assert share.ranks == len(odd) / 21
            work = {name: rank * sum(shapes[name]) for name, rank in cell.found.ranks.items()}
            flops = sum(work[name] for name in odd) / sum(work.values())
            assert share.flops == pytest.approx(flops)
    assert 0.5 < found.mean("fisher", 8) < found.mean("fisher", 16) <= 1


def test_means_and_remainders_are_over_all_ratios(found: Prevalence) -> None:
    shares = [cell.irregular[8].ranks for cell in found.cells if cell.proxy == "gradient"]
    assert found.shares("gradient", 8) == shares
    assert found.mean("gradient", 8) == pytest.approx(sum(shares) / 4)
    flops = [cell.irregular[8].flops for cell in found.cells if cell.proxy == "gradient"]
    assert found.mean("gradient", 8, flops=True) == pytest.approx(sum(flops) / 4)
    counts = found.remainders("gradient", 8)
    assert sum(counts) == 4 * 21
    assert counts[0] / sum(counts) == pytest.approx(1 - sum(shares) / 4)


def test_it_is_json(found: Prevalence) -> None:
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["proxies"]["fisher"]["irregular"]["8"]["mean"] == found.mean("fisher", 8)
    cell = said["proxies"]["activation"]["ratios"]["0.2"]
    assert cell["params"] <= cell["budget"] and len(cell["ranks"]) == 21


def test_magnitude_needs_no_text(found: Prevalence) -> None:
    alone = prevalence(model())
    assert (alone.proxies, alone.tokens) == (("magnitude",), 0)
    assert [c.found for c in alone.cells] == [c.found for c in found.of("magnitude")]


def test_what_is_asked_comes_once_and_in_order() -> None:
    some = prevalence(
        model(),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        proxies=["gradient", "magnitude", "gradient"],
        ratios=[0.4, "0.25", 0.4],
        skip=("*.mlp.*",),
    )
    assert some.proxies == ("magnitude", "gradient")
    assert some.ratios == ("0.4", "0.25")
    assert all("self_attn" in name for name in some.cells[0].found.ranks)


def test_literal_scores_count_size(found: Prevalence) -> None:
    literal = prevalence(model(), normalize="none")
    ours, whole = (one.of("magnitude")[1].found.ranks for one in (found, literal))
    small = "model.layers.1.self_attn.k_proj"  # the smallest kind of weight
    assert whole[small] < ours[small]
    assert literal.normalize == "none"


def test_statistics_of_a_work_folder_give_the_same(found: Prevalence, tmp_path: Any) -> None:
    again = prevalence(
        model(),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        name="tiny",
        work=Work(tmp_path / "work"),
    )
    assert [cell.found for cell in again.cells] == [cell.found for cell in found.cells]


def test_the_model_is_left_as_it_was() -> None:
    dense = model()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    prevalence(dense, tiny.tokenizer(), calibration=tiny.texts(), ratios=["0.5"])
    for name, tensor in dense.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.requires_grad for parameter in dense.parameters())


def test_scores_far_apart_are_said() -> None:
    dense = model()
    with torch.no_grad():
        dense.model.layers[0].self_attn.q_proj.weight *= 1e-4
    (line,) = prevalence(dense, ratios=["0.3"]).warnings
    assert line.startswith("magnitude: scores differ by a factor of ")
    assert prevalence(model(), ratios=["0.3"]).warnings == []


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"proxies": ["gold"]}, PlanError, "no proxy 'gold'; known: magnitude, activation, fish"),
        ({"proxies": []}, PlanError, "no proxy is named; give some of magnitude"),
        ({"proxies": ["fisher"]}, CalibrationError, "fisher: needs activations or gradients on a"),
        ({"ratios": []}, PlanError, "give a list such as 0.1 0.2"),
        ({"ratios": "0.2"}, PlanError, "ratios '0.2': give a list"),
        ({"ratios": ["0.2", "1.5"]}, PlanError, "ratio 1.5: is no share between 0 and 1"),
        ({"ratios": ["half"]}, PlanError, "ratio half: not a number such as 0.2"),
        ({"normalize": "size"}, PlanError, "normalize 'size': give params or none"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prevalence(model(), **asked)


def test_models_without_weights_or_importance_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny: has no weights \(meta device\), and import"):
        prevalence(model().to("meta"), name="tiny")
    dense = model()
    with torch.no_grad():
        dense.model.layers[1].mlp.up_proj.weight.zero_()
    with pytest.raises(DecompositionFailed, match=r"1.mlp.up_proj: its importance by magnitude is"):
        prevalence(dense)
