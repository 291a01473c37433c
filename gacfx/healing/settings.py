"""How a checkpoint is healed: limits, learning rates, and what is trained."""

import math
from dataclasses import dataclass

from gacfx.calibration.text import MIN_TOKENS
from gacfx.core.goal import read_count
from gacfx.errors import HealingError, PlanError

TOKENS = 1_000_000
MINUTES = 30.0
WINDOW = 512
STEP_TOKENS = 512
"""Tokens of a step, at least one window: small steps, as there is little text and little time."""
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Learning rates that are searched from the middle one on, as shares of the root mean square of
each tensor: a share means the same in models with larger and with smaller weights. Pivots like
smaller ones than pairs, and large models smaller ones than small models;
``benchmarks/results/heal.json`` has what was taken."""
LORA_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""The same for adapters, as shares of the root mean square of the weight that each one adds to:
both sides of a product of small rank have to go further than the weight itself."""
MOST_TRIALS = 4
"""Of those rates, so many are tried at most."""
PROBE_SHARE = 0.1
"""Steps of the trial of a rate, as a share of those of the training."""
EVALUATIONS = 8
"""Times that the training is judged, at equal distances, the last step included."""


@dataclass(frozen=True, slots=True)
class Healing:
    """What is asked of a healing.

    Raises:
        HealingError: a number that makes no sense.
    """

    tokens: int | str = TOKENS
    """Most tokens to train on, trials of learning rates and repetitions of the text included."""
    minutes: float = MINUTES
    """Most minutes that it is planned for, by the speed of the first steps."""
    window: int = WINDOW
    """Longest window, tokens; the model's positions where they are fewer."""
    step_tokens: int = STEP_TOKENS
    """Most tokens of a step; at least one window."""
    rates: tuple[float, ...] = ()
    """Learning rates to try, all of them, relative to the root mean square of each tensor; none:
    the best of the usual ones is searched for. A single one is not tried, but taken."""
    lora: int | None = None
    """Rank of LoRA adapters that are trained in the place of factors; None for the factors."""
    seed: int = 0
    """Of the order of the windows, and of adapters."""

    def __post_init__(self) -> None:
        try:
            _ = self.most_tokens
        except PlanError as error:
            raise HealingError(str(error)) from error
        if not _is_number(self.minutes) or not 0 < self.minutes < math.inf:
            raise HealingError(f"minutes {self.minutes!r}: give a number above 0, such as 30")
        least = {"window": MIN_TOKENS, "step_tokens": 1, "lora": 1}
        for name, low in least.items():
            given = getattr(self, name)
            if not (name == "lora" and given is None) and not (type(given) is int and given >= low):
                raise HealingError(f"{name} {given!r}: give a whole number, at least {low}")
        if type(self.seed) is not int:
            raise HealingError(f"seed {self.seed!r}: give a whole number")
        for rate in self.rates:
            if not _is_number(rate) or not 0 < rate < math.inf:
                raise HealingError(f"rate {rate!r}: give a number above 0, such as 1e-3")

    @property
    def most_tokens(self) -> int:
        """``tokens`` as a number.

        Raises:
            PlanError: it is none.
        """
        return read_count(self.tokens, "tokens", "500k")

    @property
    def offered(self) -> tuple[float, ...]:
        """The learning rates that may be tried, rising."""
        usual = RATES if self.lora is None else LORA_RATES
        return tuple(sorted(set(self.rates or usual)))

    @property
    def trials(self) -> int:
        """How many of them are tried, at most."""
        if not self.rates:
            return MOST_TRIALS
        return len(self.offered) if len(self.offered) > 1 else 0


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)
