"""Windows that the model gives no numbers for: left out with a count, and the work begins again.

A model in float16 may overflow on one window of a text and read all others. Nothing is asked in
advance: most texts have no such window, and to read all of one costs a third of calibrating with
it. Whoever meets one raises :class:`~gacfx.errors.NoNumbers`; the text is then read once, and what
was begun is made anew of the windows that have numbers.
"""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from gacfx.calibration.predictions import predicting
from gacfx.calibration.running import borrowed
from gacfx.calibration.text import Corpus
from gacfx.core.finite import not_finite
from gacfx.core.store import Store
from gacfx.errors import NoNumbers
from gacfx.modules.routing_hooks import picked

UNREADABLE = "text.unreadable"
"""Set of the places in the text that were left out."""

Made = TypeVar("Made")


class UnreadableWindows(UserWarning):
    """Some windows were left out, as the model gives NaN or infinity for them."""


def of_readable(
    make: Callable[[Corpus], Made],
    model: nn.Module,
    corpus: Corpus,
    *,
    store: Store | None = None,
    device: torch.device | None = None,
) -> Made:
    """What is made of a text, or of those of its windows that the model has numbers for.

    Args:
        make: makes it; called again with fewer windows where it raises ``NoNumbers``.
        model: dense.
        corpus: the text.
        store: that ``make`` keeps its steps in: cleared before the second time, and told which
            windows were left out, so that a run that goes on begins with the others.
        device: where layers compute, one at a time; None for where the model is.

    Raises:
        NoNumbers: the model has none for any window, or none in its weights.
    """
    if store is not None and UNREADABLE in store:
        return make(_without(corpus, store.get(UNREADABLE, UNREADABLE).tolist(), ""))
    try:
        return make(corpus)
    except NoNumbers as error:
        said = f"; {error}"
        with borrowed(model):
            if not_finite(model):
                raise
        unread = _unread(model, corpus, device)
        if not 0 < len(unread) < len(corpus.documents):
            raise
    if store is not None:
        store.clear()
        store.put(UNREADABLE, {UNREADABLE: torch.tensor(unread)})
    return make(_without(corpus, unread, said))


def _unread(model: nn.Module, corpus: Corpus, device: torch.device | None) -> list[int]:
    """Places of the windows that have a position without numbers."""
    found = []
    with (
        borrowed(model),
        torch.inference_mode(),
        picked(model, None),
        predicting(model, corpus.documents, device) as predict,
    ):
        for batch, parts in predict(corpus.documents):
            # -inf alone masks rows of the vocabulary.
            good_BT = torch.cat([torch.isfinite(part_BtV.amax(-1)) for part_BtV in parts], 1)
            for row, (place, ids_T) in enumerate(zip(batch.indices, batch.documents, strict=True)):
                if not bool(good_BT[row, : len(ids_T)].all()):
                    found.append(place)
    return sorted(found)


def _without(corpus: Corpus, unread: list[int], why: str) -> Corpus:
    """The other windows, with a warning."""
    numbers = sorted({corpus.number(place) for place in unread})
    listed = ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")
    warnings.warn(
        f"{len(unread)} of {len(corpus.documents)} windows are left out, as the model's logits are "
        f"NaN or infinite on them (document {listed}){why}",
        UnreadableWindows,
        stacklevel=2,
    )
    left = {*unread}
    return corpus.part([place for place in range(len(corpus.documents)) if place not in left])
