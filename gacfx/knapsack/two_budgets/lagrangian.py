"""The Lagrangian of two resources and its highest point: the best pair of prices.

At prices (p, q) every group takes the candidate with the least ``short + p * first + q * second``.
The sum of these, less what the rooms are worth at the prices, is no more than any plan that keeps
both rooms falls short. As a function of the prices it is concave and made of form pieces, one for
each plan. It is climbed along the second price, and at each second price along the first: a climb
keeps one piece on either side of the peak and looks where they meet, until nothing lies below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gacfx.knapsack.arrays import FloatArray, IntArray

_MOST_LOOKS = 100
_STRETCH = (1.02, 1.1, 1.5)
"""Factors by which a climb steps away from a guess until the peak lies in between"""

_DEAREST = 2.0**20
"""A price at which a millionth of a room is worth as much as everything. Rooms that are filled to
the last unit lead up here, with slopes that are nothing but rounding"""

_DUST = 1e-9
"""Of a room: more than rounding can add to what a plan spends"""

Price = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Piece:
    """A plan, or a mixture of two, as a piece of the Lagrangian."""

    short: float
    """Value below the best of every group"""
    over: Price
    """What it spends beyond the rooms, which is how it rises with the prices"""


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest point, or a direction in which there is none."""

    price: Price
    height: float
    ray: Price | None = None
    """From ``price`` the Lagrangian rises without end along this: no plan keeps both rooms"""


@dataclass
class Lagrangian:
    """Groups of candidates, one group after the other. Scale costs to be near 1."""

    start: IntArray
    """[groups + 1]"""
    short: FloatArray
    """[candidates] value below the best of the group, >= 0"""
    first: FloatArray
    """[candidates] cost, >= 0"""
    second: FloatArray
    room: Price
    looks: int = 0
    """How often it was evaluated"""

    def reduced(self, price: Price) -> FloatArray:
        """[candidates] short + price * cost."""
        reduced: FloatArray = self.first * price[0]
        reduced += self.second * price[1]
        reduced += self.short
        return reduced

    def least(self, numbers: FloatArray) -> tuple[FloatArray, IntArray]:
        """[groups] the least number of each group, and the first candidate that has it."""
        low = np.minimum.reduceat(numbers, self.start[:-1])
        hits = np.flatnonzero(numbers == self.spread(low))
        return low, hits[np.searchsorted(hits, self.start[:-1])]

    def spread(self, per_group: FloatArray) -> FloatArray:
        """[groups] -> [candidates]"""
        return np.repeat(per_group, self.start[1:] - self.start[:-1])

    def look(self, price: Price) -> tuple[float, Piece]:
        """The height at ``price``, and the piece there."""
        self.looks += 1
        low, pick = self.least(self.reduced(price))
        return self.height(low, price), self.piece(pick)

    def height(self, low: FloatArray, price: Price) -> float:
        """The height at ``price``, from the least numbers of the groups there."""
        return float(low.sum()) - price[0] * self.room[0] - price[1] * self.room[1]

    def piece(self, pick: IntArray) -> Piece:
        """The piece of a plan."""
        over = float(self.first[pick].sum()) - self.room[0]
        return Piece(float(self.short[pick].sum()), (over, self._over_second(pick)))

    def cheapest(self, second_price: float) -> Piece:
        """The piece at an endless first price."""
        dear = self.first > self.spread(np.minimum.reduceat(self.first, self.start[:-1]))
        reduced = self.short + second_price * self.second
        reduced[dear] = np.inf
        return self.piece(self.least(reduced)[1])

    def take(self, keep: IntArray) -> "Lagrangian":
        """The same with only the candidates ``keep``, ascending; every group needs one."""
        return Lagrangian(
            start=np.searchsorted(keep, self.start),
            short=self.short[keep],
            first=self.first[keep],
            second=self.second[keep],
            room=self.room,
        )

    def _over_second(self, pick: IntArray) -> float:
        return float(self.second[pick].sum()) - self.room[1]


_Sides = tuple[Piece | None, Piece | None]
"""A piece that rises and one that falls with the price that is climbed"""


@dataclass(frozen=True, slots=True)
class _Top:
    """Where a climb along one price ended."""

    price: float
    height: float
    level: Piece
    """A mixture of both sides that neither rises nor falls with the price"""
    sides: _Sides
    endless: bool = False


@dataclass(frozen=True)
class _Slope:
    """The Lagrangian along one price, the other one fixed."""

    axis: int
    other: float
    look: Callable[[float], tuple[float, Piece]]
    far: Callable[[], Piece]
    """The piece at an endless price"""
    tolerance: float

    def climb(self, guess: float, sides: _Sides = (None, None)) -> _Top:
        """From a guess, and pieces that are known to lie near."""
        rising, falling = sides
        price, height = guess, 0.0
        stretch = iter(_STRETCH if guess > 0 else ())
        for _ in range(_MOST_LOOKS):
            ceiling = np.inf
            if rising and falling:
                price, ceiling = self._meet(rising, falling)
            height, piece = self.look(price)
            if self._is_top(piece, price):
                return _Top(price, height, piece, (rising, falling))
            stuck = height >= ceiling - self.tolerance or piece in (rising, falling)
            if rising and falling and stuck:
                break
            rising, falling = (piece, falling) if self._of(piece) > 0 else (rising, piece)
            factor = next(stretch, None)
            if not falling and not factor:
                falling = self._leveled(self.far())
                if self._of(falling) > 0:
                    return _Top(price, height, piece, (rising, None), endless=True)
            elif not falling or not rising:
                price = self._step(guess, factor, up=rising is not None)
        level = _level(rising, falling, self.axis) if rising and falling else piece
        return _Top(price, height, level, (rising, falling))

    def _of(self, piece: Piece) -> float:
        return piece.over[self.axis]

    def _is_top(self, piece: Piece, price: float) -> bool:
        slope = self._of(piece)
        return slope == 0 or (slope < 0 and price == 0) or (slope > 0 and price == _DEAREST)

    def _leveled(self, piece: Piece) -> Piece:
        """A piece that rises by no more than rounding does not rise."""
        over = list(piece.over)
        over[self.axis] = 0.0 if 0 < over[self.axis] <= _DUST else over[self.axis]
        return Piece(piece.short, (over[0], over[1]))

    def _step(self, guess: float, factor: float | None, *, up: bool) -> float:
        if factor is None:
            return 0.0
        return guess * factor if up else guess / factor

    def _meet(self, rising: Piece, falling: Piece) -> Price:
        """(price, height) where two pieces cross."""
        feet = [piece.short + self.other * piece.over[1 - self.axis] for piece in (rising, falling)]
        up, down = self._of(rising), self._of(falling)
        price = min(max(0.0, (feet[1] - feet[0]) / (up - down)), _DEAREST)
        return price, min(feet[0] + up * price, feet[1] + down * price)


def highest(lagrangian: Lagrangian, tolerance: float, guess: Price = (0.0, 0.0)) -> Peak:
    """The peak over all prices >= 0, or a little beside it: at most ``tolerance`` lower."""
    inner = _Top(guess[0], 0.0, Piece(0.0, (0.0, 0.0)), (None, None))
    lean = 0.0

    def look(second: float) -> tuple[float, Piece]:
        nonlocal inner
        inner = _along_first(lagrangian, second, tolerance).climb(inner.price, inner.sides)
        return inner.height, inner.level

    def far() -> Piece:
        nonlocal lean
        lean, piece = _leanest(lagrangian, tolerance)
        return piece

    top = _Slope(1, 0.0, look, far, tolerance).climb(guess[1])
    ray = (1.0, 0.0) if inner.endless else (lean, 1.0) if top.endless else None
    return Peak((inner.price, top.price), top.height, ray)


def _along_first(lagrangian: Lagrangian, second: float, tolerance: float) -> _Slope:
    return _Slope(
        axis=0,
        other=second,
        look=lambda first: lagrangian.look((first, second)),
        far=lambda: lagrangian.cheapest(second),
        tolerance=tolerance,
    )


def _leanest(lagrangian: Lagrangian, tolerance: float) -> tuple[float, Piece]:
    """The mixture that keeps the first room and spends the least of the second.

    Comes with the price of the first resource in units of the second.
    """
    swapped = Lagrangian(
        lagrangian.start,
        short=lagrangian.second,
        first=lagrangian.first,
        second=lagrangian.short,
        room=(lagrangian.room[0], 0.0),
    )
    lean = _along_first(swapped, 0.0, tolerance).climb(0.0)
    lagrangian.looks += swapped.looks
    over = lean.level.short - lagrangian.room[1]
    return lean.price, Piece(lean.level.over[1], (0.0, over))


def _level(rising: Piece, falling: Piece, axis: int) -> Piece:
    """The mixture of two pieces that neither rises nor falls along ``axis``."""
    share = -falling.over[axis] / (rising.over[axis] - falling.over[axis])
    over = [
        share * up + (1 - share) * down for up, down in zip(rising.over, falling.over, strict=True)
    ]
    over[axis] = 0.0
    return Piece(share * rising.short + (1 - share) * falling.short, (over[0], over[1]))
