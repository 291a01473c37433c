"""Loss of a model on a corpus, also on real models where the data bundle is there."""

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration import predictions
from gacfx.calibration.evaluate import evaluate, token_losses
from gacfx.calibration.text import Corpus, max_positions, read_documents, tokenize
from gacfx.errors import CalibrationError
from tests import tiny

ROOT = Path(__file__).parents[3]
DATA = ROOT / os.environ.get("GACFX_DATA", "../shared/data")


class Bigram(nn.Module):
    """Logits are the row of the last token."""

    def __init__(self, logits_VV: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(len(logits_VV), len(logits_VV), dtype=logits_VV.dtype)
        self.table.weight.data = logits_VV
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits = self.dropout(self.table(ids_BT))
        assert isinstance(logits, Tensor)
        return logits


def test_known_loss_from_the_second_token_on() -> None:
    share_VV = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [0.0, 0.0, 1.0]])
    model = Bigram(share_VV.log())
    documents = (torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 0]))
    found = evaluate(model, Corpus(documents))
    assert found.tokens == 5
    assert found.nats_per_token == pytest.approx(math.log(2 * 2 * 1 * 4 * 2) / 5, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))
    assert model.training
    assert model.table.weight.requires_grad


def test_broken_models_lose_every_comparison() -> None:
    documents = (torch.tensor([0, 1, 1]),)
    broken = evaluate(Bigram(torch.full((2, 2), torch.nan)), Corpus(documents))
    assert (broken.nats_per_token, broken.perplexity) == (math.inf, math.inf)
    hopeless = evaluate(Bigram(torch.tensor([[1e4, 0.0], [1e4, 0.0]])), Corpus(documents))
    assert hopeless.nats_per_token == pytest.approx(1e4)
    assert hopeless.perplexity == math.inf


def test_a_token_without_probability_is_a_problem_of_the_text() -> None:
    share_VV = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    documents = (torch.tensor([2, 1, 0]), torch.tensor([0, 1, 2]))
    fine = evaluate(Bigram(share_VV.log()), Corpus(documents[:1]))
    assert fine.checked() is fine
    found = evaluate(Bigram(share_VV.log()), Corpus(documents))
    # No error yet: a candidate whose logits overflow shall lose, not end the comparison.
    assert found.nats_per_token == math.inf
    with pytest.raises(CalibrationError, match="^document 2 has the token id 2, which the model"):
        found.checked()


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits_VV = torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    text = Corpus((torch.arange(9),))
    exact = evaluate(Bigram(logits_VV.float()), text).nats_per_token
    assert evaluate(Bigram(logits_VV), text).nats_per_token == exact


def test_a_corpus_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no document"):
        evaluate(Bigram(torch.zeros(2, 2)), Corpus(()))


@pytest.mark.skipif(not (DATA / "MANIFEST.json").exists(), reason=f"no data bundle at {DATA}")
def test_perplexity_of_a_real_model() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = DATA / "models" / "babyllama-tok105-1M"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = read_documents(DATA / "text" / "tinystories_stories.jsonl")
    assert len(documents) == 1054
    # The bundle's known answer is of the first window of each story; all have 33 tokens.
    stories = [tokenize([story], tokenizer, max_positions(model)) for story in documents[:120]]
    text = Corpus(tuple(story.documents[0] for story in stories))
    found = evaluate(model, text)
    assert found.tokens == 28_961
    assert found.perplexity == pytest.approx(1.7973, abs=5e-5)


def test_a_loss_that_is_no_number_is_refused_where_it_would_be_reported() -> None:
    model = tiny.llama()
    model.config.rms_norm_eps = math.nan
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = math.nan
    found = evaluate(model, Corpus((torch.arange(2, 42),)))
    assert found.nats_per_token == math.inf  # a plan like this never wins
    with pytest.raises(CalibrationError, match="on document 1, first in .*0.input_layernorm; run"):
        found.checked()


def test_a_model_that_cannot_run_is_one_line() -> None:
    corpus = Corpus((torch.arange(2, 42),))
    model = tiny.llama()
    model.lm_head.to(torch.float64)
    with pytest.raises(CalibrationError, match="LlamaForCausalLM cannot read 40 tokens: Runtime"):
        evaluate(model, corpus)
    with pytest.raises(CalibrationError, match=r"has no values \(meta device\); load its weights"):
        evaluate(tiny.llama().to("meta"), corpus)


def test_a_few_positions_at_a_time_give_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    model, random = tiny.llama(), torch.Generator().manual_seed(0)
    text = Corpus(tuple(torch.randint(2, 258, (n,), generator=random) for n in (40, 33, 51)))
    whole = token_losses(model, text)
    monkeypatch.setattr(predictions, "LOGITS", 3 * 7 * 258)  # 7 positions of three documents
    for one, other in zip(token_losses(model, text), whole, strict=True):
        torch.testing.assert_close(one, other)
