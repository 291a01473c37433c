"""What a healing did, as a table for 80 columns."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.report.layout import sentence


def healing_view(said: Mapping[str, Any], seconds: float) -> RenderableType:
    """Before and after, how much was read, and which learning rates were tried.

    Args:
        said: as an entry of ``healed`` in ``gacfx_report.json``.
        seconds: that the run took.
    """
    before, after = said["before"], said["after"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("KL to the dense model, nats/token", *(f"{e['kl']:.4f}" for e in (before, after)))
    table.add_row("nats/token", *(f"{each['nats']:.4f}" for each in (before, after)))
    table.add_row("perplexity", *(f"{_exp(each['nats']):.3f}" for each in (before, after)))
    what = f"LoRA of rank {said['lora']}, merged" if said["lora"] else "factors and norms"
    kept = (
        "" if said["best_step"] == said["steps"] else f"; the best was step {said['best_step']:,}"
    )
    lines = [
        f"on {before['tokens']:,} held-back tokens; {what}: {said['trained_params']:,} parameters "
        "changed",
        f"{said['steps']:,} steps of {said['step_tokens']:,} tokens at a rate of {said['rate']:g}"
        f"{kept}; {said['tokens']:,} tokens in all, of a text of {said['text_tokens']:,}; "
        f"{_time(seconds)}",
    ]
    if said["tried"]:
        tried = ", ".join(f"{each['rate']:g}: {_trial(each)}" for each in said["tried"])
        lines.append(f"KL and nats/token behind the trial of each rate: {tried}")
    return Group(Text("healed", style="bold"), table, Text(), *map(sentence, lines))


def _trial(said: dict[str, float | None]) -> str:
    kl, nats = said["kl"], said["nats"]
    return "diverged" if kl is None or nats is None else f"{kl:.4f} and {nats:.4f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
