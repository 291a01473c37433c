"""A planning problem: groups of candidates and a budget; a plan takes one candidate per group.

Costs are counted in whole units, usually parameters. Values are *gains to maximise*; gacfx uses
``value = -loss``, the estimated rise of the task loss in nats with its sign turned, so that a
weight which stays dense is worth 0. Only differences of values inside a group matter.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from numpy.typing import ArrayLike

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import LARGEST_COST, IntArray, cost_array, value_array, whole_number
from gacfx.knapsack.group import Group
from gacfx.knapsack.limits import Implies, Limit, Rule, SameLabel

__all__ = ["Group", "Problem", "kept_budget"]


@dataclass(frozen=True)
class Problem:
    """Choose one candidate per group, total cost <= budget, total value as large as possible.

    Args:
        groups: may be empty; names are unique.
        budget: in the unit of the costs. More than everything together is legal.
        limits: further budgets, each with costs of its own.
        rules: what the choices of some groups mean for others.

    Raises:
        PlanError: a duplicate name, a budget that is not a whole number >= 0, costs whose sum
            would leave int64, or a limit or rule that speaks of what is not there.
    """

    groups: Sequence[Group]
    budget: int
    limits: tuple[Limit, ...] = ()
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "budget", whole_number(self.budget, "budget"))
        object.__setattr__(self, "limits", tuple(self.limits))
        by_kind = sorted(self.rules, key=lambda rule: isinstance(rule, SameLabel))
        object.__setattr__(self, "rules", tuple(by_kind))
        _check_names(self.groups)
        if self.limits or self.rules:
            known = {group.name: group for group in self.groups}
            _check_limits(self.limits, known)
            for rule in self.rules:
                _check_rule(rule, known)
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
        hint = f"; {ratio} means {float(100 * removed):.6g} %" if removed < 10**9 else ""
        if removed < 100:
            hint += f", write {float(removed / 100):.6g} for {float(removed):.6g} %"
        raise PlanError(f"ratio {ratio}: the share removed must be below 1{hint}")
    if removed < 0:
        raise PlanError(f"ratio {ratio}: the share removed cannot be negative")
    whole = whole_number(total, "total")
    return (whole * (removed.denominator - removed.numerator)) // removed.denominator


_MOST = 60
_SHORT = re.compile(rf"(?!.*[eE][+-]?[\d_]{{4}}).{{0,{_MOST}}}", re.DOTALL)
"""Text of a share: not so long, nor its exponent, that reading it would never end."""


def _share(ratio: float | str | Fraction) -> Fraction:
    if isinstance(ratio, bool):
        raise PlanError("ratio is a bool; give the share removed, such as 0.2")
    if isinstance(ratio, float):
        ratio = repr(float(ratio))  # float(): numpy's float64 prints its type as well
    if not isinstance(ratio, int | str | Fraction):
        raise PlanError(f"ratio {ratio!r}: give a float, a Fraction, or text such as '0.2'")
    if isinstance(ratio, str) and not _SHORT.fullmatch(ratio):  # 1e999999999 has as many digits
        raise PlanError(f"ratio {ratio[:_MOST]!r}: not a number such as 0.2")
    try:
        return Fraction(ratio)
    except (ValueError, ZeroDivisionError):
        hint = "; write 0.2 for 20 %" if "%" in str(ratio) else ""
        raise PlanError(f"ratio {ratio!r}: not a number{hint}") from None


def _check_names(groups: Sequence[Group]) -> None:
    names = [group.name for group in groups]
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"group {name!r}: the name is used twice; names must differ")
        seen.add(name)


def _check_limits(limits: Sequence[Limit], known: Mapping[str, Group]) -> None:
    names = [limit.name for limit in limits]
    for limit in limits:
        if names.count(limit.name) > 1:
            raise PlanError(f"limit {limit.name!r}: the name is used twice; names must differ")
        for name, costs in limit.costs.items():
            if name not in known:
                raise PlanError(f"limit {limit.name!r}: there is no group {name!r}")
            if len(costs) != len(known[name].costs):
                raise PlanError(
                    f"limit {limit.name!r}: {len(costs)} costs for the "
                    f"{len(known[name].costs)} candidates of group {name!r}"
                )


def _check_rule(rule: object, known: Mapping[str, Group]) -> None:
    if not isinstance(rule, Implies | SameLabel):
        raise PlanError(f"rule {rule!r}: give Implies or SameLabel")
    named = (rule.group, rule.then_group) if isinstance(rule, Implies) else rule.groups
    for name in named:
        if name not in known:
            raise PlanError(f"{rule}: there is no group {name!r}")
    if not isinstance(rule, Implies):
        if len(set(named)) != len(named) or not named:
            raise PlanError(f"{rule}: name each group once, and at least one")
        return
    for name, labels in ((rule.group, rule.labels), (rule.then_group, rule.then_labels)):
        for label in labels:
            known[name].index(label)
