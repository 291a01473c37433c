"""Moments in a store, read one weight at a time, and those of several texts mixed when read."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gacfx.core.packing import packed, unpacked
from gacfx.core.statistics import Moments, Statistics, input_count
from gacfx.core.store import Store

_MATRICES = ("projected_moment", "side_moment", "long_moment")
_MEANS = (*_MATRICES, "input_abs_mean", "input_square_mean")
_MAX = "input_abs_max"
_TENSORS = (*_MEANS, _MAX)
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
        numbers = [found.rows, found.columns, found.grad_square_mean, found.tokens_seen]
        numbers += [] if found.grad_output_mean is None else [found.grad_output_mean]
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
        numbers = self.store.get(name, f"{start}{_NUMBERS}").tolist()
        rows, columns, grad_square, seen, *more = numbers  # older files have no more
        return Moments(
            rows=int(rows),
            columns=int(columns),
            grad_square_mean=grad_square,
            tokens_seen=int(seen),
            grad_output_mean=more[0] if more else None,
            **found,
        )

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


@dataclass(eq=False)
class _Sum:
    """A sum over texts: of one mean of each, times the tokens that it is a mean over."""

    total: Tensor | None = None
    terms: list[tuple[weakref.ref[Tensor], int]] = field(default_factory=list)

    def add(self, mean: Tensor, tokens: int) -> None:
        self.total = mean * tokens if self.total is None else self.total.add_(mean, alpha=tokens)
        self.terms.append((weakref.ref(mean), tokens))

    def has_terms_of(self, other: "_Sum") -> bool:
        """Of the same tensors, which are still there."""
        pairs = zip(self.terms, other.terms, strict=True)
        return all(a() is not None and a() is b() and m == n for (a, m), (b, n) in pairs)


class _Known:
    """The last mixed means, as long as somebody holds them and what they were mixed from."""

    def __init__(self) -> None:
        self._last: list[tuple[_Sum, weakref.ref[Tensor]]] = []

    def __call__(self, made: _Sum, tokens: int) -> Tensor:
        """The mean of a sum; the very tensor that was made of the same ones before."""
        for before, mixed in self._last:
            if before.has_terms_of(made) and (known := mixed()) is not None:
                return known
        assert made.total is not None
        mean, made.total = made.total.div_(tokens), None
        self._last = [(made, weakref.ref(mean)), *self._last[: _ALIVE - 1]]
        return mean


@dataclass(frozen=True, eq=False)
class MixedMoments(Mapping[str, Moments]):
    """Module -> moments of disjoint texts together, mixed when they are asked for.

    Gradient moments weigh by the tokens of their text, input moments by those that the module saw,
    so that they are the moments of all texts at once. One text after the other is read. Moments of
    long sides are there where all texts have them.
    """

    texts: tuple[tuple[Mapping[str, Moments], int], ...]
    """Moments and tokens of each."""
    _known: _Known = field(default_factory=_Known, repr=False)

    def __getitem__(self, module: str) -> Moments:
        sums = {name: _Sum() for name in _MEANS}
        largest = list[Tensor | None]()
        grad_square, seen, tokens = 0.0, 0, 0
        grad_output: float | None = 0.0
        for moments, of_text in self.texts:
            found = moments[module]
            weights = {True: input_count(found.tokens_seen, of_text), False: of_text}
            for name in [*sums]:
                if (mean := getattr(found, name)) is None:
                    del sums[name]
                else:
                    sums[name].add(mean, weights[_of_inputs(name, found)])
            largest.append(found.input_abs_max)
            grad_square += found.grad_square_mean * of_text
            grad_output = _plus(grad_output, found.grad_output_mean, of_text)
            seen, tokens = seen + found.tokens_seen, tokens + of_text
        counts = {True: input_count(seen, tokens), False: tokens}
        mixed = {
            name: self._known(one, counts[_of_inputs(name, found)]) for name, one in sums.items()
        }
        return Moments(
            rows=found.rows,
            columns=found.columns,
            grad_square_mean=grad_square / tokens,
            tokens_seen=seen,
            grad_output_mean=None if grad_output is None else grad_output / tokens,
            input_abs_max=_largest(largest),
            **mixed,
        )

    def __contains__(self, module: object) -> bool:
        return module in self.texts[0][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts[0][0])

    def __len__(self) -> int:
        return len(self.texts[0][0])


def _plus(total: float | None, mean: float | None, tokens: int) -> float | None:
    """The sum with one text more; None as soon as one has none."""
    return None if total is None or mean is None else total + mean * tokens


def _largest(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The maximum of several texts; None where one has none. NaN stays NaN."""
    known = [each for each in parts if each is not None]
    return torch.stack(known).amax(0) if len(known) == len(parts) else None


def _of_inputs(name: str, moments: Moments) -> bool:
    """Whether a tensor of the moments is a mean over the inputs that the module saw.

    The others are means over the gradients of all tokens.
    """
    if name == "side_moment":
        return moments.wide
    if name in ("projected_moment", "long_moment"):
        return not moments.wide
    return True


def merge(parts: Sequence[Statistics], text_digest: str) -> Statistics:
    """Statistics of disjoint texts together: those of all of them at once, to rounding.

    Args:
        parts: of each text, for the same weights of the same model; at least one. They are added in
            this order.
        text_digest: sha256 of the token ids of all texts together.
    """
    predicted = [part.tokens + part.left_out - part.windows for part in parts]
    nats = sum(
        part.dense_nats_per_token * count for part, count in zip(parts, predicted, strict=True)
    )
    return Statistics(
        moments=MixedMoments(tuple((part.moments, part.tokens) for part in parts)),
        tokens=sum(part.tokens for part in parts),
        text_digest=text_digest,
        seed=parts[0].seed,
        dense_nats_per_token=nats / sum(predicted),
        digests=parts[0].digests,
        windows=sum(part.windows for part in parts),
        left_out=sum(part.left_out for part in parts),
    )
