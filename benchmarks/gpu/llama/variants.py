"""What every compressed Llama of the end-to-end part looks like: integers only, no weights, no GPU.

Nothing is calibrated here, so importances and sensitivities are drawn from stated seeds. The shapes
are those that the methods produce; quality says nothing, speed does.

    dense           the model as it is
    asvd            ASVD's own allocator, ranks floor(int(m n rho) / (m + n)), rho 0.4 .. 0.9
    asvd-aligned    GAC: multiples of 8 around ASVD's ranks, re-selected by the planner (Eq. 4)
    asvd-padded     the ranks of asvd, factors filled up with zeros to the next multiple of 8
    default         gacfx: every multiple of 8 below break-even, or dense, on power-law loss curves
    uniform         SVD-LLM: the same share of every weight
    pruner          LLM-Pruner: one threshold over all MLP channels of layers 3 to 31
    pruner-aligned  GAC: multiples of 8 around the pruner's widths, re-selected as above
    pruner-padded   the widths of pruner, filled up with zeros to the next multiple of 8
    default-64      default with multiples of 64: is 8 enough?
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.llama import allocations
from benchmarks.gpu.llama.allocations import ALIGN, WINDOW_STEPS, Dim, Ranks
from benchmarks.gpu.llama.architecture import Architecture
from gacfx.compressors.allocate import allocate
from gacfx.knapsack import kept_budget

RATIO = "0.15"
"""Share of the targeted parameters that is removed, as in Table 5 of GAC (arXiv 2604.09595)."""
ASVD_SEED = 1
"""With it 6 % of the 224 weights are aligned, all of them dense; the paper found 5 %."""
CURVE_SEED = 0
PRUNER_SEED = 0


@dataclass(frozen=True, eq=False)
class Variant:
    """The size of everything that a compressor may change, for one architecture."""

    name: str
    architecture: Architecture
    ranks: Ranks
    """Of every linear layer, in the order of the model."""
    widths: tuple[int, ...]
    """[layers] MLP channels of every layer."""
    pad_to: int = 1
    """Stored sizes are rounded up to a multiple of this; the rest is zeros."""
    note: str = ""

    def stored(self, size: int) -> int:
        """A changed size as it lies in memory."""
        return -(-size // self.pad_to) * self.pad_to

    def shapes(self, layers: Sequence[int] | None = None) -> dict[str, tuple[int, int]]:
        """Linear layer -> (rows, columns) at the stored MLP width.

        Args:
            layers: only these layers; default: all.
        """
        return {
            name: self._narrowed(name, *shape)
            for name, shape in self.architecture.linears(layers).items()
        }

    def params(self, layers: Sequence[int] | None = None) -> int:
        """Stored parameters of the targeted weights, the zeros included."""
        shapes = self.shapes(layers)
        ranks = {name: r if (r := self.ranks[name]) is None else self.stored(r) for name in shapes}
        return allocations.cost(shapes, ranks)

    def changed(self, layers: Sequence[int] | None = None) -> tuple[int, ...]:
        """Stored sizes of the dims that differ from the dense model; an MLP width is one dim."""
        chosen = range(self.architecture.layers) if layers is None else layers
        ranks = [self.ranks[name] for name in self.architecture.linears(layers)]
        widths = [w for w in (self.widths[i] for i in chosen) if w != self.architecture.width]
        return tuple(self.stored(size) for size in (*ranks, *widths) if size is not None)

    def aligned_share(self, layers: Sequence[int] | None = None) -> float | None:
        """Share of the changed dims that are multiples of 8; None if nothing is changed."""
        sizes = self.changed(layers)
        return round(sum(s % ALIGN == 0 for s in sizes) / len(sizes), 4) if sizes else None

    @property
    def aligned_share_of_weights(self) -> float:
        """As the paper counts: over all weights, where one that stayed dense is aligned."""
        ranks = self.ranks
        sizes = [(*s, self.stored(ranks[name] or ALIGN)) for name, s in self.shapes().items()]
        return round(sum(all(s % ALIGN == 0 for s in each) for each in sizes) / len(sizes), 4)

    @property
    def ratio(self) -> float:
        """Share of the targeted parameters that is gone."""
        return 1 - self.params() / self.architecture.targeted

    def summary(self) -> dict[str, object]:
        """The numbers of the variant, for a record."""
        return {
            "variant": self.name,
            "params": self.params(),
            "ratio": round(self.ratio, 6),
            "changed_dims": len(self.changed()),
            "aligned_share": self.aligned_share(),
            "aligned_share_of_weights": self.aligned_share_of_weights,
            "note": self.note,
        }

    def _narrowed(self, name: str, rows: int, columns: int) -> tuple[int, int]:
        width = self.widths[int(name.split(".")[1])]
        if ".mlp." not in name or width == self.architecture.width:
            return rows, columns
        stored = self.stored(width)
        return (rows, stored) if name.endswith("down_proj") else (stored, columns)


@cache
def variant(architecture: Architecture, name: str) -> Variant:
    """The variant of this name; the same object for the same architecture.

    Raises:
        KeyError: there is no such variant.
    """
    if name not in _MAKERS:
        raise KeyError(f"variant {name!r}: there are {', '.join(_MAKERS)}")
    return _MAKERS[name](architecture)


def kept_channels(architecture: Architecture, layer: int, width: int) -> NDArray[np.int64]:
    """[width] the most important MLP channels of a layer, in the order of the model."""
    order = np.argsort(-_scores(architecture)[layer], kind="stable")
    return np.sort(order[:width]).astype(np.int64)


def _dense(architecture: Architecture) -> Variant:
    ranks: Ranks = MappingProxyType(dict.fromkeys(architecture.linears()))
    return Variant("dense", architecture, ranks, (architecture.width,) * architecture.layers)


def _low_rank(architecture: Architecture, name: str, ranks: Ranks, note: str) -> Variant:
    dense = variant(architecture, "dense")
    return replace(dense, name=name, ranks=MappingProxyType(dict(ranks)), note=note)


def _asvd(architecture: Architecture) -> Variant:
    ranks = allocations.asvd(architecture.linears(), ASVD_SEED, _budget(architecture))
    note = f"ASVD's allocator on sensitivities of seed {ASVD_SEED}"
    return _low_rank(architecture, "asvd", ranks, note)


def _asvd_aligned(architecture: Architecture) -> Variant:
    """A weight that ASVD left dense stays dense and is no part of the problem."""
    original, shapes = variant(architecture, "asvd"), architecture.linears()
    scores = allocations.importances(len(shapes), ASVD_SEED).tolist()
    dims = {
        name: Dim(rank, allocations.break_even(m, n), m + n, score / (m * n))
        for (name, (m, n)), score in zip(shapes.items(), scores, strict=True)
        if (rank := original.ranks[name]) is not None
    }
    chosen = allocations.reselect(dims)
    note = f"multiples of {ALIGN}, {WINDOW_STEPS} steps to each side of asvd, under its budget"
    ranks = {name: chosen.get(name) for name in shapes}
    return _low_rank(architecture, "asvd-aligned", ranks, note)


def _padded(architecture: Architecture, name: str) -> Variant:
    note = f"{name} with zeros up to multiples of {ALIGN}: the same function, more parameters"
    original = variant(architecture, name)
    return replace(original, name=f"{name}-padded", pad_to=ALIGN, note=note)


def _default(architecture: Architecture, name: str, align: int) -> Variant:
    align = min(align, architecture.hidden // 4)  # the weights of a rehearsal are too small for 64
    shapes, budget = architecture.linears(), _budget(architecture)
    ranks = allocations.plan(shapes, CURVE_SEED, budget, align)
    note = f"exact plan over all multiples of {align} and dense, curves of seed {CURVE_SEED}"
    return _low_rank(architecture, name, ranks, note)


def _uniform(architecture: Architecture) -> Variant:
    ranks = allocate(architecture.linears(), RATIO)
    aligned = [name for name, rank in ranks.items() if rank is not None and rank % ALIGN == 0]
    kinds = ", ".join(sorted({name.rsplit(".", 1)[1] for name in aligned})) or "none"
    return _low_rank(architecture, "uniform", ranks, f"aligned by chance: {kinds}")


def _pruner(architecture: Architecture) -> Variant:
    first = architecture.unpruned
    to_remove = architecture.targeted - _budget(architecture)
    channels = -(-to_remove // architecture.channel_params)  # up: within the budget
    kept = allocations.below_one_threshold(_scores(architecture)[first:], channels)
    note = f"one threshold over the channels of layers {first} to {architecture.layers - 1}"
    widths = (*(architecture.width,) * first, *kept)
    return replace(variant(architecture, "dense"), name="pruner", widths=widths, note=note)


def _pruner_aligned(architecture: Architecture) -> Variant:
    original, first = variant(architecture, "pruner"), architecture.unpruned
    scores = allocations.importances(architecture.layers, PRUNER_SEED).tolist()
    width, unit = architecture.width, architecture.channel_params
    wanted = {str(i): original.widths[i] for i in range(first, architecture.layers)}
    dims = {i: Dim(size, width, unit, scores[int(i)]) for i, size in wanted.items()}
    note = f"multiples of {ALIGN}, {WINDOW_STEPS} steps to each side of pruner, under its budget"
    widths = (*original.widths[:first], *allocations.reselect(dims).values())
    return replace(original, name="pruner-aligned", widths=widths, note=note)


def _budget(architecture: Architecture) -> int:
    return kept_budget(architecture.targeted, RATIO)


@cache
def _scores(architecture: Architecture) -> NDArray[np.float64]:
    return allocations.channel_scores(architecture.layers, architecture.width, PRUNER_SEED)


_MAKERS: dict[str, Callable[[Architecture], Variant]] = {
    "dense": _dense,
    "asvd": _asvd,
    "asvd-aligned": _asvd_aligned,
    "asvd-padded": lambda architecture: _padded(architecture, "asvd"),
    "default": lambda architecture: _default(architecture, "default", ALIGN),
    "uniform": _uniform,
    "pruner": _pruner,
    "pruner-aligned": _pruner_aligned,
    "pruner-padded": lambda architecture: _padded(architecture, "pruner"),
    "default-64": lambda architecture: _default(architecture, "default-64", 64),
}
NAMES = tuple(_MAKERS)
"""The most interesting first; dense before everything, as all others are compared with it."""
