"""What picks cost on this machine: prefill and decode of dense, static, and three ways to route.

    python -m benchmarks.parse.cost [--threads 1] [--models smollm2-6 llama-3.2-1b-2] [--out FILE]
    python -m benchmarks.parse.cost --device cuda --dtype bfloat16 --seqs 128 2048

Models have the shapes of the real ones, fewer layers, and random weights, which time does not see:
40 % of the targeted weights do not run, half of each rank is shared, and five kinds of text have
own ranks. Ratios are of medians of one run, in turn; other programs on the machine show in
``busy``.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import record
from gacfx.core.decision import break_even
from gacfx.core.materialise import Factors
from gacfx.core.routed import Routed
from gacfx.core.sites import Mode, Workload
from gacfx.hardware.measure.interleave import Effort
from gacfx.modules.install import install_
from gacfx.modules.prompt_router import PromptRouter
from gacfx.modules.routing_hooks import attach_, pools
from gacfx.routing.bases import pool_of
from gacfx.routing.classes import class_router, own_patterns
from gacfx.routing.prompts import Prompts
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE, Cell, time_picks

KINDS, BLOCK, RUNS = 5, 32, 0.6
SHAPES: dict[str, dict[str, int]] = {
    "smollm2-6": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 6,
        "vocab_size": 4096,
    },
    "llama-3.2-1b-2": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 2,
        "vocab_size": 4096,
    },
}
"""Sizes of the real layers; fewer of them, and a small vocabulary, so that layers are what is
measured."""


def dense_model(name: str) -> Any:
    """A random model of these shapes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {**SHAPES[name], "max_position_embeddings": 2048}
    config = LlamaConfig(**sizes, tie_word_embeddings=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def routed_model(dense: nn.Module) -> nn.Module:
    """A copy whose linears are pools of random numbers, with a router of as many kinds."""
    model, factors = copy.deepcopy(dense), dict[str, Factors]()
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and name != "lm_head":
            rows, columns = layer.weight.shape
            decision = decision_for(rows, columns)
            made = {
                each: torch.randn(stored.shape) / stored.shape[1] ** 0.5
                for each, stored in decision.tensors(rows, columns).items()
            }
            factors[name] = Factors(decision, rows, columns, made)
    install_(model, factors)
    attach_(model, random_router(model))
    return model.requires_grad_(False)


def decision_for(rows: int, columns: int) -> Routed:
    """A pool of which the share that runs has the parameters of 60 % of the weight."""
    rank = int(RUNS * break_even(rows, columns)) // BLOCK * BLOCK
    return pool_of(rank, rank // 2 // BLOCK * BLOCK, BLOCK, KINDS)


def random_router(model: Any) -> PromptRouter:
    """A router that has seen random prompts."""
    features = model.get_input_embeddings().weight.shape[1]
    prompts = Prompts({128: tuple(torch.randn(24, features) + at for at in range(KINDS))})
    routed = {name: layer.decision for name, layer in pools(model).items()}
    return class_router(prompts, routed, own_patterns(routed, KINDS))


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
        dense = dense_model(name).to(**place)
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
