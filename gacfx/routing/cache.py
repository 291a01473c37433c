"""A cache of picked patterns: prompts that are alike share what was picked for the first."""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gacfx.errors import PlanError, PlanMismatch

# F features of an embedding, S entries that there is room for, E entries

T = TypeVar("T")

ROUNDING = 1e-6
"""A cosine this much below the threshold still reaches it: so far may float32 be off."""


@dataclass(frozen=True)
class CacheStatistics:
    """How a cache has done since it was made or cleared."""

    hits: int
    """Searches that found an entry."""
    misses: int
    """Searches that found none."""
    evictions: int
    """Entries that went because the room was needed."""
    size: int
    """Entries that there is room for."""
    entries: int
    """Entries that are there."""

    @property
    def hit_rate(self) -> float:
        """Share of the searches that found an entry; 0 before the first search."""
        return self.hits / max(self.hits + self.misses, 1)


class PatternCache(Generic[T]):
    """The values of the prompts that came last, found by cosine; several threads may use it.

    An embedding is a vector [F] in any float dtype on any device, the mean of the embeddings of
    many prompts taken off it: without that all prompts look alike. It is scaled to unit norm, and
    what is kept is a copy in float32 on the CPU. One that is zero or not finite has no direction:
    it finds nothing and is not kept.

    Between a search that misses and the storing of what it missed, another thread may store the
    same. The later value of equal embeddings replaces the earlier one.

    Args:
        size: entries that there is room for; 0 remembers nothing.
        threshold: the cosine, in -1 ... 1, that an entry must reach to be found.
        fingerprint: of the model that the values are for.

    Raises:
        PlanError: ``size`` is negative, or ``threshold`` outside -1 ... 1.
    """

    def __init__(self, size: int, threshold: float, fingerprint: str) -> None:
        if size < 0:
            raise PlanError(f"a cache of {size} entries; give 0 or more")
        if not -1 <= threshold <= 1:
            raise PlanError(f"the threshold is {threshold}; a cosine is in -1 ... 1")
        self.size = size
        self.threshold = threshold
        self.fingerprint = fingerprint
        self._lock = threading.Lock()
        self._features: int | None = None
        self._vectors_SF: Tensor | None = None
        # Row of the vectors -> value, what was used last at the end. Rows fill from the first on.
        self._values: OrderedDict[int, T] = OrderedDict()
        self._hits = self._misses = self._evictions = 0

    def __getstate__(self) -> dict[str, object]:
        """Everything but the lock, which no copy can share."""
        with self._lock:
            return {name: each for name, each in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def find(self, embedding_F: Tensor) -> T | None:
        """The value whose embedding is nearest, if its cosine reaches the threshold.

        That entry becomes the one that was used last. All entries are compared, in one product.

        Args:
            embedding_F: [F], of the prompt.

        Returns:
            None for a miss.

        Raises:
            PlanError: it is no vector.
            PlanMismatch: it has another length than the first embedding that the cache was shown.
        """
        unit_F = _unit(embedding_F)
        with self._lock:
            self._same_length(embedding_F)
            slot = None if unit_F is None else self._nearest(unit_F)
            if slot is None:
                self._misses += 1
                return None
            self._hits += 1
            self._values.move_to_end(slot)
            return self._values[slot]

    def put(self, embedding_F: Tensor, value: T) -> None:
        """Keep a value; where there is no room, the entry goes that was not used for longest.

        Args:
            embedding_F: [F], of the prompt; copied.
            value: what to find by it.

        Raises:
            PlanError: it is no vector.
            PlanMismatch: it has another length than the first embedding that the cache was shown.
        """
        unit_F = _unit(embedding_F)
        with self._lock:
            self._same_length(embedding_F)
            if unit_F is None or not self.size:
                return
            if self._vectors_SF is None:
                with torch.inference_mode(False):  # else nobody outside that mode could write to it
                    shape = (self.size, len(unit_F))
                    self._vectors_SF = torch.empty(shape, dtype=torch.float32, device="cpu")
            slot = self._room(unit_F, self._vectors_SF)
            with torch.no_grad():
                self._vectors_SF[slot] = unit_F
            self._values[slot] = value

    def statistics(self) -> CacheStatistics:
        """Counts since the cache was made or cleared."""
        with self._lock:
            return CacheStatistics(
                self._hits, self._misses, self._evictions, self.size, len(self._values)
            )

    def clear(self) -> None:
        """Forget entries, counts, and the length of the embeddings."""
        with self._lock:
            self._features = self._vectors_SF = None
            self._values.clear()
            self._hits = self._misses = self._evictions = 0

    def check(self, fingerprint: str) -> None:
        """Make sure that the values are for this model.

        Raises:
            PlanMismatch: they are for another one.
        """
        if fingerprint != self.fingerprint:
            raise PlanMismatch(
                f"the cache is for the model {self.fingerprint}, asked for {fingerprint}; make a "
                "cache for each model"
            )

    def _same_length(self, embedding_F: Tensor) -> None:
        if self._features is None:
            self._features = len(embedding_F)
        if len(embedding_F) != self._features:
            raise PlanMismatch(
                f"an embedding of {len(embedding_F)} numbers; those of this cache have "
                f"{self._features}, so it comes from another model"
            )

    def _nearest(self, unit_F: Tensor) -> int | None:
        if self._vectors_SF is None or not self._values:
            return None
        with torch.autocast("cpu", enabled=False):
            cosine_E = self._vectors_SF[: len(self._values)] @ unit_F
        slot = int(cosine_E.argmax())
        return slot if float(cosine_E[slot]) >= self.threshold - ROUNDING else None

    def _room(self, unit_F: Tensor, vectors_SF: Tensor) -> int:
        """The row to write to; its value is no longer there, or is about to be replaced."""
        entries = len(self._values)
        equal_E = (vectors_SF[:entries] == unit_F).all(dim=1)
        if bool(equal_E.any()):
            slot = int(equal_E.int().argmax())
            self._values.move_to_end(slot)
            return slot
        if entries < self.size:
            return entries
        slot, _ = self._values.popitem(last=False)
        self._evictions += 1
        return slot


def _unit(embedding_F: Tensor) -> Tensor | None:
    """The embedding at unit norm, a copy in float32 on the CPU; None where it has no direction."""
    if embedding_F.ndim != 1:
        raise PlanError(f"an embedding of shape {tuple(embedding_F.shape)}; give one vector")
    exact_F = embedding_F.detach().to("cpu", torch.float64)
    norm = float(exact_F.norm())
    if not 0 < norm < math.inf:
        return None
    return (exact_F / norm).to(torch.float32)
