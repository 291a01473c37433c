"""fingerprint and check_plan: another model and other weights are told apart from the same ones."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from gacfx.core.locks import check_plan, fingerprint
from gacfx.core.plan import Plan
from gacfx.errors import PlanMismatch
from gacfx.modules.install import install_
from tests.unit.checkpoint.tiny_models import (
    MODELS,
    cast_,
    factors_for,
    gpt2,
    llama,
    plan_for,
    qwen2,
    skeleton_of,
)

Q1 = "model.layers.1.self_attn.q_proj"


def planned() -> tuple[PreTrainedModel, Plan]:
    torch.manual_seed(0)
    model = llama()
    return model, plan_for(model, factors_for(model, ("q_proj",)))


@pytest.mark.parametrize("family", MODELS)
def test_the_meta_model_and_the_loaded_one_agree(family: str) -> None:
    model = MODELS[family]()
    skeleton = skeleton_of(model)
    assert fingerprint(skeleton) == fingerprint(model)
    assert fingerprint(cast_(model, torch.bfloat16)) == fingerprint(skeleton)
    assert len(fingerprint(model)) == 64


def test_other_models_differ() -> None:
    models = [llama(), qwen2(), gpt2()]
    prints = {fingerprint(model) for model in models}
    install_(models[0], factors_for(models[0], ("q_proj",)))
    assert len(prints | {fingerprint(models[0])}) == 4


def test_an_untied_head_has_the_names_of_a_tied_one() -> None:
    # A loader that ties later, or a checkpoint that keeps both, is still the same architecture.
    assert fingerprint(llama(tied=True)) == fingerprint(llama(tied=False))


def test_the_right_plan_passes() -> None:
    model, plan = planned()
    check_plan(model, plan)


def test_a_plan_without_locks_passes_where_it_fits() -> None:
    _, plan = planned()
    check_plan(llama(), replace(plan, fingerprint="", digests={}))


def test_other_weights() -> None:
    model, plan = planned()
    with torch.no_grad():
        model.get_parameter(f"{Q1}.weight")[3, 5] += 1e-3
    with pytest.raises(PlanMismatch, match=rf"{Q1}: its weight .* is not what the factors were"):
        check_plan(model, plan)


def test_another_dtype_is_another_weight() -> None:
    model, plan = planned()
    with pytest.raises(PlanMismatch, match=r"torch.bfloat16.* in the plan's dtype \(float32\)"):
        check_plan(cast_(model, torch.bfloat16), plan)


def test_a_model_without_the_module() -> None:
    _, plan = planned()
    with pytest.raises(PlanMismatch, match=r"q_proj: the plan has it, the model has not"):
        check_plan(gpt2(), plan)


def test_a_model_with_another_shape() -> None:
    model, plan = planned()
    first = replace(plan.choices[0], weights=(replace(plan.choices[0].weights[0], rows=96),))
    with pytest.raises(PlanMismatch, match=r"its weight is \(48, 48\), the plan is for 96 x 48"):
        check_plan(model, replace(plan, choices=(first, *plan.choices[1:])))


def test_a_model_that_differs_elsewhere() -> None:
    _, plan = planned()
    with pytest.raises(PlanMismatch, match="the plan was made for another model"):
        check_plan(qwen2(), plan)


def test_a_compressed_model_is_another_model() -> None:
    model, plan = planned()
    install_(model, factors_for(model, ("q_proj",)))
    with pytest.raises(PlanMismatch, match=r"its weight is \(0,\)"):
        check_plan(model, plan)


def test_a_model_without_weights() -> None:
    model, plan = planned()
    with pytest.raises(PlanMismatch, match="has no values"):
        check_plan(skeleton_of(model), plan)
