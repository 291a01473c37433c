"""How good the latency model is: percentage errors, and whether it ranks sizes as the machine does.

The model counts what a call moves from memory, so it is compared with the cold medians.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from benchmarks.gpu.summary.agreement import attention_site, matmul_site, predicted
from benchmarks.gpu.summary.calls import Call, Sweep
from gacfx.core.sites import Workload
from gacfx.hardware.latency import estimate_us
from gacfx.hardware.profile import Profile

HELD_OUT = "extra"
"""Rule of the private shapes that ``collect.py --extra`` names; nothing is calibrated on them."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One call, forecast and measured."""

    call: Call
    forecast_us: float
    measured_us: float

    @property
    def error(self) -> float:
        """Absolute error as a share of what was measured."""
        return abs(self.forecast_us - self.measured_us) / self.measured_us


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a sweep's forecast ranks its sizes."""

    sweep: Sweep
    tau: float
    """Kendall's tau-b: 1 the same order, 0 none, -1 reversed."""
    points: int


def forecasts(found: Iterable[Call], profile: Profile) -> list[Forecast]:
    """Forecasts of all measured calls that the rules speak of; forced backends are left out."""
    made = []
    for call in found:
        forecast = None if call.case.get("force") else forecast_us(call, profile)
        if forecast is not None and call.cold is not None:
            made.append(Forecast(call, forecast, call.cold.median_us))
    return made


def forecast_us(call: Call, profile: Profile) -> float | None:
    """What the latency model says; None where the rules do not speak of it or call it illegal."""
    tier = predicted(call, profile)
    if tier is None or tier.kernel == "error":
        return None
    if call.op == "attention":
        site, workload = attention_site(call.case)
        return estimate_us(site, tier, profile, workload).us
    return estimate_us(matmul_site(call), tier, profile, Workload()).us


def rankings(found: Sequence[Sweep], made: Sequence[Forecast]) -> list[Ranking]:
    """Tau of each sweep whose points have forecasts."""
    by_call = {id(forecast.call.entry): forecast for forecast in made}
    ranked = []
    for sweep in found:
        pairs = [
            (forecast.forecast_us, forecast.measured_us)
            for _, call in sweep.points
            if (forecast := by_call.get(id(call.entry))) is not None
        ]
        value = tau(pairs)
        if value is not None:
            ranked.append(Ranking(sweep, value, len(pairs)))
    return ranked


def tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau-b of (x, y); None where all x or all y are equal."""
    score = x_pairs = y_pairs = 0
    for (x, y), (other_x, other_y) in combinations(pairs, 2):
        dx, dy = (x > other_x) - (x < other_x), (y > other_y) - (y < other_y)
        score += dx * dy
        x_pairs += dx != 0
        y_pairs += dy != 0
    if not x_pairs or not y_pairs:
        return None
    return float(score / (x_pairs * y_pairs) ** 0.5)
