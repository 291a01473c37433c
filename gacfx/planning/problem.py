"""A planning problem: groups of candidates and one budget; a plan takes one candidate per group.

Costs are counted in whole units, usually parameters. Values are *gains to maximise*; gacfx uses
``value = -loss``, the estimated rise of the task loss in nats with its sign turned, so that a
weight which stays dense is worth 0. Only differences of values inside a group matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import index as as_index

from numpy.typing import ArrayLike

from gacfx.errors import PlanError
from gacfx.planning.arrays import LARGEST_COST, FloatArray, IntArray, cost_array, value_array

Label = int | str


@dataclass(frozen=True, eq=False)
class Group:
    """The candidates of one group, of which a plan takes exactly one.

    Arrays are copied once and made read-only. A read-only int64 array is kept as it is, so many
    groups can share one cost array; ``Problem.from_groups`` shares equal objects by itself.

    Args:
        name: unique inside a problem; for gacfx the name of the coupled dim.
        costs: [candidates] whole numbers >= 0, in any order, ties allowed.
        values: [candidates] finite gains, in any order; they may be negative, flat or falling.
        labels: what each candidate stands for (a rank, "dense"), or empty.

    Raises:
        PlanError: an array or a label is malformed; the message names the group.
    """

    name: str
    costs: IntArray
    values: FloatArray
    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PlanError(f"group name {self.name!r}: must be a string that is not empty")
        costs = cost_array(self.name, self.costs)
        values = value_array(self.name, self.values)
        if len(costs) != len(values):
            raise PlanError(f"group {self.name!r}: {len(costs)} costs but {len(values)} values")
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "labels", _labels(self.name, self.labels, len(costs)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Group):
            return NotImplemented
        mine = (self.name, self.labels, self.costs.tobytes(), self.values.tobytes())
        return mine == (other.name, other.labels, other.costs.tobytes(), other.values.tobytes())

    def __hash__(self) -> int:
        return hash((self.name, len(self.costs)))


@dataclass(frozen=True)
class Problem:
    """Choose one candidate per group, total cost <= budget, total value as large as possible.

    Args:
        groups: may be empty; names are unique.
        budget: in the unit of the costs. More than everything together is legal.

    Raises:
        PlanError: a duplicate name, a budget that is not a whole number >= 0, or costs whose sum
            would leave int64.
    """

    groups: tuple[Group, ...]
    budget: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "budget", _budget(self.budget))
        names: set[str] = set()
        for group in self.groups:
            if group.name in names:
                raise PlanError(f"group {group.name!r}: the name is used twice; names must differ")
            names.add(group.name)
        if sum(int(group.costs.max()) for group in self.groups) >= LARGEST_COST:
            raise PlanError("costs: the largest of every group sum to 2**62 or more; use a unit")

    @classmethod
    def from_groups(cls, pairs: Sequence[tuple[ArrayLike, ArrayLike]], budget: int) -> "Problem":
        """The problem with groups ``group0``, ``group1``, ... from pairs of (costs, values).

        Pairs that hold the same costs object share one array in memory.
        """
        shared: dict[int, IntArray] = {}
        groups = []
        for number, (costs, values) in enumerate(pairs):
            name = f"group{number}"
            if id(costs) not in shared:
                shared[id(costs)] = cost_array(name, costs)
            groups.append(Group(name, shared[id(costs)], value_array(name, values)))
        return cls(tuple(groups), budget)

    def to_json(self) -> str:
        """The problem as versioned JSON, lossless: floats are written with all their digits."""
        from gacfx.planning.problem_file import write_problem

        return write_problem(self)

    @classmethod
    def from_json(cls, text: str) -> "Problem":
        """The problem that ``to_json`` wrote.

        Raises:
            PlanError: not JSON, another version, a wrong field, or a malformed problem.
        """
        from gacfx.planning.problem_file import read_problem

        return read_problem(text)


def kept_budget(total: int, ratio: float | str | Fraction) -> int:
    """What remains of ``total`` when the share ``ratio`` is removed, rounded down exactly.

    A float means its shortest decimal form, so 0.2 is exactly 1/5. Text may be "0.2" or "1/5".

    Args:
        total: parameters (or other cost units) of the targeted weights, >= 0.
        ratio: share removed, 0 <= ratio < 1.

    Raises:
        PlanError: a ratio that is a bool, not a number or outside its range, or a bad total.
    """
    removed = _share(ratio)
    if removed >= 1:
        hint = f"; {ratio} means {float(100 * removed):.6g} %"
        if removed < 100:
            hint += f", write {float(removed / 100):.6g} for {float(removed):.6g} %"
        raise PlanError(f"ratio {ratio}: the share removed must be below 1{hint}")
    if removed < 0:
        raise PlanError(f"ratio {ratio}: the share removed cannot be negative")
    whole = _budget(total, "total")
    return (whole * (removed.denominator - removed.numerator)) // removed.denominator


def _share(ratio: float | str | Fraction) -> Fraction:
    if isinstance(ratio, bool):
        raise PlanError("ratio is a bool; give the share removed, such as 0.2")
    if isinstance(ratio, float):
        ratio = repr(float(ratio))  # float(): numpy's float64 prints its type as well
    if not isinstance(ratio, int | str | Fraction):
        raise PlanError(f"ratio {ratio!r}: give a float, a Fraction, or text such as '0.2'")
    try:
        return Fraction(ratio)
    except (ValueError, ZeroDivisionError):
        hint = "; write 0.2 for 20 %" if "%" in str(ratio) else ""
        raise PlanError(f"ratio {ratio}: not a number{hint}") from None


def _labels(name: str, labels: Sequence[Label], count: int) -> tuple[Label, ...]:
    labels = labels if isinstance(labels, tuple) else tuple(labels)
    if not labels:
        return ()
    if len(labels) != count:
        raise PlanError(f"group {name!r}: {len(labels)} labels for {count} candidates")
    if not {type(label) for label in labels} <= {int, str}:
        raise PlanError(f"group {name!r}: a label is neither int nor str")
    if len(set(labels)) != count:
        twice = next(label for label in labels if labels.count(label) > 1)
        raise PlanError(f"group {name!r}: label {twice!r} stands for two candidates")
    return labels


def _budget(budget: int, what: str = "budget") -> int:
    if isinstance(budget, bool):
        raise PlanError(f"{what} is a bool; give a number of cost units")
    try:
        whole = as_index(budget)
    except TypeError:
        raise PlanError(f"{what} {budget!r}: must be an int (kept_budget makes one)") from None
    if not 0 <= whole < LARGEST_COST:
        raise PlanError(f"{what} {whole}: must lie in 0 .. 2**62 - 1")
    return whole
