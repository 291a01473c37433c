"""What structured pruning asks of calibration and of one elimination: CPU seconds and memory.

    python -m benchmarks.pruning_statistics          add --long for the width of Llama-3-8B

Each row is a process of its own, on one thread, because its peak memory counts and other work on
the machine should not. The model has SmolLM2-135M's shape with fewer layers, random weights and
random text; eliminations are of random closing weights.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks import record
from benchmarks.memory import peak_gib

LAYERS, DOCUMENTS, TOKENS, VOCABULARY = 6, 16, 256, 8192
ELIMINATIONS = {"1536": (576, 1536), "4096": (1024, 4096)}
"""Name -> outputs, channels."""
LONG = {"14336": (4096, 14336)}
MOST_TIMES_SLOWER = 2.5
MOST_SECONDS_1536 = 10.0


def gathering(sides: str) -> dict[str, Any]:
    """One calibration run: ``none`` (a pass without statistics), ``short`` or ``both`` sides."""
    import torch
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    from gacfx.calibration.gather import gather
    from gacfx.calibration.text import Corpus

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=VOCABULARY,
        max_position_embeddings=TOKENS,
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config).eval()
    names = [n for n, m in model.model.named_modules(prefix="model") if isinstance(m, nn.Linear)]
    corpus = Corpus(tuple(torch.randint(0, VOCABULARY, (TOKENS,)) for _ in range(DOCUMENTS)))
    chosen = names[:1] if sides == "none" else names
    both = set(names) if sides == "both" else set()
    before, begin = _peak_mb(), time.process_time()
    found = gather(model, corpus, chosen, both_sides=both)
    seconds = time.process_time() - begin
    held = {id(t): t for m in found.moments.values() for t in vars(m).values() if _tensor(t)}
    return {
        "seconds": round(seconds, 2),
        "seconds_per_1000_tokens": round(1000 * seconds / corpus.tokens, 3),
        "moments_mb": round(sum(8 * t.numel() for t in held.values()) / 1e6, 1),
        "peak_rise_mb": round(_peak_mb() - before, 1),
    }


def eliminating(name: str) -> dict[str, Any]:
    """Order, curve and refit of one closing weight."""
    import torch

    from gacfx.compressors.pruning.closing import Closing
    from gacfx.compressors.pruning.elimination import order_units

    rows, columns = {**ELIMINATIONS, **LONG}[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mix = torch.randn(columns, columns).div_(columns**0.5)
    x_TN = torch.randn(2048, columns) @ mix
    input_NN = (x_TN.T @ x_TN).div_(len(x_TN)).double()
    del mix, x_TN
    input_NN.diagonal().add_(1e-4)
    g_TM = torch.randn(2 * rows, rows)
    grad_MM = (g_TM.T @ g_TM / len(g_TM)).double()
    closing = Closing("random", torch.randn(rows, columns).double(), input_NN, grad_MM)
    columns_UC = torch.arange(columns)[:, None]
    before, begin = _peak_mb(), time.process_time()
    order = order_units(closing, columns_UC)
    ordered = time.process_time()
    curve = closing.width_curve(columns_UC[order])
    done = time.process_time()
    half = float(curve[columns // 2] / curve[0])
    return {
        "order_seconds": round(ordered - begin, 2),
        "curve_seconds": round(done - ordered, 2),
        "loss_at_half_width": round(half, 5),
        "moment_mb": round(8 * input_NN.numel() / 1e6, 1),
        "peak_rise_mb": round(_peak_mb() - before, 1),
    }


def _tensor(value: object) -> bool:
    return hasattr(value, "numel")


def _peak_mb() -> float:
    return 1024 * peak_gib()


def row(kind: str, name: str) -> dict[str, Any]:
    """Of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pruning_statistics", "--of", kind, name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind:12} {name:14}", "  ".join(f"{k} {v:,}" for k, v in found.items()), flush=True)
    return found


def main() -> int:
    """0 when all goals are reached, else 1."""
    parser = argparse.ArgumentParser(description="Statistics and eliminations of pruning.")
    parser.add_argument("--of", nargs=2, metavar=("KIND", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--long", action="store_true", help="14336 channels too: minutes, 10 GB")
    asked = parser.parse_args()
    if asked.of:
        kind, name = asked.of
        print(json.dumps(gathering(name) if kind == "gather" else eliminating(name)))
        return 0
    gathers = {sides: row("gather", sides) for sides in ("none", "short", "both")}
    chosen = {**ELIMINATIONS, **LONG} if asked.long else ELIMINATIONS
    orders = {name: row("elimination", name) for name in chosen}
    slower = gathers["both"]["seconds"] / gathers["short"]["seconds"]
    goals = {
        f"both sides: at most {MOST_TIMES_SLOWER:g} times the seconds of the short side": (
            slower <= MOST_TIMES_SLOWER
        ),
        f"1536 channels: ordered in {MOST_SECONDS_1536:g} s": (
            orders["1536"]["order_seconds"] <= MOST_SECONDS_1536
        ),
    }
    for goal, reached in goals.items():
        print(f"{'reached' if reached else 'MISSED ':7}  {goal}")
    model = {
        "layers": LAYERS,
        "hidden": 576,
        "width": 1536,
        "documents": DOCUMENTS,
        "tokens_each": TOKENS,
    }
    results = {"model": model, "gather": gathers, "elimination": orders, "goals": goals}
    print(record.write("pruning_statistics", results))
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
