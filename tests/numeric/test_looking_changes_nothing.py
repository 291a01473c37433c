"""Capturing, inspecting, calibrating and planning leave a model bit for bit as it was."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gacfx
from gacfx import api
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.hardware.profile import load
from tests import tiny
from tests.few import few

SEARCH = Search(value="two-sided")


def one_layer_twice() -> Any:
    model = tiny.llama(layers=3)
    model.model.layers[2] = model.model.layers[1]
    return model


def one_linear_twice() -> Any:
    model = tiny.llama()
    first, second = model.model.layers
    second.self_attn.q_proj = first.self_attn.q_proj
    return model


def one_parameter_twice() -> Any:
    model = tiny.llama()
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "plain": tiny.llama,
    "tied embeddings": lambda: tiny.llama(tie_word_embeddings=True),
    "one layer twice": one_layer_twice,
    "one linear twice": one_linear_twice,
    "one parameter twice": one_parameter_twice,
}


def plan(model: Any) -> None:
    gacfx.plan(model, tiny.tokenizer(), calibration=tiny.texts(), search=SEARCH)


def plan_and_verify(model: Any) -> None:
    study = api.calibrate(model, tiny.tokenizer(), calibration=tiny.texts())
    profile = load("h200")
    planned = study.plan("0.2", profile=profile, search=SEARCH)
    api.summarise(study, {"gacfx": planned}, profile, Workload())


LOOKS: dict[str, Callable[[Any], object]] = {
    "capture": gacfx.capture,
    "inspect": gacfx.inspect,
    "check_saves": api.check_saves,
    "plan": plan,
    "plan and verify": plan_and_verify,
}


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that looking might have touched, except the values."""
    config: Any = model.config
    return {
        "parameters": [(n, id(p), p.requires_grad, p.grad) for n, p in parameters(model)],
        "modules": [(n, id(m), m.training) for n, m in model.named_modules(remove_duplicate=False)],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "config": json.dumps(config.to_dict(), default=str, sort_keys=True),
        "attributes": sorted(vars(model)),
        "random": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
    }


def parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("look", few(LOOKS, "inspect", "check_saves", "plan and verify"))
@pytest.mark.parametrize("kind", MODELS)
def test_looking_changes_nothing(kind: str, look: str) -> None:
    model = MODELS[kind]()
    ids = torch.arange(3, 14)[None]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(ids, use_cache=False)[0]
    known = snapshot(model)
    LOOKS[look](model)
    assert snapshot(model) == known
    assert all(torch.equal(values[n], t) for n, t in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False)[0], before)


@pytest.mark.parametrize(
    ("make", "name"), [(one_linear_twice, "self_attn.q_proj"), (one_parameter_twice, "mlp.up_proj")]
)
def test_a_weight_with_several_names_is_refused_with_the_other_name(
    make: Callable[[], Any], name: str
) -> None:
    plan = gacfx.plan(
        make(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.5", search=SEARCH
    ).plan
    first, second = (f"model.layers.{layer}.{name}" for layer in (0, 1))
    assert plan.refusals[second] == f"weight is shared with {first}.weight"
    assert not {first, second} & plan.weights.keys()


def test_a_model_with_one_layer_twice_is_compressed_and_comes_back(tmp_path: Any) -> None:
    model = one_layer_twice()
    made = gacfx.compress(
        model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.1", search=SEARCH
    )
    again, _ = gacfx.load(gacfx.save(made, tmp_path / "out"))
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False)[0], again(ids, use_cache=False)[0])


def test_inside_inference_mode_a_model_from_outside_is_compressed() -> None:
    model = tiny.llama()
    with torch.inference_mode():
        made = gacfx.compress(
            model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2", search=SEARCH
        )
    assert made.planned.plan.ranks
    assert not any(p.is_inference() for p in made.model.parameters())


def test_a_model_made_inside_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = tiny.llama()
    with pytest.raises(gacfx.GacError, match=r"inference_mode\(\).* load or build it outside"):
        gacfx.plan(model, tiny.tokenizer(), calibration=tiny.texts())
