"""One group: the candidates of which a plan takes exactly one."""

from collections.abc import Sequence
from dataclasses import dataclass

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import FloatArray, IntArray, cost_array, value_array
from gacfx.knapsack.limits import Label


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
        check_name(self.name)
        costs = cost_array(self.name, self.costs)
        values = value_array(self.name, self.values)
        if len(costs) != len(values):
            raise PlanError(f"group {self.name!r}: {len(costs)} costs but {len(values)} values")
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "labels", label_tuple(self.name, self.labels, len(costs)))

    def alike(self, name: str, values: FloatArray) -> "Group":
        """Another group with these costs and labels, which are not checked again.

        Raises:
            PlanError: as for any group.
        """
        check_name(name)
        found = value_array(name, values)
        if len(found) != len(self.costs):
            raise PlanError(f"group {name!r}: {len(self.costs)} costs but {len(found)} values")
        group = object.__new__(Group)
        group.__dict__.update(name=name, costs=self.costs, values=found, labels=self.labels)
        return group

    def index(self, label: Label) -> int:
        """Index of the candidate with this label; without labels the index is the label.

        Raises:
            PlanError: no candidate has it.
        """
        labels: Sequence[Label] = self.labels or range(len(self.costs))
        if label not in labels:
            raise PlanError(f"group {self.name!r}: no candidate has the label {label!r}")
        return labels.index(label)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Group):
            return NotImplemented
        mine = (self.name, self.labels, self.costs.tobytes(), self.values.tobytes())
        return mine == (other.name, other.labels, other.costs.tobytes(), other.values.tobytes())

    def __hash__(self) -> int:
        return hash((self.name, len(self.costs)))


def check_name(name: object) -> None:
    """Raise PlanError for a group name that is not a string, or empty."""
    if not isinstance(name, str) or not name:
        raise PlanError(f"group name {name!r}: must be a string that is not empty")


def label_tuple(name: str, labels: Sequence[Label], count: int) -> tuple[Label, ...]:
    """The labels of ``count`` candidates, or none.

    Raises:
        PlanError: another number of labels, one that is neither int nor str, or one given twice.
    """
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
