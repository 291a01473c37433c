"""Experts one by one, and as grouped products: how long does a layer of a mixture take on a CPU?

    python -m benchmarks.experts

One layer of experts of Qwen3-MoE, random weights, a fixed random choice of experts. Ways:

    dense, loop       transformers' eager implementation
    dense, grouped    its grouped_mm implementation
    one by one        low rank, as a plan leaves it: a loop over the chosen experts
    grouped           the same numbers after ``gacfx.group_experts_``

All ways take turns in one process on one thread; times are those of the processor, medians of all
rounds, ratios to ``dense, grouped``. A GPU gains more: there a loop pays a launch for each product.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gacfx
from benchmarks import record
from gacfx.core.decision import LowRank
from gacfx.modules.install import skeleton_

EXPERTS, CHOSEN, HIDDEN, INNER = 64, 8, 1024, 384
RANKS = {"fc1": 192, "fc2": 160}
"""Multiples of 32; 61 % of the dense parameters."""
WORKLOADS = {"prefill": 256, "decode": 1}
ROUNDS = 15
DTYPES = (torch.float32, torch.bfloat16)
BASE = "dense, grouped"


@dataclass(frozen=True, slots=True)
class Row:
    """One way at one workload."""

    dtype: str
    workload: str
    tokens: int
    way: str
    milliseconds: float
    of_dense: float
    """Its time as a share of that of transformers' grouped products."""


def model() -> Any:
    """One decoder layer of that kind, with random weights."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        moe_intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
    )
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(config).eval()


def ways(dtype: torch.dtype) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Way -> its module of experts."""
    home = "model.layers.0.mlp.experts"
    found: dict[str, Any] = {}
    for way, name in (("dense, loop", "eager"), (BASE, "grouped_mm")):
        dense = model().to(dtype)
        dense.set_experts_implementation(name)
        found[way] = dense.get_submodule(home)
    small = model()
    ranks = {f"{home}.{n}.{leaf}": LowRank(r) for n in range(EXPERTS) for leaf, r in RANKS.items()}
    skeleton_(small, ranks)
    for parameter in small.parameters():
        nn.init.normal_(parameter, std=0.02)
    small = small.to(dtype)
    found["one by one"] = copy.deepcopy(small).get_submodule(home)
    left = gacfx.group_experts_(small)
    assert not left, left
    found["grouped"] = small.get_submodule(home)
    return found


def rows(dtype: torch.dtype) -> list[Row]:
    """All workloads of one dtype."""
    made, found = ways(dtype), []
    for workload, tokens in WORKLOADS.items():
        x = torch.randn(tokens, HIDDEN).to(dtype)
        chosen = torch.rand(tokens, EXPERTS).topk(CHOSEN).indices
        shares = torch.rand(tokens, CHOSEN).softmax(-1).to(dtype)
        times: dict[str, list[float]] = {way: [] for way in made}
        results = {way: run(x, chosen, shares) for way, run in made.items()}  # warm
        apart = results["grouped"] - results["one by one"]
        assert apart.norm() <= 0.02 * results["grouped"].norm(), "they compute unlike things"
        for _ in range(ROUNDS):
            for way, run in made.items():
                begin = time.process_time()
                run(x, chosen, shares)
                times[way].append(1000 * (time.process_time() - begin))
        base = statistics.median(times[BASE])
        for way, own in times.items():
            ms = statistics.median(own)
            row = Row(
                str(dtype).removeprefix("torch."),
                workload,
                tokens,
                way,
                round(ms, 3),
                round(ms / base, 3),
            )
            print(f"{row.dtype:10}{workload:9}{way:16}{ms:9.2f} ms  {row.of_dense:.2f}", flush=True)
            found.append(row)
    return found


@torch.no_grad()
def main() -> int:
    """Measure and write the results."""
    torch.set_num_threads(1)
    busy = record.others()
    found = [row for dtype in DTYPES for row in rows(dtype)]
    sizes = {"experts": EXPERTS, "chosen": CHOSEN, "hidden": HIDDEN, "inner": INNER, "ranks": RANKS}
    results = {**busy, "sizes": sizes, "rows": [asdict(row) for row in found]}
    print(record.write("experts", results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
