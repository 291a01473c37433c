"""Shards of a text: statistics of parts of it, gathered anywhere, and added to those of the whole.

Shard I of N is every N-th window of each text, so that shards are alike. Sums over tokens add, and
labels are sampled by a window's own tokens: what N shards give together is what the whole gives, to
rounding.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gacfx.calibration.by_layer import NATS, moments_sets
from gacfx.calibration.gather import WHOLE
from gacfx.calibration.layered import Layered, modules_by_layer
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments
from gacfx.core.store import Store
from gacfx.core.stored_moments import MixedMoments, StoredMoments, moments_tensors
from gacfx.errors import CalibrationError, CheckpointError, UnsupportedModel

_NAMED = 3
"""Of the sets that a shard lacks, so many are named."""


@dataclass(frozen=True, order=True)
class Shard:
    """One of ``count`` parts of every text."""

    number: int
    """1 .. count."""
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise CalibrationError(
                f"shard {self}: is none of {self.count}; the first of three is 1/3, the last 3/3"
            )

    @staticmethod
    def parse(text: str) -> "Shard":
        """The shard that ``I/N`` names.

        Raises:
            CalibrationError: it names none.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise CalibrationError(f"shard {text!r}: give I/N, such as 1/3, the first of three")
        return Shard(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, texts: Iterable[Corpus]) -> tuple[Corpus, ...]:
        """The windows of this shard, of each text.

        Raises:
            CalibrationError: it would have none of a text.
        """
        return tuple(self._windows(text) for text in texts)

    def _windows(self, text: Corpus) -> Corpus:
        windows = text.documents[self.number - 1 :: self.count]
        if not windows:
            count = len(text.documents)
            raise CalibrationError(
                f"shard {self}: there is no window for it, as one of the two texts (to fit, and "
                f"held back) has {count}; make at most {count} shards"
            )
        places = range(self.number - 1, len(text.documents), self.count)
        numbers = tuple(map(text.number, places))
        return Corpus(windows, numbers=numbers, counting=text.counting)


@dataclass(frozen=True, eq=False)
class Gathered:
    """The store that the statistics of a shard were gathered into."""

    shard: Shard
    store: Store
    where: str
    """The store, for messages."""


def merge_shards(
    model: nn.Module,
    texts: tuple[Corpus, ...],
    modules: Iterable[str],
    gathered: Sequence[Gathered],
    into: Store,
) -> None:
    """Leave in a store what :func:`gacfx.calibration.gather.gather_texts` would of whole texts.

    Moments of one layer are in memory at once. What the store has already stays.

    Args:
        model: of which the statistics are; only its layers are looked at.
        texts: whole ones.
        modules: names of the targeted modules, in the order of all shards.
        gathered: all shards of the texts, in any order; they are added by number.
        into: the store.

    Raises:
        CheckpointError: shards are missing, are of other numbers of shards, were given twice, or
            are not finished.
    """
    check_complete([(each.shard, each.where) for each in gathered])
    ordered = sorted(gathered, key=lambda each: each.shard)
    sets = wanted_sets(model, list(modules), ordered)
    for each in ordered:
        _check_finished(each, list(sets))
    counts = [each.shard.of(texts) for each in ordered]
    for name in sets:
        if name not in into:
            made = _nats(ordered) if name == NATS else _moments(name, sets[name], ordered, counts)
            into.put(name, made)


def check_complete(named: Sequence[tuple[Shard, str]]) -> None:
    """Nothing when every shard of a text is there once.

    Args:
        named: at least one, each with where it is.

    Raises:
        CheckpointError: one is missing, was given twice, or is of another number of shards.
    """
    (first, at), found = named[0], dict[Shard, str]()
    for shard, where in named:
        if shard.count != first.count:
            raise CheckpointError(
                f"{where}: is shard {shard}, and {at} is shard {first}; shards of one number "
                "belong together"
            )
        if shard in found:
            raise CheckpointError(
                f"{where}: is shard {shard}, as is {found[shard]}; give each once"
            )
        found[shard] = where
    every = [Shard(number, first.count) for number in range(1, first.count + 1)]
    if missing := [str(shard) for shard in every if shard not in found]:
        raise CheckpointError(f"shard {', '.join(missing)} is missing; gather it, and name it too")


def wanted_sets(
    model: nn.Module, names: list[str], gathered: Sequence[Gathered] = ()
) -> dict[str, list[str]]:
    """Sets that statistics are, each with the modules whose moments it has.

    Args:
        model: of which they are.
        names: of all modules.
        gathered: stores of shards, which tell whether the model was calibrated whole.
    """
    if any(WHOLE in each.store for each in gathered):
        return {WHOLE: names}
    try:
        return {NATS: [], **moments_sets(modules_by_layer(Layered(model), names))}
    except UnsupportedModel:
        return {WHOLE: names}


def _check_finished(each: Gathered, wanted: Sequence[str]) -> None:
    lacks = [name for name in wanted if name not in each.store]
    if lacks:
        named, more = ", ".join(lacks[:_NAMED]), len(lacks) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        raise CheckpointError(
            f"{each.where}: shard {each.shard} is not finished, it lacks {named}{rest}; gather it "
            "again, which goes on with what is there"
        )


def _nats(gathered: list[Gathered]) -> dict[str, Tensor]:
    """Sums of the losses of each text."""
    keys = gathered[0].store.keys(NATS)
    return {key: torch.stack([g.store.get(NATS, key) for g in gathered]).sum() for key in keys}


def _moments(
    name: str, modules: list[str], gathered: list[Gathered], counts: list[tuple[Corpus, ...]]
) -> dict[str, Tensor]:
    """What a set has, of whole texts."""
    made, sets = dict[str, Tensor](), dict.fromkeys(modules, name)
    for index in range(len(counts[0])):
        texts = [windows[index] for windows in counts]
        parts = [StoredMoments(each.store, str(index), sets) for each in gathered]
        tokens = [text.counted_tokens for text in texts]
        mixed = MixedMoments(tuple(zip(parts, tokens, strict=True)))
        made |= moments_tensors(str(index), sharing({module: mixed[module] for module in modules}))
        if name == WHOLE:
            predicted = [text.tokens - len(text.documents) for text in texts]
            nats = [each.store.get(name, f"{index}|nats") for each in gathered]
            made[f"{index}|nats"] = weighted(nats, predicted)
    return made


def weighted(means: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The mean of all, float64, of means over so many each."""
    pairs = zip(means, counts, strict=True)
    return torch.stack([mean * count for mean, count in pairs]).sum() / sum(counts)


def sharing(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """The same, with one matrix in the place of equal ones: those of modules that are fed alike."""
    known: dict[tuple[torch.Size, float], Tensor] = {}

    def one(matrix: Tensor) -> Tensor:
        first = known.setdefault((matrix.shape, float(matrix.sum())), matrix)
        return first if torch.equal(first, matrix) else matrix

    made = {}
    for module, each in moments.items():
        long = each.long_moment
        made[module] = replace(
            each,
            projected_moment=one(each.projected_moment),
            side_moment=one(each.side_moment),
            long_moment=None if long is None else one(long),
        )
    return made
