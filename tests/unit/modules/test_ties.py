"""tied_modules: every way in which two modules can share a parameter."""

import torch
from torch import nn
from transformers.initialization import no_tie_weights

from gacfx.modules.ties import tied_modules
from tests.unit.checkpoint.tiny_models import gpt2, llama, skeleton_of


def test_nothing_is_tied() -> None:
    assert tied_modules(llama()) == {}


def test_a_tied_head_both_ways() -> None:
    assert tied_modules(llama(tied=True)) == {
        "lm_head": "model.embed_tokens",
        "model.embed_tokens": "lm_head",
    }
    assert tied_modules(gpt2()) == {"lm_head": "transformer.wte", "transformer.wte": "lm_head"}


def test_the_meta_model_agrees_even_before_it_is_tied() -> None:
    model = llama(tied=True)
    skeleton = skeleton_of(model)
    with no_tie_weights():
        loose = skeleton_of(model)
    head, table = (loose.get_parameter(f"{n}.weight") for n in ("lm_head", "model.embed_tokens"))
    assert head is not table
    assert tied_modules(skeleton) == tied_modules(loose) == tied_modules(model)


def test_one_parameter_in_three_modules() -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcd"})
    for name in "bc":
        model[name].weight = model["a"].weight
    assert tied_modules(model) == {"a": "b", "b": "a", "c": "a"}


def test_one_module_under_two_names() -> None:
    shared = nn.Linear(4, 4)
    assert tied_modules(nn.Sequential(shared, shared)) == {"0": "1", "1": "0"}


def test_two_parameters_with_one_memory() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = nn.Parameter(one.weight.data)
    assert tied_modules(nn.Sequential(one, other)) == {"0": "1", "1": "0"}


def test_a_shared_bias_counts() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.bias = one.bias
    assert tied_modules(nn.Sequential(one, other)) == {"0": "1", "1": "0"}


def test_empty_parameters_share_no_memory() -> None:
    model = nn.ParameterDict({name: nn.Parameter(torch.empty(0)) for name in "ab"})
    assert tied_modules(nn.ModuleDict({"one": model, "two": nn.Linear(2, 2)})) == {}
