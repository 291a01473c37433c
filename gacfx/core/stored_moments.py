"""Moments in a store, read one weight at a time, and those of two texts mixed as they are read."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gacfx.core.packing import packed, unpacked
from gacfx.core.statistics import Moments, Statistics
from gacfx.core.store import Store

_MATRICES = ("projected_moment", "side_moment", "long_moment")
_TENSORS = (*_MATRICES, "input_abs_mean", "input_square_mean")
_NUMBERS = "numbers"
_ALIVE = 24
"""Matrices that are remembered, for weights that are fed the same tensor."""


def placed(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """The tensor in memory of its own.

    Products of tensors that lie in a file, at any address, would differ in their last bits from
    those of the same numbers at an aligned one.
    """
    return tensor.to(device or tensor.device, copy=True)


def moments_tensors(part: str, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """What a store keeps of the moments of some modules: symmetric matrices once.

    Args:
        part: of the text, say; comes before the names.
        moments: module -> its moments. Tensors that several share stay shared.
    """
    made, small = dict[str, Tensor](), dict[int, Tensor]()
    for module, found in moments.items():
        numbers = (found.rows, found.columns, found.grad_square_mean)
        made[f"{part}|{module}|{_NUMBERS}"] = torch.tensor(numbers, dtype=torch.float64)
        for name in _TENSORS:
            if (tensor := getattr(found, name)) is not None:
                if name in _MATRICES:
                    if id(tensor) not in small:
                        small[id(tensor)] = packed(tensor)
                    tensor = small[id(tensor)]
                made[f"{part}|{module}|{name}"] = tensor
    return made


@dataclass(frozen=True, eq=False)
class StoredMoments(Mapping[str, Moments]):
    """Module -> moments, each read when it is asked for."""

    store: Store
    part: str
    """As it was given to :func:`moments_tensors`."""
    sets: Mapping[str, str]
    """Module -> set of the store that has it."""
    device: torch.device | None = None
    """Where they are to be; None for where the store has them."""
    _known: list[tuple[Tensor, weakref.ref[Tensor]]] = field(default_factory=list, repr=False)
    """What the store gave last, and the matrix that it is, as long as somebody holds it."""

    def __getitem__(self, module: str) -> Moments:
        name, start = self.sets[module], f"{self.part}|{module}|"
        found = {
            each: self._read(name, f"{start}{each}")
            for each in _TENSORS
            if f"{start}{each}" in self.store.keys(name)
        }
        rows, columns, grad_square = self.store.get(name, f"{start}{_NUMBERS}").tolist()
        return Moments(rows=int(rows), columns=int(columns), grad_square_mean=grad_square, **found)

    def _read(self, name: str, key: str) -> Tensor:
        stored = self.store.get(name, key)
        if stored.ndim < 2:
            return placed(stored, self.device)
        for known, made in self._known:
            if known is stored and (matrix := made()) is not None:
                return matrix
        matrix = unpacked(stored).to(self.device or stored.device)
        self._known[:] = [(stored, weakref.ref(matrix)), *self._known[: _ALIVE - 1]]
        return matrix

    def __contains__(self, module: object) -> bool:
        return module in self.sets

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets)

    def __len__(self) -> int:
        return len(self.sets)


class _Known:
    """Results for the last pairs of tensors, as long as somebody holds them."""

    def __init__(self) -> None:
        self._last: list[tuple[weakref.ref[Tensor], ...]] = []

    def __call__(self, a: Tensor, b: Tensor, mix: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        for first, second, mixed in self._last:
            if first() is a and second() is b and (known := mixed()) is not None:
                return known
        made = mix(a, b)
        refs = (weakref.ref(a), weakref.ref(b), weakref.ref(made))
        self._last = [refs, *self._last[: _ALIVE - 1]]
        return made


@dataclass(frozen=True, eq=False)
class MixedMoments(Mapping[str, Moments]):
    """Module -> moments of two disjoint texts together, mixed when they are asked for.

    Moments of long sides are there where both texts have them.
    """

    one: Mapping[str, Moments]
    other: Mapping[str, Moments]
    share: float
    """Of the first text."""
    _known: _Known = field(default_factory=_Known, repr=False)

    def __getitem__(self, module: str) -> Moments:
        a, b = self.one[module], self.other[module]

        def mix(name: str) -> Tensor:
            return self._known(getattr(a, name), getattr(b, name), self._mix)

        long = None if a.long_moment is None or b.long_moment is None else mix("long_moment")
        return Moments(
            rows=a.rows,
            columns=a.columns,
            projected_moment=mix("projected_moment"),
            side_moment=mix("side_moment"),
            input_abs_mean=mix("input_abs_mean"),
            input_square_mean=mix("input_square_mean"),
            grad_square_mean=self.share * a.grad_square_mean
            + (1 - self.share) * b.grad_square_mean,
            long_moment=long,
        )

    def _mix(self, a: Tensor, b: Tensor) -> Tensor:
        return self.share * a + (1 - self.share) * b

    def __contains__(self, module: object) -> bool:
        return module in self.one

    def __iter__(self) -> Iterator[str]:
        return iter(self.one)

    def __len__(self) -> int:
        return len(self.one)


def merge(one: Statistics, other: Statistics, text_digest: str) -> Statistics:
    """Statistics of two disjoint texts together, weighted by their tokens.

    Args:
        one: of the first text.
        other: of the second text, for the same weights of the same model.
        text_digest: sha256 of the token ids of both texts together.
    """
    share = one.tokens / (one.tokens + other.tokens)
    return Statistics(
        moments=MixedMoments(one.moments, other.moments, share),
        tokens=one.tokens + other.tokens,
        text_digest=text_digest,
        seed=one.seed,
        dense_nats_per_token=share * one.dense_nats_per_token
        + (1 - share) * other.dense_nats_per_token,
        digests=one.digests,
    )
