"""What an explanation says: prices, other decisions, ties and holds."""

from dataclasses import dataclass

from gacfx.core.decision import Decision
from gacfx.core.plan import Weight

PARAMETERS = "parameters"
"""Name of the price of the budget."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one more unit of the budget, or of a limit, is worth to the plan."""

    name: str
    unit: str
    """What is counted, ``ns`` for example; empty for parameters."""
    nats_per_unit: float | None
    """The multiplier; None where the plan did not keep it, and then it counts as 0."""
    spent: int
    most: int

    @property
    def left(self) -> int:
        """Units that the plan leaves unused."""
        return self.most - self.spent


@dataclass(frozen=True, slots=True)
class Moved:
    """A size that another weight takes along, because a rule says so."""

    module: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class Other:
    """Another size that the weight could have; changes are those of all weights tied to it."""

    decision: Decision
    loss_change_nats: float
    """Against the chosen size; above 0 it loses more."""
    params_change: int
    """Above 0 it needs more parameters."""
    reduced_cost_nats: float
    """What the plan would lose with it: the loss, and all that it needs at its price."""
    limit_changes: tuple[int, ...] = ()
    """What it needs more under each limit, in their order."""
    moved: tuple[Moved, ...] = ()
    """Other weights that change with it."""

    @property
    def needs(self) -> tuple[int, ...]:
        """Changes in the order of the prices: parameters, then the limits."""
        return (self.params_change, *self.limit_changes)

    @property
    def nats_per_million_params(self) -> float:
        """What a million parameters are worth on the way to it."""
        if not self.params_change:
            return 0.0
        return -1e6 * self.loss_change_nats / self.params_change


@dataclass(frozen=True, slots=True)
class Tie:
    """Weights whose sizes depend on that of this one."""

    how: str
    """``same size`` or ``implication``."""
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Something that keeps the size from being another one."""

    by: str
    """budget, limit NAME, rules, solver, break-even, contract, bound, window, search, failure"""
    why: str
    gain_nats: float | None
    """What the plan would win without it, at the same prices; None where no figure can be given."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The size of one weight or structure, what it is worth and what holds it."""

    module: str
    """The weight, or the structure that it is decided with."""
    weights: tuple[Weight, ...]
    """What it is made of: one weight, or those of the structure."""
    decision: Decision
    loss_nats: float
    params: int
    price: float
    """The multiplier in nats per million parameters: what the budget's last million saves."""
    prices: tuple[Price, ...]
    """Of the budget, then of each limit."""
    tied: tuple[Tie, ...]
    """Weights that rules tie to this one; sizes are then compared for all of them together."""
    below: tuple[Other, ...]
    """Candidates with fewer parameters, the next one first."""
    above: tuple[Other, ...]
    """Candidates with more parameters, the next one first."""
    nearest: Other | None
    """Of a dense weight: the rank that comes closest to paying."""
    pays_at: float | None
    """Of a dense weight: the price, in nats per million parameters, from which a rank pays."""
    held_by: tuple[Hold, ...]
    notes: tuple[str, ...] = ()
    """What the prices leave out."""

    @property
    def shape(self) -> str:
        """``1024 x 4096``; how many weights where there are several."""
        return f"{len(self.weights)} weights" if len(self.weights) > 1 else self.weights[0].shape

    @property
    def dense_params(self) -> int:
        """Parameters of the dense weights."""
        return sum(weight.params for weight in self.weights)

    @property
    def smaller(self) -> Other | None:
        """The next candidate with fewer parameters."""
        return self.below[0] if self.below else None

    @property
    def larger(self) -> Other | None:
        """The next candidate with more parameters."""
        return self.above[0] if self.above else None
