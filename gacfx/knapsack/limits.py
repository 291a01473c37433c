"""What a plan must keep beside the budget: further limits, and rules between groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from numpy.typing import ArrayLike

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import LARGEST_COST, IntArray, cost_array, whole_number

Label = int | str
_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Limit:
    """A second budget: bytes of a KV cache, nanoseconds of latency, FLOPs.

    Args:
        name: unique inside a problem, for messages.
        most: the chosen candidates may cost this much together; a whole number >= 0.
        costs: group name -> [candidates] whole numbers >= 0, in the order of the group's own costs.
            A group that is not named costs nothing here.

    Raises:
        PlanError: an array or the limit is malformed; names the limit and the group.
    """

    name: str
    most: int
    costs: Mapping[str, IntArray]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PlanError(f"limit name {self.name!r}: must be a string that is not empty")
        object.__setattr__(self, "most", whole_number(self.most, f"limit {self.name!r}"))
        object.__setattr__(self, "costs", MappingProxyType(_costs(self.name, self.costs)))
        if sum(int(array.max()) for array in self.costs.values()) >= LARGEST_COST:
            raise PlanError(f"limit {self.name!r}: costs sum to 2**62 or more; use a unit")

    def __getstate__(self) -> dict[str, object]:
        # Copies are made of the state, and a mapping proxy cannot be copied.
        return {**self.__dict__, "costs": dict(self.costs)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Limit):
            return NotImplemented
        mine, theirs = (
            {group: array.tobytes() for group, array in limit.costs.items()}
            for limit in (self, other)
        )
        return (self.name, self.most, mine) == (other.name, other.most, theirs)

    def __hash__(self) -> int:
        return hash((self.name, self.most, len(self.costs)))


@dataclass(frozen=True, slots=True)
class Implies:
    """If ``group`` takes one of ``labels``, then ``then_group`` takes one of ``then_labels``.

    Labels are those of the candidates; their indices where a group has no labels. Without
    ``then_labels`` the conclusion cannot hold, so ``group`` takes none of ``labels``. Both groups
    may be the same.

    Raises:
        PlanError: a name is not text, or labels are not ints and strings.
    """

    group: str
    labels: tuple[Label, ...]
    then_group: str
    then_labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _labels("labels", self.labels))
        object.__setattr__(self, "then_labels", _labels("then_labels", self.then_labels))
        _check_names("Implies", (self.group, self.then_group))
        if not self.labels:
            raise PlanError(f"{self}: without labels it never applies; leave the rule out")


@dataclass(frozen=True, slots=True)
class SameLabel:
    """All of these groups take a candidate with the same label, for example one width for all.

    Raises:
        PlanError: ``groups`` is no sequence of names.
    """

    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        names = _sequence("SameLabel: groups", self.groups)
        _check_names("SameLabel", names)
        object.__setattr__(self, "groups", names)


Rule = Implies | SameLabel


def _costs(limit: str, costs: Mapping[str, ArrayLike]) -> dict[str, IntArray]:
    if not isinstance(costs, Mapping):
        raise PlanError(f"limit {limit!r}: costs must map names of groups to arrays")
    try:
        return {group: cost_array(group, array) for group, array in costs.items()}
    except PlanError as error:
        raise PlanError(f"limit {limit!r}: {error}") from None


def _labels(what: str, labels: Sequence[Label]) -> tuple[Label, ...]:
    found = _sequence(f"Implies: {what}", labels)
    wrong = [label for label in found if type(label) not in (int, str)]
    if wrong:
        raise PlanError(f"Implies: {what} hold {wrong[0]!r}; a label is an int or a string")
    return found


def _sequence(what: str, items: Sequence[_Item]) -> tuple[_Item, ...]:
    # Text is a sequence as well, of letters.
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise PlanError(f"{what} is {items!r}; give a tuple, such as ({items!r},)")
    return tuple(items)


def _check_names(rule: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(name, str) or not name:
            raise PlanError(f"{rule}: group name {name!r} must be a string that is not empty")
