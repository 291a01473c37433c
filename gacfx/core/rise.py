"""What a plan was promised to cost, and what it costs on text that it has not seen.

The plan of three quarters of the calibration text is measured on the last quarter. The plan that is
carried out is made of all of it, so the figure is on the safe side.
"""

from dataclasses import dataclass
from typing import Any

from gacfx.core.plain import plain
from gacfx.core.plan import Choice, Plan
from gacfx.core.pruning import Heads, Width
from gacfx.errors import PoorQuality

MAX_LOSS_NATS = 1.0
"""Rise of the loss, in nats per token, above which a result is refused unless forced."""
DOUBTFUL_FACTOR = 2.0
"""A measured rise so many times the promise is warned of."""
NEGLIGIBLE_NATS = 0.01
"""Below this, promise and measurement differ by sampling alone."""
WORST = 3


@dataclass(frozen=True, slots=True)
class Rise:
    """Rise of the loss over the dense model, nats per token on held-back text."""

    dense_nats: float
    """Loss of the dense model."""
    measured_nats: float | None
    """Loss with the plan; None when it is not finite."""
    promised: float | None
    """Rise that the value model promised; None for a value model that counts no nats."""
    worst: tuple[Choice, ...]
    """The choices that are expected to cost most, worst first."""

    @property
    def measured(self) -> float | None:
        """Measured rise; None when the loss is not finite."""
        return None if self.measured_nats is None else self.measured_nats - self.dense_nats

    @property
    def doubtful(self) -> bool:
        """The measured rise is more than twice the promise, or not finite."""
        if self.measured is None:
            return True
        if self.promised is None or self.measured < NEGLIGIBLE_NATS:
            return False
        return self.measured > DOUBTFUL_FACTOR * self.promised

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**plain(self), "measured": self.measured, "doubtful": self.doubtful}


def rise_of(plan: Plan) -> Rise | None:
    """The rise that was measured while ``plan`` was made; None when nothing was tried."""
    made = plan.provenance
    tried = next((trial for trial in made.trials if trial.chosen), None)
    if tried is None or made.dense_nats_per_token is None:
        return None
    costly = sorted(plan.choices, key=lambda choice: (-choice.loss_nats, choice.group))
    worst = tuple(choice for choice in costly[:WORST] if choice.loss_nats > 0)
    return Rise(made.dense_nats_per_token, tried.nats_per_token, tried.promised_nats, worst)


def check_rise(rise: Rise, max_loss: float) -> None:
    """Nothing when the measured rise is at most ``max_loss`` nats per token.

    Raises:
        PoorQuality: it is above, or not finite; names the weights that cost most.
    """
    if rise.measured is not None and rise.measured <= max_loss:
        return
    much = "without limit" if rise.measured is None else f"by {rise.measured:.2f} nats/token"
    promise = "" if rise.promised is None else f" ({rise.promised:.2f} were promised)"
    raise PoorQuality(
        f"the loss would rise {much} on held-back text{promise}, at most {max_loss:g} is allowed; "
        f"worst: {worst_text(rise)}. Remove less, give more calibration text, allow more with "
        "max_loss (--max-loss), or go on with force (--force)"
    )


def worst_text(rise: Rise) -> str:
    """``layers.0.mlp.down_proj 64 x 176 -> rank 8 (0.31)``, the costliest choices."""
    return ", ".join(map(_cost_text, rise.worst)) or "no single weight"


def _cost_text(choice: Choice) -> str:
    """Of a structure its size alone, which costs most."""
    decision = choice.decision
    size = decision.size if isinstance(decision, Width | Heads) else str(decision)
    before = choice.shape if len(choice.weights) == 1 else "block"
    return f"{choice.group} {before} -> {size} ({choice.loss_nats:.2g})"


def rise_text(rise: Rise) -> str:
    """``loss rises by 0.031 nats/token on held-back text, 0.012 were promised``."""
    said = (
        "loss is not finite on held-back text"
        if rise.measured is None
        else f"loss rises by {rise.measured:.4f} nats/token on held-back text"
    )
    if rise.promised is not None:
        times = (rise.measured or 0.0) / rise.promised if rise.promised > 0 else 0.0
        said += f", {rise.promised:.4f} were promised"
        said += f": {times:.1f} times as much" if rise.doubtful and times else ""
    return f"{said}; costliest: {worst_text(rise)}" if rise.doubtful else said
