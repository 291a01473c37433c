"""Documents that a model reads together: which, in what order, and that nothing changes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration import batches as module
from gacfx.calibration.batches import MOST_TOKENS, Reads, batches, how_read
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.gather import gather
from tests.unit.calibration.samples import VOCAB, corpus, linears, llama

LENGTHS = (64, 40, 300, 64, 1500, 2048, 3000, 50, 299, 41, 64)


@pytest.mark.parametrize("reads", list(Reads))
def test_every_document_is_in_one_batch(reads: Reads) -> None:
    documents = corpus(*LENGTHS).documents
    found = batches(documents, reads)
    assert sorted(i for batch in found for i in batch.indices) == list(range(len(LENGTHS)))
    for batch in found:
        lengths = [LENGTHS[i] for i in batch.indices]
        assert lengths == sorted(lengths, reverse=True) == [len(d) for d in batch.documents]
        assert len(lengths) == 1 or len(lengths) * lengths[0] <= MOST_TOKENS
        assert sum(lengths) == batch.tokens >= 0.75 * len(lengths) * lengths[0]
        for row, index in enumerate(batch.indices):
            assert torch.equal(batch.ids[row, : lengths[row]], documents[index])


@pytest.mark.parametrize(
    ("reads", "sizes"), [(Reads.ALONE, [1] * 11), (Reads.EQUAL, [1] * 5 + [3] + [1] * 3)]
)
def test_who_reads_less_gets_less(reads: Reads, sizes: list[int]) -> None:
    assert [len(batch.indices) for batch in batches(corpus(*LENGTHS).documents, reads)] == sizes
    padded = batches(corpus(*LENGTHS).documents, Reads.PADDED)
    assert [len(batch.indices) for batch in padded] == [1, 1, 1, 2, 6]


def test_places_after_a_document_are_told() -> None:
    (batch,) = batches(corpus(8, 6).documents, Reads.PADDED)
    assert batch.real is not None
    assert batch.real.view(2, 8).sum(1).tolist() == [8, 6]
    assert batch.ids[1, 6:].tolist() == [int(batch.documents[1][-1])] * 2
    assert torch.equal(batch.rows(batch.ids), torch.cat(batch.documents))
    (even,) = batches(corpus(8, 8).documents, Reads.EQUAL)
    assert even.real is None


def test_a_llama_reads_documents_of_any_length_together() -> None:
    model = llama()
    assert how_read(model, corpus(40, 30).documents, linears(model).values()) is Reads.PADDED


class Odd(nn.Module):
    """Ids -> logits, in a way that tells what it read beside a document."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.config = way, SimpleNamespace()
        self.embed, self.inner = nn.Embedding(VOCAB, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, VOCAB)

    def forward(self, ids_BT: Tensor, use_cache: bool = False) -> Any:
        x = self.embed(ids_BT)
        if self.way == "flat":
            x = self.inner(x.flatten(0, 1)).view_as(x)
        elif self.way == "looks ahead":
            x = self.inner(x + x.flip(1))
        elif self.way == "looks aside":
            x = self.inner(x + x.sum(0))
        elif len(ids_BT) > 1:
            raise ValueError("one at a time")
        return SimpleNamespace(logits=self.head(x))


@pytest.mark.parametrize(
    ("way", "reads"),
    [
        ("flat", Reads.EQUAL),
        ("looks ahead", Reads.EQUAL),
        ("looks aside", Reads.ALONE),
        ("one", Reads.ALONE),
    ],
)
def test_other_models_read_less_together(way: str, reads: Reads) -> None:
    model = Odd(way)
    assert how_read(model, corpus(40, 30).documents, [model.inner]) is reads
    assert not model.inner._forward_pre_hooks


def test_of_modules_that_are_no_models_nothing_is_known() -> None:
    model = Odd("flat")
    del model.config
    assert how_read(model, corpus(40, 30).documents) is Reads.ALONE


def test_long_documents_are_not_tried() -> None:
    assert how_read(Odd("flat"), corpus(1500, 1600).documents) is Reads.ALONE


def test_losses_do_not_depend_on_what_is_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = llama(), corpus(64, 50, 33, 64, 40)
    sums = gather(model, text, linears(model)).moments
    together = evaluate(model, text)
    monkeypatch.setattr(module, "MOST_TOKENS", 1)
    assert evaluate(model, text).nats_per_token == pytest.approx(together.nats_per_token, rel=1e-12)
    for name, alone in gather(model, text, linears(model)).moments.items():
        torch.testing.assert_close(sums[name].side_moment, alone.side_moment, rtol=1e-9, atol=1e-12)
