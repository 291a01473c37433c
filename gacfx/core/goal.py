"""A goal: how much of a model may remain, as a share, as a number of parameters or in bytes."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from gacfx.core.defaults import RATIO
from gacfx.errors import PlanError

Unit = Literal["ratio", "params", "bytes"]
Whole = Literal["targeted", "model"]

_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
"""Suffixes of parameter counts; 8B is how models are named."""
_NUMBER = re.compile(r"(?P<number>\d{1,18}(\.\d{1,18})?([eE]\d{1,2})?) ?(?P<unit>[A-Za-z]*)")
_BYTES = {
    "": 1,
    "B": 1,
    **{f"{name}B": 1000**power for power, name in enumerate(("k", "M", "G", "T"), start=1)},
    **{f"{name}iB": 1024**power for power, name in enumerate(("K", "M", "G", "T"), start=1)},
    "KB": 1000,
    "bytes": 1,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """Exactly one of ``ratio``, ``params`` and ``nbytes``.

    A ratio is the share to remove, of the targeted weights unless ``of`` says otherwise. Parameters
    and bytes are what the whole model may keep, embeddings and all; bytes in the dtype it has.

    Raises:
        PlanError: none or several are given, or a number cannot be read.
    """

    ratio: float | str | None = None
    """0.2 or "0.2" is 20 % removed."""
    params: int | str | None = None
    """Most parameters of the whole model: 6_500_000_000 or "6.5G"."""
    nbytes: int | str | None = None
    """Most bytes of all weights: 12884901888, "12GiB" or "12.5GB"."""
    of: Whole = "targeted"
    """What a ratio is a share of."""

    def __post_init__(self) -> None:
        given = [name for name in ("ratio", "params", "nbytes") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise PlanError(f"a goal is one of ratio, params and nbytes; {found} was given")
        if self.of not in ("targeted", "model"):
            raise PlanError(f"of {self.of!r}: a ratio is of the 'targeted' weights or the 'model'")
        self._read()

    @property
    def unit(self) -> Unit:
        """What the amount is counted in."""
        if self.ratio is not None:
            return "ratio"
        return "params" if self.params is not None else "bytes"

    @property
    def whole(self) -> Whole:
        """What the amount is of: parameters and bytes always mean the whole model."""
        return self.of if self.ratio is not None else "model"

    @property
    def amount(self) -> str:
        """The amount as it was asked for; a bare number of bytes with its unit."""
        given = {"ratio": self.ratio, "params": self.params, "bytes": self.nbytes}[self.unit]
        bare = self.unit == "bytes" and str(given)[-1].isdigit()
        return f"{given} bytes" if bare else str(given)

    @property
    def count(self) -> int:
        """Parameters or bytes that may remain, rounded down; of a ratio it is not known yet.

        Raises:
            PlanError: the goal is a ratio.
        """
        found = self._read()
        if found is None:
            raise PlanError(f"ratio {self.ratio} is no count before the model is known")
        return found

    def _read(self) -> int | None:
        if self.params is not None:
            return read_count(self.params, "params")
        if self.nbytes is not None:
            return read_count(self.nbytes, "bytes", "12GiB", _BYTES)
        return None


def as_goal(ratio: "float | str | Goal | None", goal: Goal | None = None) -> Goal:
    """The goal that the arguments of a door name; 20 % removed if they name none.

    Raises:
        PlanError: both are given.
    """
    if ratio is not None and goal is not None:
        raise PlanError(f"ratio {ratio} and {goal} are both given; give one")
    if isinstance(ratio, Goal):
        return ratio
    if goal is not None:
        return goal
    return Goal(ratio=RATIO if ratio is None else ratio)


def read_bytes(given: int | str) -> int:
    """Bytes: a whole number above 0, or text such as ``60GB`` and ``12.5GiB``.

    Raises:
        PlanError: it is no such number.
    """
    return read_count(given, "bytes", "60GB", _BYTES)


def read_count(
    given: int | str, what: str, example: str = "6.5G", units: dict[str, int] = _THOUSANDS
) -> int:
    """A whole number of at least 1, from an int or from decimal text with a unit.

    Raises:
        PlanError: it is neither; says ``what`` is meant and an ``example``.
    """
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise PlanError(f"{what} {given!r}: give a whole number or text such as {example}")
    found = _NUMBER.fullmatch(str(given).replace("_", ""))
    if found is None or found["unit"] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise PlanError(f"{what} {given!r}: not a number such as {example}; units are {known}")
    number = int(Fraction(found["number"]) * units[found["unit"]])
    if number < 1:
        raise PlanError(f"{what} {given}: must be at least 1")
    return number
