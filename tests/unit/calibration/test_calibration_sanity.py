"""Models that see the future, and models that do not know the text, are refused at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel, RobertaConfig, RobertaForCausalLM

from gacfx import api
from gacfx.calibration.sanity import check_causal, check_loss
from gacfx.calibration.text import Corpus
from gacfx.errors import PoorQuality, UnsupportedModel
from tests import tiny
from tests.families.zoo import FAMILIES

CAUSAL = [name for name in FAMILIES if name not in ("bert", "t5", "vit")]
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 88,
}
ENCODERS: dict[str, Callable[..., Any]] = {
    "bert": lambda **more: BertLMHeadModel(BertConfig(**SIZES, **more)),
    "roberta": lambda **more: RobertaForCausalLM(RobertaConfig(**SIZES, **more)),
}


def corpus(tokens: int = 48) -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, 97, (tokens,), generator=random) for _ in range(4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_model_that_sees_the_future_is_refused(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = ENCODERS[name]().eval().to(dtype)
    with pytest.raises(UnsupportedModel, match=r"sees the future.*is_decoder=True"):
        check_causal(model, corpus())
    as_decoder = ENCODERS[name](is_decoder=True).eval().to(dtype)
    check_causal(as_decoder, corpus())


def test_a_switch_is_named_only_where_there_is_one() -> None:
    from benchmarks.families.models import families, make

    said = "nothing in its configuration changes that; take a causal model"
    with pytest.raises(UnsupportedModel, match=f"CpmAntForCausalLM sees the future.*{said}"):
        check_causal(make(families()["cpmant"]), corpus())
    with pytest.raises(UnsupportedModel, match=f"Peeks sees the future.*{said}"):
        check_causal(Peeks(1, 23), corpus())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CAUSAL)
def test_every_causal_family_passes(name: str, dtype: torch.dtype) -> None:
    check_causal(FAMILIES[name].make().to(dtype), corpus())


class Peeks(nn.Module):
    """Its prediction at one position is of the token ``ahead`` places later, and no other one is.

    What it says of a position is the number of that token, or that of its own.
    """

    def __init__(self, ahead: int, at: int) -> None:
        super().__init__()
        self.ahead, self.at = ahead, at
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen = ids.clone()
        seen[:, self.at] = ids[:, self.at + self.ahead]
        return nn.functional.one_hot(seen, 97) * self.scale


@pytest.mark.parametrize("at", [0, 11, 23])
def test_one_prediction_that_sees_the_second_half_is_enough(at: int) -> None:
    check_causal(Peeks(0, at), corpus())
    with pytest.raises(UnsupportedModel, match="Peeks sees the future"):
        check_causal(Peeks(24 - at, at), corpus())


def test_a_text_of_one_word_tells_as_much() -> None:
    same = Corpus(tuple(torch.tensor([3, *[5] * 47]) for _ in range(4)))
    check_causal(Peeks(0, 23), same)
    with pytest.raises(UnsupportedModel, match="Peeks sees the future"):
        check_causal(Peeks(1, 23), same)


def test_a_model_that_does_not_tell_its_vocabulary_is_held_to_a_number_alone() -> None:
    check_loss(Peeks(0, 0), 1e6)
    for nats in (float("inf"), float("nan")):
        with pytest.raises(PoorQuality):
            check_loss(Peeks(0, 0), nats)


def test_calibration_refuses_a_model_that_sees_the_future() -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModel, match="sees the future"):
        api.calibrate(ENCODERS["bert"]().eval(), calibration=corpus())


def unlearned() -> Any:
    """A Llama that is sure of what is not there: it pays far more than guessing costs."""
    model = tiny.llama(layers=1)
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
    return model


@pytest.mark.parametrize("door", [api.calibrate, api.plan, api.compress])
def test_a_model_that_does_not_know_the_text_stops_unless_forced(door: Any) -> None:
    told: dict[str, Any] = {"calibration": tiny.texts()}
    with pytest.raises(
        PoorQuality, match=r"pays \d+\.\d\d nats/token .* guessing costs 5\.55.*force"
    ):
        door(unlearned(), tiny.tokenizer(), **told)
    assert door(unlearned(), tiny.tokenizer(), **told, force=True) is not None


def test_the_line_is_half_a_nat_above_guessing() -> None:
    check_loss(tiny.llama(), 5.5530 + 0.499)
    for nats in (5.5530 + 0.501, float("inf"), float("nan")):
        with pytest.raises(PoorQuality):
            check_loss(tiny.llama(), nats)
