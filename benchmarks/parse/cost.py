"""What picks cost on this machine: prefill and decode of dense, static, and three ways to route.

    python -m benchmarks.parse.cost [--threads 1] [--models smollm2-6 llama-3.2-1b-2] [--out FILE]
    python -m benchmarks.parse.cost --device cuda --dtype bfloat16 --seqs 128 2048

Models have the shapes of the real ones, fewer layers, and random weights, which time does not see:
40 % of the targeted weights do not run, half of each rank is shared, and five kinds of text have
own ranks. Ratios are of medians of one run, in turn; other programs on the machine show in
``busy``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.parse.random_pools import SHAPES, dense_model, routed_model
from gacfx.core.sites import Mode, Workload
from gacfx.hardware.measure.interleave import Effort
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE, Cell, time_picks


def line(name: str, cell: Cell) -> dict[str, Any]:
    """A cell with its ratios."""
    ways = [way for way in cell.us if way != AGGREGATED]
    return {
        "model": name,
        **cell.to_dict(),
        "speedup_over": {way: cell.ratio(AGGREGATED, way) for way in ways},
        "router_share": cell.router_us.median / cell.us[AGGREGATED].median,
        "router_and_new_pick_share": cell.share_of_prompt,
    }


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description="Prefill and decode of routed ranks.")
    parser.add_argument("--models", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--seqs", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    others = record.others()
    torch.set_num_threads(asked.threads)
    modes: tuple[Mode, ...] = ("prefill", "decode")
    works = [
        Workload(batch=batch, seq=seq, mode=mode)
        for batch in asked.batches
        for seq in asked.seqs
        for mode in modes
    ]
    lines = []
    for name in asked.models:
        place: dict[str, Any] = {"device": asked.device, "dtype": getattr(torch, asked.dtype)}
        dense = dense_model(SHAPES[name]).to(**place)
        model = routed_model(dense)
        for cell in time_picks(model, dense, works=works, effort=Effort(24, asked.seconds)):
            lines.append(line(name, cell))
            said = ", ".join(f"{way} {us.median / 1e3:.2f}" for way, us in cell.us.items())
            router, new = cell.router_us.median / 1e3, cell.install_us.median / 1e3
            print(
                f"{name} {cell.mode} {cell.seq}: {said} ms; router {router:.2f}, new pick "
                f"{new:.2f} ms; picked is {cell.ratio(AGGREGATED, GATHERED):.2f} x gathering, "
                f"{cell.ratio(AGGREGATED, WHOLE):.2f} x whole pool",
                flush=True,
            )
    where = {"threads": asked.threads, "device": asked.device, "dtype": asked.dtype}
    results = {**where, **others, "cells": lines}
    print(record.write("parse_cost", results, asked.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
