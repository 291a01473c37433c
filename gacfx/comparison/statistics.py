"""How sure a loss is: means over tokens, with errors over documents or windows.

Tokens of one document are alike, and an error over tokens would be too small. Documents are drawn
independently; where there are fewer than 10 of them, windows stand in for them, which is the best
that a long text allows: neighbours are alike, and the error may be too small.
"""

# T predicted tokens of one window

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf, isfinite, sqrt
from typing import Literal

from torch import Tensor

from gacfx.calibration.sliding import Slides
from gacfx.zeroshot.scores import Mean

LEAST_DOCUMENTS = 10
"""With fewer, a deviation over documents is itself too unsure."""

Unit = Literal["documents", "windows"]


@dataclass(frozen=True, slots=True)
class Units:
    """What a standard error is taken over."""

    name: Unit
    of: tuple[int, ...]
    """Number of the unit of each window, from 0."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(set(self.of))

    def mean(self, found: Sequence[Tensor]) -> Mean:
        """The mean over tokens and its standard error.

        The error is that of a ratio of two sums over units (Cochran, Sampling Techniques, 1977,
        section 2.11): of what was found, and of tokens.

        Args:
            found: [T] of each window; where one is no number, the mean is infinite.
        """
        sums, tokens = [0.0] * self.count, [0] * self.count
        for unit, each in zip(self.of, found, strict=True):
            sums[unit] += float(each.double().sum())
            tokens[unit] += len(each)
        total = sum(tokens)
        if not all(map(isfinite, sums)):
            return Mean(inf, None)
        mean = fsum(sums) / total
        if self.count < 2:
            return Mean(mean, None)
        squares = fsum((s - mean * n) ** 2 for s, n in zip(sums, tokens, strict=True))
        return Mean(mean, sqrt(squares * self.count / (self.count - 1)) / total)


def units_of(slides: Slides) -> Units:
    """Documents, or windows where there are few documents."""
    windows = range(len(slides.scored))
    numbers = [slides.corpus.number(index) for index in windows]
    known = {number: unit for unit, number in enumerate(dict.fromkeys(numbers))}
    if len(known) < LEAST_DOCUMENTS:
        return Units("windows", tuple(windows))
    return Units("documents", tuple(known[number] for number in numbers))
