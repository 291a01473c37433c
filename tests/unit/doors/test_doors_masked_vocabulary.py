"""A model that masks padding rows of its vocabulary goes the whole road; texts with them do not."""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import gacfx
from gacfx import api
from gacfx.calibration.text import Corpus
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.errors import CalibrationError
from tests import tiny

SEARCH = Search(value="fisher")
TOKENS = 90
"""Rows of the vocabulary that are tokens; the rest is padding."""


class Padded(LlamaForCausalLM):
    """Logits of padding rows are -inf."""

    def forward(self, *args: Any, use_cache: bool | None = None, **more: Any) -> Any:
        """As of Llama, but for the rows from TOKENS on."""
        out = super().forward(*args, use_cache=use_cache, **more)
        assert out.logits is not None
        rows = torch.arange(out.logits.shape[-1])
        out.logits = out.logits.masked_fill(rows >= TOKENS, -torch.inf)
        return out


def padded() -> Any:
    plain = tiny.llama(32, 48, layers=1, vocab_size=97)
    model: Any = Padded(plain.config)
    model.load_state_dict(plain.state_dict())
    return model.eval()


@cache
def text(high: int = TOKENS) -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, high, (40,), generator=random) for _ in range(4)))


@pytest.mark.filterwarnings("ignore:Padded is no class of transformers")
def test_a_masked_vocabulary_is_compressed_and_verified() -> None:
    made = gacfx.compress(padded(), calibration=text(), ratio="0.3", search=SEARCH)
    assert made.planned.plan.ranks
    assert all(side.nats_per_token < 100 for side in made.summary.sides)


def test_text_with_masked_tokens_is_refused_in_calibration_and_judgement() -> None:
    with pytest.raises(CalibrationError, match="has the token id 9[0-6], which the model gives no"):
        api.calibrate(padded(), calibration=text(97))
    study = api.calibrate(padded(), calibration=text())
    with pytest.raises(CalibrationError, match="has the token id 9[0-6], which the model gives no"):
        api.summarise(study, {}, api.load_profile("h200"), Workload(), text(97))
