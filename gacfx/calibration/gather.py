"""Gather second moments: one forward and one backward for each batch of documents.

Of the whole model at once, or one decoder layer at a time (:mod:`gacfx.calibration.by_layer`); the
numbers are the same.

Half precision: the model runs in its own dtype (bf16 everywhere, fp16 on a GPU), logits and the
loss in float32, sums in float64. fp16 on a CPU runs in a float32 copy of the model.
"""

# B documents of a batch, T tokens of the longest, V vocabulary

import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Batch, batches, how_read
from gacfx.calibration.by_layer import ByLayer
from gacfx.calibration.faults import no_numbers
from gacfx.calibration.labels import finite_logits, generator_of, sample_labels
from gacfx.calibration.layered import Layered, modules_by_layer
from gacfx.calibration.running import (
    batch_logits,
    borrowed,
    computing_dtype,
    device_of,
    impossible,
    runnable,
    token_nats,
)
from gacfx.calibration.sums import InputSums, LinearSums
from gacfx.calibration.targets import check_finite, targets
from gacfx.calibration.text import Corpus, check_fits
from gacfx.core.statistics import Moments, Statistics, weight_digest
from gacfx.core.store import Store
from gacfx.core.stored_moments import StoredMoments, moments_tensors
from gacfx.errors import CalibrationError, NoNumbers, UnsupportedModel
from gacfx.modules.dense import weight_of

WHOLE = "moments.whole"
"""Set of the moments of a model that was calibrated whole."""


class NotByLayer(UserWarning):
    """A model was calibrated whole, because its layers cannot run one at a time."""


def gather_texts(
    model: nn.Module,
    texts: tuple[Corpus, ...],
    modules: Iterable[str],
    *,
    both_sides: Container[str] = (),
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
    store: Store | None = None,
    device: torch.device | None = None,
    read_on: torch.device | None = None,
) -> tuple[Statistics, ...]:
    """Statistics of every text, as :func:`gather` has them for one.

    Args:
        model: as in :func:`gather`.
        texts: disjoint.
        modules: names of the targeted modules.
        both_sides: as in :func:`gather`.
        seed: of the sampled labels.
        progress: called with the documents that were done since it was called last.
        store: where the moments are to be kept; they are then gathered one decoder layer at a time,
            and what the store has is not gathered again. A model whose layers cannot run like that
            is calibrated whole, with a warning.
        device: with a store, where each layer computes while it is at work; None for where the
            model is.
        read_on: with a store, where moments are when they are read; None for where the model is.

    Raises:
        CalibrationError, UnsupportedModel: as :func:`gather`.
    """
    names = list(modules)

    def whole(text: Corpus) -> Statistics:
        return gather(
            model,
            text,
            names,
            both_sides=both_sides,
            seed=seed,
            progress=lambda _: progress(1),
        )

    if store is None:
        return tuple(whole(text) for text in texts)
    for text in texts:
        check_fits(model, text)
    check_finite(model)
    chosen = targets(model, names)
    digests = {name: weight_digest(weight_of(module)) for name, module in chosen.items()}
    if WHOLE not in store:
        try:
            layered = Layered(model, device, computing_dtype(model, device))
            grouped = modules_by_layer(layered, names)
            with borrowed(model):
                walk = ByLayer(layered, texts, grouped, both_sides, seed, store, progress)
                found = walk.moments(read_on or device_of(model))
        except UnsupportedModel as error:
            warnings.warn(
                f"{type(model).__name__} is calibrated whole, with all statistics in memory at "
                f"once: {error}",
                NotByLayer,
                stacklevel=2,
            )
            keep_whole(store, [whole(text) for text in texts])
        else:
            pairs = zip(texts, found, strict=True)
            return tuple(_statistics(t, m, seed, nats, digests) for t, (m, nats) in pairs)
    sets = dict.fromkeys(names, WHOLE)
    return tuple(
        _statistics(
            text,
            StoredMoments(store, str(index), sets, read_on or device_of(model)),
            seed,
            float(store.get(WHOLE, f"{index}|nats")),
            digests,
        )
        for index, text in enumerate(texts)
    )


def keep_whole(store: Store, found: Sequence[Statistics]) -> None:
    """Leave statistics of each text in a store, as those of a model that was calibrated whole."""
    made = dict[str, Tensor]()
    for index, each in enumerate(found):
        made |= moments_tensors(str(index), each.moments)
        made[f"{index}|nats"] = torch.tensor(each.dense_nats_per_token, dtype=torch.float64)
    store.put(WHOLE, made)


def _statistics(
    text: Corpus,
    moments: Mapping[str, Moments],
    seed: int,
    nats: float,
    digests: dict[str, str],
) -> Statistics:
    return Statistics(
        moments=moments,
        tokens=text.counted_tokens,
        left_out=text.tokens - text.counted_tokens,
        text_digest=text.digest,
        seed=seed,
        dense_nats_per_token=nats,
        digests=digests,
        windows=len(text.documents),
    )


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

    The whole model and the activations of one batch are in memory; parameters get no gradients.
    Modes, ``requires_grad`` and ``grad`` of the model are left as they were.

    Args:
        model: Hugging Face causal language model, or a module from ids [1, T] to logits [1, T, V].
        corpus: calibration text.
        modules: names of the targeted ``nn.Linear`` and ``Conv1D`` modules, or a mapping of them.
        both_sides: names of those that may lose outputs or inputs, for which the moment of the
            long side is gathered too: 8 L^2 bytes each, one for all that are fed the same tensor.
        seed: of the sampled labels.
        progress: called for each document with its number of tokens.

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
    with borrowed(model):
        reads = how_read(model, corpus.documents, chosen.values())
    inputs = InputSums(corpus.counting.clip)
    sums = {
        name: LinearSums(name, module, inputs, both_sides=name in both_sides)
        for name, module in chosen.items()
    }
    hooks = [hook for name, module in chosen.items() for hook in sums[name].attach(module)]
    nats = 0.0
    try:
        with borrowed(model):
            for batch in batches(corpus.documents, reads):
                inputs.counts, inputs.shape = batch.counted(corpus.counting), batch.shape
                with torch.enable_grad():
                    logits_BTV = batch_logits(model, batch.ids)
                    inputs.counts = None
                    nats += go_back(model, logits_BTV, batch, corpus, seed)
                inputs.flush()
                if progress is not None:
                    for ids_T in batch.documents:
                        progress(len(ids_T))
    finally:
        for hook in hooks:
            hook.remove()
    moments = {name: sums.pop(name).moments(corpus.counted_tokens) for name in chosen}
    nats_per_token = nats / (corpus.tokens - len(corpus.documents))
    return _statistics(corpus, moments, seed, nats_per_token, digests)


def go_back(model: nn.Module, logits_BTV: Tensor, batch: Batch, corpus: Corpus, seed: int) -> float:
    """Runs the model backward; the loss of the documents, nats."""
    nats, labels = 0.0, []
    for row, (index, ids_T) in enumerate(zip(batch.indices, batch.documents, strict=True)):
        logits_TV = logits_BTV[row, : len(ids_T)].detach()
        number = corpus.number(index)
        if not finite_logits(logits_TV):
            raise NoNumbers(no_numbers(model, ids_T, number))
        nats_T = token_nats(logits_TV, ids_T)
        if why := impossible(nats_T, ids_T, number):
            raise CalibrationError(why)
        nats += float(nats_T.double().sum())
        labels.append(sample_labels(logits_TV, generator_of(seed, ids_T)))
    if logits_BTV.requires_grad:
        # The sum, not the mean: each token's gradient is that of its own log-likelihood.
        rows_RV = batch.rows(logits_BTV)
        loss = nn.functional.cross_entropy(rows_RV, torch.cat(labels), reduction="sum")
        torch.autograd.backward(loss)
    return nats
