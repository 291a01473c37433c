"""KL with slopes by hand against autograd and against the divergence that plans are judged by."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Reads
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.text import Corpus
from gacfx.healing import divergence
from gacfx.healing.divergence import judge, learn_from, reading
from tests import tiny


def models() -> tuple[Any, Any]:
    return tiny.llama(32, 48, 1, 0), tiny.llama(32, 48, 1, 1)


def windows() -> tuple[Tensor, ...]:
    """Of three lengths."""
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randint(0, 258, (length,), generator=random) for length in (40, 33, 40, 36))


def plain(known: nn.Module, found: nn.Module) -> Tensor:
    """The same by autograd, one window at a time."""
    terms = []
    for ids_T in windows():
        known_TV, found_TV = (m(ids_T[None]).logits[0, :-1].log_softmax(-1) for m in (known, found))
        terms.append((known_TV.exp() * (known_TV - found_TV)).sum(-1))
    return torch.cat(terms).mean()


@pytest.mark.parametrize("reads", Reads)
@pytest.mark.parametrize("at_once", [2**22, 258 * 7])
def test_slopes_are_those_of_autograd(
    reads: Reads, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "AT_ONCE", at_once)
    known, found = models()
    loss = plain(known, found)
    loss.backward()
    want = float(loss.detach())
    slopes = {name: p.grad.clone() for name, p in found.named_parameters()}
    found.zero_grad()
    known.zero_grad()
    assert learn_from(known, found, windows(), reads) == pytest.approx(want, rel=1e-5)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter.grad, slopes[name], atol=1e-7, rtol=1e-3)
    assert all(p.grad is None for p in known.parameters())


@pytest.mark.parametrize("reads", Reads)
def test_a_judgement_is_kl_and_the_loss_that_eval_measures(reads: Reads) -> None:
    known, found = models()
    corpus = Corpus(windows())
    said = judge(known, found, corpus, reads)
    assert said.kl == pytest.approx(float(plain(known, found).detach()), rel=1e-5)
    want = evaluate(found, corpus)
    assert said.nats == pytest.approx(want.nats_per_token, rel=1e-6)
    assert said.tokens == want.tokens
    assert judge(known, known, corpus, reads).kl == pytest.approx(0, abs=1e-7)


def test_what_the_dense_model_masks_adds_nothing_and_moves_nothing() -> None:
    def masked(ids: Tensor, low: float) -> SimpleNamespace:
        logits = torch.zeros(*ids.shape, 4)
        logits[..., 3] = low
        return SimpleNamespace(logits=(logits + bias).requires_grad_(low == -1.0))

    bias = torch.zeros(4, requires_grad=True)

    class Masked(nn.Module):
        def __init__(self, low: float) -> None:
            super().__init__()
            self.low = low

        def forward(self, ids: Tensor) -> SimpleNamespace:
            return masked(ids, self.low)

    ids = (torch.zeros(34, dtype=torch.int64),)
    both = Masked(-math.inf)
    assert judge(both, both, Corpus(ids), Reads.ALONE).kl == pytest.approx(0, abs=1e-7)
    share = math.log(3 + math.exp(-1.0)) - math.log(3)
    found = learn_from(both, Masked(-1.0), ids, Reads.ALONE)
    assert found == pytest.approx(share, rel=1e-5)
    assert bias.grad is not None and bool(torch.isfinite(bias.grad).all())
    assert math.isinf(judge(Masked(-1.0), both, Corpus(ids), Reads.ALONE).kl)


def test_a_loss_that_is_no_number_makes_no_slopes() -> None:
    known, found = models()
    found.model.norm.weight.data[0] = torch.nan
    assert math.isnan(learn_from(known, found, windows(), Reads.ALONE))
    assert all(p.grad is None for p in found.parameters())


def test_windows_are_read_one_by_one_where_logits_would_fill_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = models()[0]
    assert reading(model, windows(), 80) is Reads.PADDED
    monkeypatch.setattr(divergence, "MOST_LOGITS", 258 * 79)
    assert reading(model, windows(), 80) is Reads.ALONE
    assert replace(judge(model, model, Corpus(windows()), Reads.ALONE), kl=0.0, nats=0.0).tokens
