"""Blocks: groups of equal length in one table, so that 45,000 experts are not 45,000 objects."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import FloatArray, IntArray, cost_array, value_array
from gacfx.knapsack.group import Group, check_name, label_tuple
from gacfx.knapsack.limits import Label


@dataclass(frozen=True, eq=False)
class Block:
    """Groups with equally many candidates, for example all weights of one shape.

    Arrays are copied once and made read-only. Read-only int64 costs and float64 values are kept as
    they are, without a copy.

    Args:
        costs: [candidates], the same for every group, or [groups, candidates].
        values: [groups, candidates].
        names: [groups], or empty: ``group<n>`` for the n-th group of the problem.
        labels: [candidates] what the candidates of every group stand for, or empty.

    Raises:
        PlanError: an array, a name or a label is malformed; the message names the group.
    """

    costs: IntArray
    values: FloatArray
    names: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self.names)
        for name in names:
            check_name(name)
        values = _checked_rows(names, "values", self.values, value_array)
        first = names[0] if names else "row 0"
        costs = np.asarray(self.costs)
        shared = costs.ndim == 1
        costs = (
            cost_array(first, self.costs)
            if shared
            else _checked_rows(names, "costs", costs, cost_array)
        )
        if costs.shape != values.shape[-costs.ndim :]:
            raise PlanError(
                f"block of group {first!r}: costs have shape {costs.shape}, values {values.shape}; "
                "give [candidates] or [groups, candidates] and [groups, candidates]"
            )
        if names and len(names) != len(values):
            raise PlanError(
                f"block of group {first!r}: {len(names)} names for {len(values)} groups"
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "labels", label_tuple(first, self.labels, values.shape[1]))

    def groups(self, first: int) -> Iterator[Group]:
        """The groups one by one; ``first`` is the number of the first of them."""
        for row, values in enumerate(self.values):
            name = self.names[row] if self.names else f"group{first + row}"
            costs = self.costs if self.costs.ndim == 1 else self.costs[row]
            yield Group.of_checked(name, costs, values, self.labels)

    def dearest(self) -> int:
        """What the most expensive candidates of all groups cost together."""
        largest: list[int] = np.atleast_2d(self.costs).max(axis=1).tolist()
        return sum(largest) * (len(self.values) if self.costs.ndim == 1 else 1)


def _checked_rows(
    names: tuple[str, ...],
    what: str,
    rows: ArrayLike,
    check: Callable[[str, ArrayLike], NDArray[Any]],
) -> NDArray[Any]:
    """[groups, candidates] ``rows`` after the check of a single row; errors name the row."""
    raw = np.asarray(rows)
    first = names[0] if names else "row 0"
    if raw.ndim != 2:
        raise PlanError(
            f"block of group {first!r}: {what} have shape {raw.shape}; give [groups, candidates]"
        )
    try:
        return check(first, raw.reshape(-1)).reshape(raw.shape)
    except PlanError:
        for number, row in enumerate(raw):
            check(names[number] if number < len(names) else f"row {number}", row)
        raise


class GroupsOfBlocks(Sequence[Group]):
    """The groups of some blocks, in order. They become objects when somebody looks at one."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)

    @cached_property
    def _all(self) -> tuple[Group, ...]:
        return tuple(
            group
            for first, block in zip(self.firsts(), self.blocks, strict=True)
            for group in block.groups(first)
        )

    def firsts(self) -> list[int]:
        """[blocks] the number of the first group of each."""
        sizes = [len(block.values) for block in self.blocks]
        return list(accumulate(sizes, initial=0))[:-1]

    def names(self) -> list[str]:
        """[groups]"""
        firsts = zip(self.firsts(), self.blocks, strict=True)
        numbered = ((range(first, first + len(block.values)), block) for first, block in firsts)
        return [name for r, block in numbered for name in block.names or (f"group{n}" for n in r)]

    def __len__(self) -> int:
        return sum(len(block.values) for block in self.blocks)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | Sequence[Group]:
        return self._all[index]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple | GroupsOfBlocks):
            return NotImplemented
        return self._all == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all)

    def __repr__(self) -> str:
        return f"<{len(self)} groups in {len(self.blocks)} blocks>"
