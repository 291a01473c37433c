"""Two models token by token: losses and KL against a direct computation."""

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration import predictions
from gacfx.calibration.divergence import Reference
from gacfx.calibration.evaluate import token_losses
from gacfx.calibration.paired import paired
from gacfx.calibration.text import Corpus
from gacfx.errors import CalibrationError
from tests import tiny


def text(*lengths: int) -> Corpus:
    random = torch.Generator().manual_seed(1)
    return Corpus(tuple(torch.randint(2, 258, (n,), generator=random) for n in lengths))


def kl(dense: nn.Module, model: nn.Module, ids_T: Tensor) -> Tensor:
    with torch.no_grad():
        logp_TV, logq_TV = (
            each(ids_T[None]).logits[0].double().log_softmax(-1) for each in (dense, model)
        )
    return torch.as_tensor((logp_TV.exp() * (logp_TV - logq_TV)).sum(-1)[:-1])


class Table(nn.Module):
    """Logits are the row of the last token."""

    def __init__(self, logits_VV: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(logits_VV)

    def forward(self, ids_BT: Tensor) -> Tensor:
        found = self.table(ids_BT)
        assert isinstance(found, Tensor)
        return found


def test_losses_and_divergences_are_those_of_a_direct_computation() -> None:
    dense, model = tiny.llama(seed=0), tiny.llama(seed=1, initializer_range=0.1)
    corpus = text(40, 61, 33, 40)
    found = paired(model, dense, corpus)
    for index, ids_T in enumerate(corpus.documents):
        torch.testing.assert_close(
            found.divergence[index], kl(dense, model, ids_T), rtol=1e-3, atol=1e-6
        )
    for one, other in zip(found.nats, token_losses(model, corpus), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert float(torch.cat(found.divergence).min()) > 0


def test_the_order_of_the_two_models_counts() -> None:
    dense, model = tiny.llama(seed=0, initializer_range=0.2), tiny.llama(seed=1)
    there, back = (
        paired(*pair, text(50)).divergence[0] for pair in ((model, dense), (dense, model))
    )
    assert not torch.allclose(there, back, rtol=0.1)


def test_the_mean_is_that_of_the_reference_where_all_positions_count() -> None:
    dense, model = tiny.llama(seed=0), tiny.llama(seed=1, initializer_range=0.1)
    corpus = text(60)
    found = paired(model, dense, corpus).divergence[0]
    whole = Reference(dense, corpus).divergence(model)  # its last position is one more
    with torch.no_grad():
        logp_V, logq_V = (
            each(corpus.documents[0][None]).logits[0, -1].double().log_softmax(-1)
            for each in (dense, model)
        )
    last = float((logp_V.exp() * (logp_V - logq_V)).sum())
    assert (float(found.sum()) + last) / 60 == pytest.approx(whole, rel=1e-4)


def test_parts_of_other_lengths_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, model, corpus = tiny.llama(seed=0), tiny.llama(seed=1), text(40, 51)
    whole = paired(model, dense, corpus)
    counts = iter((3, 8, 5, 7, 3, 8, 5, 7))  # of the windows of the one and the other model
    monkeypatch.setattr(predictions, "LOGITS", 258)
    monkeypatch.setattr(predictions, "positions", lambda *_: next(counts))
    parts = paired(model, dense, corpus)
    for one, other in zip(
        [*whole.nats, *whole.divergence], [*parts.nats, *parts.divergence], strict=True
    ):
        assert len(one) == len(other)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_is_at_no_distance_from_itself() -> None:
    model = tiny.llama()
    model.train()
    found = paired(model, model, text(44))
    assert torch.equal(found.divergence[0], torch.zeros(43, dtype=torch.float64))
    assert model.training and all(each.requires_grad for each in model.parameters())


def test_what_neither_holds_possible_costs_nothing_and_what_one_does_is_infinite() -> None:
    masked = torch.tensor([[0.0, 0.0, -torch.inf], [1.0, 0.0, -torch.inf], [0.0, 0.0, -torch.inf]])
    other = masked.clone()
    other[:, 0] += 1.0
    corpus = Corpus((torch.tensor([0, 1, 0, 1]),))
    fine = paired(Table(other), Table(masked), corpus).divergence[0]
    assert bool(torch.isfinite(fine).all()) and float(fine.sum()) > 0
    open_ = Table(torch.zeros(3, 3))
    assert float(paired(Table(masked), open_, corpus).divergence[0][0]) == torch.inf
    assert bool(torch.isfinite(paired(open_, Table(masked), corpus).divergence[0]).all())


def test_numbers_that_are_none_stay_so() -> None:
    broken = Table(torch.full((3, 3), torch.nan))
    found = paired(broken, Table(torch.zeros(3, 3)), Corpus((torch.tensor([0, 1, 2]),)))
    assert bool(found.nats[0].isnan().all()) and bool(found.divergence[0].isnan().all())


def test_other_vocabularies_and_texts_that_do_not_fit_are_refused() -> None:
    corpus = Corpus((torch.tensor([0, 1, 2]),))
    with pytest.raises(CalibrationError, match="vocabularies of 4 and 3 tokens have no KL"):
        paired(Table(torch.zeros(3, 3)), Table(torch.zeros(4, 4)), corpus)
    small = tiny.llama(vocab_size=100)
    for pair in ((small, tiny.llama()), (tiny.llama(), small)):
        with pytest.raises(CalibrationError, match="outside the model's vocabulary of 100"):
            paired(*pair, text(50))
