"""The views that the command line prints. Colour only by tier."""

from math import exp, inf

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.report.dims_view import dims_view
from gacfx.report.groups_view import groups_view
from gacfx.report.inspection_view import inspection_view
from gacfx.report.plan_view import plan_view
from gacfx.summary import Summary

__all__ = ["dims_view", "groups_view", "inspection_view", "plan_view", "summary_view"]


def summary_view(summary: Summary) -> RenderableType:
    """Dense, upstream and gacfx as columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for side in summary.sides:
        table.add_column(side.name, justify="right")
    sides, whole = summary.sides, summary.sides[0].targeted_params
    tiers = sorted({t for s in sides for t in s.tiers})
    rows = [
        ("parameters", [f"{s.params:,}" for s in sides]),
        ("targeted parameters", [f"{s.targeted_params:,}" for s in sides]),
        (
            "removed of the targeted",
            [_removed(s.targeted_params, whole) for s in sides],
        ),
        ("changed dims aligned", [_aligned(s.aligned_dims, s.changed_dims) for s in sides]),
        *((f"flops in tier {t}", [f"{s.tiers.get(t, 0.0):.1%}" for s in sides]) for t in tiers),
        (f"nats/token, {summary.text}", [f"{s.nats_per_token:.4f}" for s in sides]),
        (f"perplexity, {summary.text}", [f"{_exp(s.nats_per_token):.3f}" for s in sides]),
        (f"forecast, us ({summary.forecast})", [f"{s.forecast_us:,.1f}" for s in sides]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    head = Text(f"{summary.gpu}  {summary.workload}", style="bold")
    return Group(head, table)


def _removed(kept: int, dense: int) -> str:
    return f"{1 - kept / dense:.2%}" if dense else "-"


def _aligned(good: int, changed: int) -> str:
    return f"{good} of {changed} ({good / changed:.0%})" if changed else "-"


def _exp(nats: float) -> float:
    return exp(nats) if nats < 700 else inf
