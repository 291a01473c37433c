"""Gather second moments: one forward and one backward for each document.

Labels are sampled from the model's own prediction at every position (true Fisher: Martens and
Grosse 2015), by generators of our own, one for each document, seeded by its token ids: the
statistics do not depend on the order of the documents, and the global random state is not touched.

Half precision: the model runs in its own dtype (bf16 everywhere, fp16 on a GPU), logits and the
loss in float32, sums in float64. fp16 on a CPU runs in a float32 copy of the model.
"""

# T tokens of one document, V vocabulary

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from gacfx.calibration.running import borrowed, impossible, logits_of, runnable, token_nats
from gacfx.calibration.sums import InputSums, LinearSums
from gacfx.calibration.targets import check_finite, targets
from gacfx.calibration.text import Corpus, check_fits, document_digest
from gacfx.core.statistics import Statistics, weight_digest
from gacfx.errors import CalibrationError
from gacfx.modules.dense import weight_of


def gather(
    model: nn.Module,
    corpus: Corpus,
    modules: Mapping[str, nn.Module] | Iterable[str],
    *,
    both_sides: Container[str] = (),
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Moments of every targeted weight, per token, float64, on the model's device.

    The whole model and the activations of one document are in memory; parameters get no gradients.
    Modes, ``requires_grad`` and ``grad`` of the model are left as they were.

    Args:
        model: Hugging Face causal language model, or a module from ids [1, T] to logits [1, T, V].
        corpus: calibration text.
        modules: names of the targeted ``nn.Linear`` and ``Conv1D`` modules, or a mapping of them.
        both_sides: names of those that may lose outputs or inputs, for which the moment of the
            long side is gathered too: 8 L^2 bytes each, one for all that are fed the same tensor.
        seed: of the sampled labels.
        progress: called after each document with its number of tokens.

    Raises:
        CalibrationError: text that does not fit, unknown names, NaN or infinite weights or logits,
            a token that the model gives no probability.
        UnsupportedModel: a module of another kind.
    """
    check_fits(model, corpus)
    check_finite(model)
    chosen = targets(model, modules)
    digests = {name: weight_digest(weight_of(module)) for name, module in chosen.items()}
    model = runnable(model)
    chosen = targets(model, list(chosen))
    inputs = InputSums()
    sums = {
        name: LinearSums(name, module, inputs, both_sides=name in both_sides)
        for name, module in chosen.items()
    }
    hooks = [chosen[name].register_forward_hook(sums[name].forward_hook) for name in chosen]
    nats = 0.0
    try:
        with borrowed(model), torch.enable_grad():
            for index, ids_T in enumerate(corpus.documents):
                nats += _one_document(model, ids_T, seed, index)
                inputs.flush()
                if progress is not None:
                    progress(len(ids_T))
    finally:
        for hook in hooks:
            hook.remove()
    return Statistics(
        moments={name: sums.pop(name).moments(corpus.tokens) for name in chosen},
        tokens=corpus.tokens,
        text_digest=corpus.digest,
        seed=seed,
        dense_nats_per_token=nats / (corpus.tokens - len(corpus.documents)),
        digests=digests,
    )


def _one_document(model: nn.Module, ids_T: Tensor, seed: int, index: int) -> float:
    """Runs the hooks forward and backward; the document's own loss, nats."""
    logits_TV = logits_of(model, ids_T)
    # -inf masks rows of the vocabulary; the largest logit of every position must be a number.
    if not bool(torch.isfinite(logits_TV.detach().amax(-1)).all()):
        raise CalibrationError(
            f"the model's logits are NaN or infinite on document {index}; "
            "run it in bfloat16 or float32"
        )
    nats_T = token_nats(logits_TV.detach(), ids_T)
    if why := impossible(nats_T, ids_T, index):
        raise CalibrationError(why)
    labels_T = sample_labels(logits_TV.detach(), _generator(seed, ids_T))
    if logits_TV.requires_grad:
        # The sum, not the mean: each token's gradient is that of its own log-likelihood.
        loss = nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum")
        torch.autograd.backward(loss)
    return float(nats_T.double().sum())


def sample_labels(logits_TV: Tensor, generator: torch.Generator) -> Tensor:
    """One label [T] for each position, drawn from softmax(logits) by the inverse of its sums.

    Args:
        logits_TV: finite or -inf, any device.
        generator: on the CPU, so that a model on a GPU gets the same draws.
    """
    sums_TV = logits_TV.softmax(-1).cumsum(-1)
    draw_T1 = torch.rand(len(logits_TV), 1, generator=generator).to(sums_TV) * sums_TV[:, -1:]
    # Below the total, so that the last label with a probability above zero is the last drawn.
    draw_T1 = torch.minimum(draw_T1, sums_TV[:, -1:].nextafter(torch.zeros_like(draw_T1)))
    return torch.searchsorted(sums_TV, draw_T1, right=True)[:, 0]


def _generator(seed: int, ids_T: Tensor) -> torch.Generator:
    mixed = hashlib.sha256(f"{seed}:".encode() + document_digest(ids_T)).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)
