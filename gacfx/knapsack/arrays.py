"""Cost and value arrays as the solver wants them, or an error that names the group.

Costs become read-only int64, values read-only float64. Nothing is rounded: what does not fit
exactly is refused.
"""

from operator import index as as_index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gacfx.errors import PlanError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LARGEST_COST = 2**62
"""Sums and differences of costs below this bound stay inside int64."""
_LARGEST_EXACT_FLOAT = 2.0**53
_LARGEST_VALUE = 1e200  # times a cost it is still far from overflow
_SMALLEST_VALUE = 1e-305  # 2**-48 of it, the solver's margin, is still far from the last float


def whole_number(number: int, what: str) -> int:
    """A whole number in 0 .. 2**62 - 1.

    Raises:
        PlanError: it is not; the message begins with ``what``.
    """
    if isinstance(number, bool):
        raise PlanError(f"{what} is a bool; give a number of cost units")
    try:
        whole = as_index(number)
    except TypeError:
        raise PlanError(f"{what} {number!r}: must be an int (kept_budget makes one)") from None
    if not 0 <= whole < LARGEST_COST:
        raise PlanError(f"{what} {whole}: must lie in 0 .. 2**62 - 1")
    return whole


def run_ends(owner: IntArray) -> IntArray:
    """[runs + 1] where the runs of equal numbers in ``owner`` begin, and its length."""
    changes = np.flatnonzero(owner[1:] != owner[:-1]) + 1
    ends = np.empty(len(changes) + 2, np.int64)
    ends[0], ends[1:-1], ends[-1] = 0, changes, len(owner)
    return ends


def cost_array(name: str, costs: ArrayLike) -> IntArray:
    """[candidates] int64, read-only; the same object if it was that already.

    Raises:
        PlanError: empty, not one-dimensional, or a cost that is not a whole number in 0 .. 2**62-1.
    """
    raw = _one_dimension(name, "cost", costs)
    if raw.dtype.kind == "O" or (raw.dtype == np.uint64 and raw.max() >= LARGEST_COST):
        raise PlanError(f"group {name!r}: costs must be whole numbers below 2**62")
    if raw.dtype.kind == "u":
        raise PlanError(
            f"group {name!r}: costs are unsigned integers, whose differences wrap around; use int64"
        )
    if raw.dtype.kind == "f":
        raw = _whole(name, raw)
    elif raw.dtype.kind != "i":
        raise PlanError(f"group {name!r}: costs have dtype {raw.dtype}; use int64")
    if raw.min() < 0:
        raise PlanError(f"group {name!r}: cost {int(raw.min())} of candidate {raw.argmin()} < 0")
    if raw.max() >= LARGEST_COST:
        raise PlanError(f"group {name!r}: cost {int(raw.max())} is not below 2**62; use a unit")
    whole: IntArray = raw.astype(np.int64, copy=raw.flags.writeable)
    whole.setflags(write=False)
    return whole


def value_array(name: str, values: ArrayLike) -> FloatArray:
    """[candidates] float64, read-only; the same object if it was that already.

    Raises:
        PlanError: empty, not one-dimensional, not finite, beyond 1e200, or all within 1e-305 of 0
            without being 0.
    """
    raw = _one_dimension(name, "value", values)
    if raw.dtype.kind not in "fiu":
        raise PlanError(f"group {name!r}: values have dtype {raw.dtype}; use float64")
    if raw.dtype.kind in "iu" and max(abs(int(raw.min())), int(raw.max())) > _LARGEST_EXACT_FLOAT:
        raise PlanError(f"group {name!r}: a value beyond 2**53 has no exact float64; use a unit")
    bad = np.flatnonzero(~np.isfinite(raw))
    if len(bad):
        raise PlanError(f"group {name!r}: value of candidate {bad[0]} is {raw[bad[0]]}")
    largest = np.abs(raw).max()
    if largest > _LARGEST_VALUE:
        raise PlanError(f"group {name!r}: a value is beyond 1e200; scale the values")
    if 0 < largest < _SMALLEST_VALUE:
        raise PlanError(
            f"group {name!r}: no value is further from 0 than {float(largest)!r}, which float64 "
            "cannot count with; scale the values to 1e-305 and more"
        )
    finite: FloatArray = raw.astype(np.float64, copy=raw.flags.writeable)
    finite.setflags(write=False)
    return finite


def settled(sums: FloatArray) -> FloatArray:
    """The same sums of values, or zeros where they cancel to less than a group may be worth."""
    return sums if np.abs(sums).max(initial=0.0) >= _SMALLEST_VALUE else np.zeros_like(sums)


def _one_dimension(name: str, what: str, numbers: ArrayLike) -> NDArray[np.generic]:
    if isinstance(numbers, list | tuple) and any(isinstance(number, bool) for number in numbers):
        raise PlanError(f"group {name!r}: {what}s hold a bool; give numbers")
    try:
        raw = np.asarray(numbers)
    except (ValueError, OverflowError) as error:
        raise PlanError(f"group {name!r}: {what}s are not a list of numbers: {error}") from None
    if raw.ndim != 1:
        raise PlanError(f"group {name!r}: {what}s have shape {raw.shape}; give one dimension")
    if raw.size == 0:
        raise PlanError(
            f"group {name!r}: no candidate left; check what filtered its candidates "
            "(alignment, coupling, tensor parallelism), or leave the group out"
        )
    if raw.dtype.kind == "b":
        raise PlanError(f"group {name!r}: {what}s hold a bool; give numbers")
    return raw


def _whole(name: str, costs: NDArray[np.generic]) -> NDArray[np.generic]:
    floats = costs.astype(np.float64)
    # Written so that NaN fails it too.
    bad = np.flatnonzero(~(np.abs(floats) < _LARGEST_EXACT_FLOAT) | (floats != np.rint(floats)))
    if len(bad):
        raise PlanError(
            f"group {name!r}: cost {float(floats[bad[0]])} of candidate {bad[0]} is not a whole "
            "number below 2**53; use integers"
        )
    return floats.astype(np.int64)
