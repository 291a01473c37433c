"""The pass bars of the rules as a table, every disagreement, and every ranking."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.summary.agreement import Verdict
from benchmarks.gpu.summary.ranking import HELD_OUT, Forecast, Ranking
from benchmarks.gpu.tables import NONE, Table, number, percent, table
from gacfx.hardware.measure.times import tenths

PASS, MISSED, OPEN = "PASS", "**MISSED**", "not judged"
MIN_BACKEND = 1.0
MIN_TEMPLATE = 1.0
MIN_GEMM = 0.95
MAX_ERROR, GOAL_ERROR = 0.10, 0.05
"""Median absolute error of the latency model on shapes that it was not fitted to."""
MIN_TAU = 0.9
"""Planning needs the ranking of sizes more than their times."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One quantity against its bar."""

    quantity: str
    bar: str
    found: str
    items: int
    passed: bool | None
    """None if nothing could be judged."""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        verdict = OPEN if self.passed is None else PASS if self.passed else MISSED
        return self.quantity, self.bar, self.found, str(self.items), verdict


def bars(
    verdicts: Sequence[Verdict], made: Sequence[Forecast], ranked: Sequence[Ranking]
) -> list[Bar]:
    """All bars, those of what runs first, those of how long it takes last."""
    return [
        _share("SDPA backend: rule, torch and kernels agree", "backend", MIN_BACKEND, verdicts),
        _share("FlashAttention template", "template", MIN_TEMPLATE, verdicts),
        _share("class of matmul kernel", "gemm", MIN_GEMM, verdicts),
        _share("legal or not", "legal", 1.0, verdicts),
        _latency(made),
        _ranking(ranked),
    ]


def bars_table(found: Sequence[Bar]) -> Table:
    """PASS or MISSED for each."""
    return table(("quantity", "bar", ">found", ">items", "verdict"), (bar.cells() for bar in found))


def disagreements(verdicts: Sequence[Verdict]) -> Table:
    """Every call that the rules got wrong."""
    return table(
        ("what", "rule", "call", "predicted", "seen", "why the rules say so"),
        (
            (v.quantity, v.call.label, v.call.text(), v.predicted, v.seen, v.reason or NONE)
            for v in verdicts
            if not v.agrees
        ),
    )


def rankings_table(ranked: Sequence[Ranking]) -> Table:
    """Tau of every sweep, the worst first."""
    return table(
        ("sweep", ">points", ">Kendall tau", "verdict"),
        (
            (r.sweep.name, str(r.points), f"{r.tau:.2f}", PASS if r.tau >= MIN_TAU else MISSED)
            for r in sorted(ranked, key=lambda r: (r.tau, r.sweep.name))
        ),
    )


def errors_by_rule(made: Sequence[Forecast]) -> Table:
    """Median and 90th percentile of the latency error of each rule."""
    rules: dict[str, list[Forecast]] = {}
    for forecast in made:
        rules.setdefault(forecast.call.label, []).append(forecast)
    rows = []
    for rule, group in rules.items():
        _, middle, high = tenths([forecast.error for forecast in group])
        signs = statistics.median(f.forecast_us / f.measured_us for f in group)
        cells = (percent(middle), percent(high), f"{signs:.2f}")
        rows.append((rule, str(len(group)), *cells))
    return table(("rule", ">calls", ">median error", ">p90", ">forecast / measured"), rows)


def _share(label: str, quantity: str, least: float, verdicts: Sequence[Verdict]) -> Bar:
    own = [verdict for verdict in verdicts if verdict.quantity == quantity]
    bar = percent(least) if least == 1 else f"at least {percent(least)}"
    if not own:
        return Bar(label, bar, NONE, 0, None)
    right = sum(verdict.agrees for verdict in own)
    share = right / len(own)
    return Bar(label, bar, f"{percent(share)} ({right} of {len(own)})", len(own), share >= least)


def _latency(made: Sequence[Forecast]) -> Bar:
    held_out = [forecast for forecast in made if forecast.call.label == HELD_OUT]
    used = held_out or list(made)
    kind = "held-out shapes" if held_out else "all shapes, none held out"
    label, bar = f"latency, {kind}", f"median error at most {percent(MAX_ERROR)}"
    if not used:
        return Bar(label, bar, NONE, 0, None)
    _, middle, high = tenths([forecast.error for forecast in used])
    text = f"{percent(middle)}, p90 {percent(high)}"
    return Bar(f"{label} (goal {percent(GOAL_ERROR)})", bar, text, len(used), middle <= MAX_ERROR)


def _ranking(ranked: Sequence[Ranking]) -> Bar:
    label, bar = "ranking of sizes, Kendall tau", f"at least {number(MIN_TAU)} in every sweep"
    if not ranked:
        return Bar(label, bar, NONE, 0, None)
    worst = min(r.tau for r in ranked)
    middle = statistics.median(r.tau for r in ranked)
    return Bar(label, bar, f"{worst:.2f}, median {middle:.2f}", len(ranked), worst >= MIN_TAU)
