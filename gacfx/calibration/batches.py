"""Batches: short documents that a model reads together, where that gives what it gives each alone.

Documents of like length lie side by side, the shorter ones followed by more tokens, which a causal
model does not see from where a document is. Whoever sums over tokens leaves those places out.
"""

# B documents, T tokens of the longest, V vocabulary

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.counting import Counting
from gacfx.calibration.running import device_of
from gacfx.core.caches import without_cache

MOST_TOKENS = 2048
"""Of a batch, those that fill it up included; a longer document is a batch by itself."""
LEAST_SHARE = 0.75
"""Of the tokens of a batch, those that are of documents."""
PROBE = 8
"""Tokens of the documents by which a model is tried."""
DIFFERENCE = 32
"""Units in the last place, of the largest logit, by which the order of sums may move logits."""


class Reads(Enum):
    """Which documents a model reads together."""

    ALONE = "none"
    EQUAL = "those of one length"
    PADDED = "those of any length"


@dataclass(frozen=True, eq=False)
class Batch:
    """Some documents of a text."""

    indices: tuple[int, ...]
    """Their places in the text."""
    documents: tuple[Tensor, ...]
    """[T] each, the longest first."""

    @property
    def tokens(self) -> int:
        """Of the documents."""
        return sum(len(each) for each in self.documents)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        return len(self.documents), len(self.documents[0])

    @property
    def ids(self) -> Tensor:
        """[B, T] token ids; a document that is shorter goes on with its last token."""
        longest = len(self.documents[0])
        rows = [torch.cat([d, d[-1:].expand(longest - len(d))]) for d in self.documents]
        return torch.stack(rows)

    @property
    def real(self) -> Tensor | None:
        """[B x T]: where the tokens of the documents are; None where all are."""
        return self.counted(Counting())

    def counted(self, counting: Counting) -> Tensor | None:
        """[B x T]: where tokens of the documents are that count; None where all do."""
        return counting.places([len(each) for each in self.documents])

    def rows(self, found_BT: Tensor) -> Tensor:
        """[R, ...]: what was found at the tokens of the documents, one document after the other."""
        rows = found_BT.flatten(0, 1)
        return rows if self.real is None else rows[self.real.to(rows.device)]


def batches(documents: Sequence[Tensor], reads: Reads) -> list[Batch]:
    """All documents, the longest first.

    Args:
        documents: [T] each.
        reads: which of them the model reads together.
    """
    lengths = [len(each) for each in documents]
    order = sorted(range(len(documents)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    tokens = 0
    for index in order:
        length = lengths[index]
        if groups and _fits(lengths[groups[-1][0]], len(groups[-1]), tokens, length, reads):
            groups[-1].append(index)
            tokens += length
        else:
            groups.append([index])
            tokens = length
    return [Batch(tuple(group), tuple(documents[i] for i in group)) for group in groups]


def _fits(longest: int, count: int, tokens: int, length: int, reads: Reads) -> bool:
    """A further document of this length belongs into a batch."""
    if reads is Reads.ALONE or (reads is Reads.EQUAL and length != longest):
        return False
    room = longest * (count + 1)
    return room <= MOST_TOKENS and tokens + length >= LEAST_SHARE * room


def how_read(
    model: nn.Module,
    documents: Sequence[Tensor],
    modules: Iterable[nn.Module] = (),
    logits: Callable[[Tensor], Tensor] | None = None,
) -> Reads:
    """Which documents ``model`` reads together; tried only where some are short enough.

    Args:
        model: a Hugging Face model may read several; of another module nothing is known.
        documents: [T] each.
        logits: ids [B, T] -> logits [B, T, V]; None for the model itself.
        modules: whose inputs are summed over tokens; all must be told the document and the place of
            each token, which experts are not.
    """
    few = len(batches(documents, Reads.PADDED)) == len(documents)
    if few or not hasattr(model, "config") or len(documents[0]) < PROBE:
        return Reads.ALONE
    first_T, second_T = documents[0][:PROBE], documents[-1][: PROBE // 2]
    batch, read = Batch((0, 1), (first_T, second_T)), logits or partial(_logits, model)
    seen: list[bool] = []

    def look(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].shape[:2] == batch.ids.shape)

    hooks = [module.register_forward_pre_hook(look) for module in modules]
    try:
        with torch.no_grad():
            together_BTV = read(batch.ids)
            looked = all(seen)
            alone = [read(each[None])[0] for each in batch.documents]
    except Exception:  # whatever its own code raises: it reads them one by one
        return Reads.ALONE
    finally:
        for hook in hooks:
            hook.remove()
    same = partial(_same, torch.finfo(together_BTV.dtype).eps)
    if not same(together_BTV[0], alone[0]):
        return Reads.ALONE
    padded = looked and same(together_BTV[1, : len(second_T)], alone[1])
    return Reads.PADDED if padded else Reads.EQUAL


def _logits(model: nn.Module, ids_BT: Tensor) -> Tensor:
    found = model(ids_BT.to(device_of(model)), **without_cache(model)).logits
    if found.shape[:2] != ids_BT.shape:
        raise ValueError(f"logits {tuple(found.shape)} of ids {tuple(ids_BT.shape)}")
    return torch.as_tensor(found)


def _same(eps: float, one_TV: Tensor, other_TV: Tensor) -> bool:
    moved = (one_TV.float() - other_TV.float()).nan_to_num(0.0, 0.0, 0.0).abs().max()
    size = one_TV.float().nan_to_num(0.0, 0.0, 0.0).abs().max()
    return bool(moved <= DIFFERENCE * eps * size)
