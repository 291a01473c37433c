"""Loss of a model on a corpus."""

# B documents, T tokens of each, V vocabulary

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Batch
from gacfx.calibration.faults import no_numbers
from gacfx.calibration.predictions import predicting
from gacfx.calibration.running import borrowed, impossible, runnable
from gacfx.calibration.text import Corpus, check_fits
from gacfx.errors import CalibrationError, NoNumbers
from gacfx.modules.routing_hooks import picked


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss per token of a model on a corpus."""

    nats_per_token: float
    """Mean negative log-likelihood; infinite when the model gives NaN, so that it never wins."""
    perplexity: float
    """exp(nats_per_token)."""
    tokens: int
    """Tokens that were predicted: all but the first of each window."""
    problem: str = ""
    """Why the loss says nothing of the model: logits that are no numbers, or a token that it gives
    no probability; else empty."""
    has_numbers: bool = True
    """No logits are NaN or infinite."""

    def checked(self) -> "Evaluation":
        """The evaluation itself.

        Raises:
            NoNumbers: logits are NaN or infinite.
            CalibrationError: the text has a token that the model gives no probability.
        """
        if not self.has_numbers:
            raise NoNumbers(self.problem)
        if self.problem:
            raise CalibrationError(self.problem)
        return self


def evaluate(model: nn.Module, corpus: Corpus, *, device: torch.device | None = None) -> Evaluation:
    """Loss of ``model``, each window alone and from its second token on.

    Losses are float32 per token and summed in float64. The model is left as it was;
    one in fp16 on a CPU is copied to float32, with the values that its weights have in fp16.

    Args:
        model: a causal language model.
        corpus: text.
        device: where it computes, one decoder layer after the other, while the weights stay where
            they are; None for there.

    Raises:
        CalibrationError: the corpus does not fit the model.
    """
    found = token_losses(model, corpus, device=device)
    problem = ""
    for index, ids_T in enumerate(corpus.documents):
        problem = problem or impossible(found[index], ids_T, corpus.number(index))
    with borrowed(model), torch.inference_mode():
        broken = [index for index, nats in enumerate(found) if bool(nats.isnan().any())]
        for index in broken[:1]:
            problem = no_numbers(runnable(model), corpus.documents[index], corpus.number(index))
    tokens, nats = sum(map(len, found)), mean_loss(found)
    # exp overflows a float above 709.78 nats.
    return Evaluation(nats, math.exp(nats) if nats < 709 else math.inf, tokens, problem, not broken)


def token_losses(
    model: nn.Module, corpus: Corpus, *, device: torch.device | None = None
) -> list[Tensor]:
    """Negative log-likelihood [T - 1] of each token from the second on, for each window: float32,
    nats, on the CPU.

    A model whose prompts pick their ranks has its static prefix meanwhile: to pick by a whole
    window would be to look at what is predicted (``gacfx route eval`` measures picks).

    Arguments and errors are those of :func:`evaluate`.
    """
    check_fits(model, corpus)
    found: dict[int, Tensor] = {}
    with (
        borrowed(model),
        torch.inference_mode(),
        picked(model, None),
        predicting(model, corpus.documents, device) as predict,
    ):
        for batch, parts in predict(corpus.documents):
            found |= zip(batch.indices, _losses(parts, batch), strict=True)
    return [found[index] for index in range(len(corpus.documents))]


def mean_loss(losses: Sequence[Tensor]) -> float:
    """Mean of the losses of tokens, nats, summed in float64; infinite where one is no number.

    Args:
        losses: of some windows.
    """
    nats = math.fsum(float(each.double().sum()) for each in losses) / sum(map(len, losses))
    return math.inf if math.isnan(nats) else nats


def _losses(parts: Iterable[Tensor], batch: Batch) -> list[Tensor]:
    """Negative log-likelihood [T - 1] of each token from the second on, float32, nats, of each
    document.

    Args:
        parts: logits [B, t, V] of the positions in turn.
        batch: the documents.
    """
    losses, at, ids_BT = [], 1, batch.ids
    for logits_BTV in parts:
        count = logits_BTV.shape[1]
        next_BT = ids_BT[:, at : at + count].to(logits_BTV.device)
        seen_BTV = logits_BTV[:, : next_BT.shape[1]]
        losses.append(
            nn.functional.cross_entropy(seen_BTV.flatten(0, 1), next_BT.flatten(), reduction="none")
            .view(next_BT.shape)
            .cpu()
        )
        at += count
    nats_BT = torch.cat(losses, 1)
    return [nats_BT[row, : len(ids_T) - 1] for row, ids_T in enumerate(batch.documents)]
