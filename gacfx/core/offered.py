"""What a planner may choose from: candidates, and the limits and rules that speak of them."""

from dataclasses import dataclass, field
from typing import Any

from gacfx.core.decision import Decision

Candidates = tuple[Decision, ...]
"""Of one group, in a fixed order."""


@dataclass
class Offered:
    """Candidates of every group, with limits and rules.

    Limits and rules speak of candidates, so whoever lists candidates anew begins without them.
    """

    candidates: dict[str, Candidates] | None = None
    """Group -> what it may become."""
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Group -> its modules, for groups of several weights; any other group is its module."""
    limits: tuple[Any, ...] = ()
    """Further budgets: values of :class:`gacfx.knapsack.limits.Limit`, in the order of the
    candidates."""
    _rules: dict[Any, None] = field(default_factory=dict)
    """Keys only: a set that keeps its order."""

    @property
    def rules(self) -> tuple[Any, ...]:
        """What choices mean for each other: ``SameLabel``, ``Implies`` of gacfx.knapsack.limits."""
        return tuple(self._rules)

    def offer(
        self,
        candidates: dict[str, Candidates],
        members: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        """List the candidates anew; what was said of the old ones is void.

        Args:
            candidates: group -> what it may become.
            members: of the groups of several weights, if they are not those of before.
        """
        self.candidates, self.limits, self._rules = candidates, (), {}
        self.members = self.members if members is None else members

    def modules(self, group: str) -> tuple[str, ...]:
        """The modules of a group, in the order of its decisions' parts."""
        return self.members.get(group, (group,))

    def limit(self, limit: Any) -> None:
        """Add a limit, or replace the one of the same name."""
        self.limits = (*(known for known in self.limits if known.name != limit.name), limit)

    def rule(self, rule: Any) -> None:
        """Add a rule once."""
        self._rules.setdefault(rule)
