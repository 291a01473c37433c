"""Is this a language model, and does it read this text? Asked before calibration begins."""

# T tokens, V vocabulary

import inspect
import math
import sys

import torch
from torch import Tensor, nn

from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.predictions import predicting
from gacfx.calibration.running import borrowed, computing_dtype
from gacfx.calibration.text import SAMPLE_TOKENS, Corpus, check_fits, embedding_rows
from gacfx.core.model_class import text_config
from gacfx.core.store import Store, remembered
from gacfx.errors import PoorQuality, UnsupportedModel

WORSE_THAN_GUESSING_NATS = 0.5
"""A model that knows nothing pays ln(vocabulary); so far above it, something does not fit."""
READ_LOSS = "loss.sample"
"""Set of the loss of the dense model on it, nats per token."""
LEAST_LEAK = 4 * torch.finfo(torch.float32).eps
"""Share of the later logits' movement below which the earlier ones count as unmoved. A causal model
gives 0.0 (also with experts, on a CPU); BERT with random weights 3e-4."""


def check_causal(model: nn.Module, corpus: Corpus) -> None:
    """Nothing when earlier predictions stay as they are while later tokens change.

    The loss of the next token says nothing about a model that has seen that token.

    Raises:
        CalibrationError: the corpus does not fit the model.
        UnsupportedModel: the first half of a document's predictions depends on the second half.
    """
    check_fits(model, corpus)
    ids_T = max(corpus.documents[:4], key=len)[:128]
    half = len(ids_T) // 2
    other_T = torch.cat([ids_T[:half], _others(ids_T)[half:]])
    found = []
    with borrowed(model), torch.no_grad(), predicting(model, [ids_T, other_T]) as predict:
        for ids in (ids_T, other_T):
            ((_, parts),) = predict([ids])
            found.append(torch.cat([part[0] for part in parts]))
    first_TV, second_TV = found
    moved_T = (first_TV - second_TV).nan_to_num(0.0, 0.0, 0.0).abs().mean(-1)
    early, late = float(moved_T[:half].mean()), float(moved_T[half:].mean())
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), first_TV.dtype)
    dtype = computing_dtype(model) or own
    if early > max(LEAST_LEAK, torch.finfo(dtype).eps / 4) * late:
        raise UnsupportedModel(
            f"{type(model).__name__} sees the future: its predictions for the first {half} tokens "
            f"move by {early:.1e} when later ones change, so the loss of the next token says "
            f"nothing about it; {_advice(model)}"
        )


def _advice(model: nn.Module) -> str:
    """What to do about a model that sees the future, where its code has a switch and where not."""
    config = text_config(getattr(model, "config", None))
    try:
        code = inspect.getsource(sys.modules[type(model).__module__])
    except (KeyError, OSError, TypeError):  # of a notebook, for example
        code = ""
    if getattr(config, "is_decoder", None) is False and "config.is_decoder" in code:
        return "set is_decoder=True in its configuration, or take a causal model"
    return "nothing in its configuration changes that; take a causal model"


def _others(ids_T: Tensor) -> Tensor:
    """For each token another one of the same text: one that stayed would hide who sees just it.

    A text of a single token has no other.
    """
    first = ids_T[0]
    second = next((token for token in ids_T if token != first), first)
    before_T = ids_T.roll(1)
    return torch.where(before_T != ids_T, before_T, torch.where(ids_T == first, second, first))


def check_reads(
    model: nn.Module, corpus: Corpus, store: Store | None, device: torch.device | None
) -> None:
    """Nothing when the dense model predicts a sample of the text no worse than guessing, or nearly
    so.

    Args:
        model: dense.
        corpus: calibration text.
        store: where the loss is remembered; None to measure it.
        device: where layers compute; None for where the model is.

    Raises:
        NoNumbers: logits are NaN or infinite.
        CalibrationError: the text has a token that the model gives no probability.
        PoorQuality: its loss is above ln(vocabulary) + 0.5, or not finite.
    """
    sample = corpus.sample(SAMPLE_TOKENS)
    check_loss(
        model,
        remembered(
            store,
            READ_LOSS,
            lambda: evaluate(model, sample, device=device).checked().nats_per_token,
        ),
    )


def check_loss(model: nn.Module, nats_per_token: float) -> None:
    """Nothing when a loss is no worse than that of guessing, or nearly so.

    Args:
        model: dense.
        nats_per_token: its loss on calibration text.

    Raises:
        PoorQuality: its loss is above ln(vocabulary) + 0.5, or not finite.
    """
    rows = embedding_rows(model)
    limit = math.log(rows) + WORSE_THAN_GUESSING_NATS if rows else math.inf
    if not nats_per_token <= limit or math.isinf(nats_per_token):
        raise PoorQuality(
            f"the dense model pays {nats_per_token:.2f} nats/token on this text, and guessing "
            f"costs {math.log(rows or 1):.2f}: is it the model's own tokenizer, and a language "
            "that it knows? With force (--force) it goes on"
        )
