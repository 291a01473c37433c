"""KL(dense || model) on the predicted positions of windows, and its slopes, in modest memory.

Of softmax outputs p (dense) and q (model) the slope of KL(p || q) at the logits of q is q - p, so
that no copy of the logits is kept for a backward: the slopes take the place of the dense logits.
"""

# B windows, T tokens of each, R = B x T positions, V vocabulary

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Batch, Reads, batches, how_read
from gacfx.calibration.divergence import divergences
from gacfx.calibration.labels import check_logits
from gacfx.calibration.running import batch_logits
from gacfx.calibration.text import Corpus, embedding_rows

AT_ONCE = 2**22
"""Logits whose probabilities are made at once; 17 MB in float32."""
MOST_LOGITS = 2**26
"""Logits of windows that are read together, at most; beyond, windows are read one by one."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A model on held-back text."""

    kl: float
    """KL(dense || model), nats per token; NaN or infinite for a model that broke down."""
    nats: float
    """Negative log-likelihood of the text, nats per token."""
    tokens: int
    """That were predicted: all but the first of each window."""

    @property
    def score(self) -> float:
        """What is to be least: KL and loss together, nats per token; infinite without numbers.

        The loss of the text says more of a language model than its likeness to another one, and is
        the noisier of both.
        """
        found = self.kl + self.nats
        return math.inf if math.isnan(found) else found


def reading(model: nn.Module, windows: Sequence[Tensor], at_once: int) -> Reads:
    """Which windows a model reads together.

    Args:
        model: in evaluation mode.
        windows: [T] each.
        at_once: tokens that would be read together, at most.
    """
    if at_once * (embedding_rows(model) or 1) > MOST_LOGITS:
        return Reads.ALONE
    ordered = sorted(windows, key=len, reverse=True)
    return how_read(model, ordered)


def learn_from(
    dense: nn.Module, model: nn.Module, windows: Sequence[Tensor], reads: Reads
) -> float:
    """KL(dense || model), mean over the predicted tokens of some windows; its slopes are added to
    the ``grad`` of the parameters of ``model``.

    Args:
        dense: what is right.
        model: that learns.
        windows: token ids [T] each.
        reads: which of them are read together.

    Raises:
        NoNumbers: ``dense`` gives NaN or infinity for one of them.

    Returns:
        Nats per token. It may be NaN or infinite, and no slopes are made of it then.
    """
    tokens = sum(len(each) - 1 for each in windows)
    nats = 0.0
    for batch in batches(windows, reads):
        with torch.no_grad():
            known_RV = _known(dense, batch)
        found_BTV = batch_logits(model, batch.ids)
        found_RV = found_BTV.detach().flatten(0, 1)
        kl = float(_slopes_in_place(known_RV, found_RV, _predicting(batch), tokens))
        nats += kl
        if not torch.isfinite(torch.tensor(kl)):
            return nats / tokens
        found_BTV.backward(known_RV.view_as(found_BTV).to(found_BTV.dtype))
    return nats / tokens


@torch.no_grad()
def judge(dense: nn.Module, model: nn.Module, corpus: Corpus, reads: Reads) -> Judgement:
    """What a model makes of held-back text.

    Args:
        dense: what is right.
        model: that is judged, in evaluation mode.
        corpus: held-back text.
        reads: which windows are read together.

    Raises:
        NoNumbers: ``dense`` gives NaN or infinity for a window.
    """
    kl, nats = torch.zeros(2, dtype=torch.float64)
    for batch in batches(corpus.documents, reads):
        ids_BT = batch.ids
        known_RV = _known(dense, batch)
        found_RV = batch_logits(model, ids_BT).flatten(0, 1)
        real_R, next_R = _predicting(batch), ids_BT.roll(-1, dims=1).flatten()
        for part in _parts(found_RV):
            real = real_R[part].to(found_RV.device)
            known, found = (each[part].log_softmax(-1) for each in (known_RV, found_RV))
            kl += divergences(known, found)[real].double().sum().cpu()
            own = found.gather(1, next_R[part, None].to(found.device))[:, 0]
            nats -= own[real].double().sum().cpu()
    tokens = corpus.tokens - len(corpus.documents)
    return Judgement(float(kl) / tokens, float(nats) / tokens, tokens)


def _known(dense: nn.Module, batch: Batch) -> Tensor:
    """[R, V] logits of the dense model."""
    logits_BTV = batch_logits(dense, batch.ids)
    check_logits(batch.rows(logits_BTV))
    return logits_BTV.flatten(0, 1)


def _slopes_in_place(known_RV: Tensor, found_RV: Tensor, real_R: Tensor, tokens: int) -> Tensor:
    """Sum of KL over the real positions, float64; ``known_RV`` becomes its slopes by ``tokens``."""
    nats = torch.zeros((), dtype=torch.float64)
    for part in _parts(found_RV):
        real = real_R[part].to(found_RV.device)
        known, found = (each[part].log_softmax(-1) for each in (known_RV, found_RV))
        nats += divergences(known, found)[real].double().sum().cpu()
        known_RV[part] = found.exp_().sub_(known.exp_()).mul_(real[:, None] / tokens)
    return nats


def _predicting(batch: Batch) -> Tensor:
    """[R]: whether a token of the same window follows."""
    ids_BT = batch.ids
    lengths_B = torch.tensor([len(each) for each in batch.documents])
    return (torch.arange(ids_BT.shape[1]) < lengths_B[:, None] - 1).flatten()


def _parts(logits_RV: Tensor) -> list[slice]:
    step = max(AT_ONCE // logits_RV.shape[1], 1)
    return [slice(at, at + step) for at in range(0, len(logits_RV), step)]
