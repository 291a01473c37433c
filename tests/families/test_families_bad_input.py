"""Every method, on models and texts that are odd: it plans within the budget, or says why not."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from gacfx.api import load_profile
from gacfx.calibration.text import Corpus
from gacfx.captured import OtherSettings
from gacfx.compressors.methods import METHODS
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.errors import UnsupportedModel
from gacfx.study import Study
from tests.families.zoo import FAMILIES, VOCAB

PROFILE = load_profile("h200")
PRUNERS = ("llm-pruner", "magnitude", "random")
pytestmark = [
    pytest.mark.filterwarnings("ignore::gacfx.calibration.few_tokens.FewTokens"),
    pytest.mark.filterwarnings(f"ignore::{OtherSettings.__module__}.{OtherSettings.__name__}"),
]


def corpus(count: int = 6, length: int = 40, words: int = VOCAB) -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, words, (length,), generator=random) for _ in range(count)))


def dead_channels(model: Any) -> None:
    """Some inputs of ``down_proj`` are always 0."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::3] = 0


def zero_activations(model: Any) -> None:
    """A whole MLP is fed zeros."""
    with torch.no_grad():
        model.model.layers[0].post_attention_layernorm.weight.zero_()


def shared_module(model: Any) -> None:
    """Two layers are one MLP."""
    model.model.layers[1].mlp = model.model.layers[0].mlp


def idle_experts(model: Any) -> None:
    """Every token goes to the first experts; others see none."""
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 5.0  # a coordinate that all tokens share
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.weight[:, 0] = torch.tensor([3.0, 2.0, 1.0, 0.0])


def tied_head(model: Any) -> None:
    """The head is the embedding."""
    model.lm_head.weight = model.model.embed_tokens.weight


def as_it_is(_model: Any) -> None:
    return


CASES: dict[str, tuple[str, Callable[[Any], None], Corpus]] = {
    "tied weights": ("llama", tied_head, corpus()),
    "biases": ("qwen2", as_it_is, corpus()),
    "norms of heads": ("qwen3", as_it_is, corpus()),
    "sliding windows": ("mistral", as_it_is, corpus()),
    "experts that see no token": ("mixtral", idle_experts, corpus()),
    "dead channels": ("llama", dead_channels, corpus()),
    "zero activations": ("llama", zero_activations, corpus()),
    "fewer tokens than ranks": ("llama", as_it_is, corpus(2, 34)),
    "singular moments": ("llama", as_it_is, corpus(words=8)),
}


@cache
def study(case: str) -> Study:
    family, change, text = CASES[case]
    model = FAMILIES[family].make()
    change(model)
    return Study.make(model, text, method="llm-pruner", structures=True, force=True)


def planned(case: str, method: str) -> Planned:
    prune = method in PRUNERS
    search = Search(prune="only") if prune else Search(value="two-sided")
    return study(case).with_method(method).plan("0.2", profile=PROFILE, search=search)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("case", CASES)
def test_a_plan_keeps_the_budget_and_the_model_its_numbers(case: str, method: str) -> None:
    made = planned(case, method)
    plan = made.plan
    assert plan.kept_params <= plan.budget.limit_params
    assert any(not choice.decision.is_dense for choice in plan.choices)
    assert all(factors.finite for factors in made.factors.values())
    assert study(case).measure(made) < 9
    assert all(reason for reason in plan.refusals.values())


@pytest.mark.parametrize("method", [each for each in METHODS if each not in (*PRUNERS, "palu")])
def test_a_module_that_two_layers_share_stays_with_a_reason(method: str) -> None:
    model: Any = FAMILIES["llama"].make()
    shared_module(model)
    found = Study.make(model, corpus(), method=method, force=True)
    plan = found.plan("0.2", profile=PROFILE, search=Search(value="two-sided")).plan
    assert plan.kept_params <= plan.budget.limit_params
    for name in ("gate_proj", "up_proj", "down_proj"):
        shared = f"model.layers.0.mlp.{name}.weight"
        assert plan.refusals[f"model.layers.1.mlp.{name}"] == f"weight is shared with {shared}"


@pytest.mark.parametrize(
    ("method", "why"),
    [
        *(
            (each, "prunes MLPs and attentions, and none .*: gate_proj: its weight")
            for each in PRUNERS
        ),
        ("palu", "no weight can be compressed: .*weight is shared with"),
    ],
)
def test_methods_that_it_leaves_nothing_to_do_say_why(method: str, why: str) -> None:
    model: Any = FAMILIES["llama"].make()
    shared_module(model)
    with pytest.raises(UnsupportedModel, match=why):
        Study.make(model, corpus(), method=method, force=True)
