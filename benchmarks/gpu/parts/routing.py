"""Prompt-aware ranks on a GPU: the fused kernel against plain torch, and what picks cost.

fused    gacfx.routing.kernels.routed_linear: relative error, and its time beside that of gathering
         and two products
picks    two layers of the shapes of Llama-3.2-1B: dense, static, picked, gathered in each call, and
         the whole pool with a mask; the router, and putting a new pick in place
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.parse.random_pools import BLOCK, SHAPES, decision_for, dense_model, routed_model
from gacfx.core.sites import Mode, Workload
from gacfx.hardware.measure.cases.prepared import DTYPES, relative_error
from gacfx.hardware.measure.interleave import Effort
from gacfx.hardware.measure.memory import release
from gacfx.hardware.measure.part import Result, Setting
from gacfx.routing.kernels import routed_linear
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE, time_picks

MODEL = "llama-3.2-1b-2"
TINY = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 256,
}
"""For a rehearsal."""


@dataclass(frozen=True, slots=True)
class Routed:
    """One thing to measure."""

    what: str
    """``fused`` or ``picks``."""
    dtype: str
    tokens: int
    """Of a product, or of a sequence."""
    mode: Mode = "prefill"
    batch: int = 1


class Routing:
    """What picks cost, the kernel first."""

    name = "routing"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._models: dict[str, tuple[Any, Any]] = {}

    def items(self) -> Sequence[Routed]:
        """The kernel for few tokens, then whole models."""
        fused = [Routed("fused", dtype, tokens) for dtype in ("bf16", "fp32") for tokens in (1, 8)]
        picks = [
            Routed("picks", "bf16", tokens, mode, batch)
            for batch in (1, 8)
            for tokens in (128, 2048)
            for mode in _MODES
        ]
        return fused + picks

    def seconds(self, item: Routed) -> float:
        """A guess from above."""
        return 3.0 if item.what == "fused" else 8.0

    def measure(self, item: Routed) -> Result:
        """Microseconds of every way, or those of the kernel and its error."""
        return self._fused(item) if item.what == "fused" else self._picks(item)

    def headline(self, item: Routed, result: Result) -> str | None:
        """How picked ranks compare."""
        if item.what == "fused":
            label = f"fused {item.tokens} tokens {item.dtype}"
            said = f"{result['fused_us']:.1f} us, plain {result['plain_us']:.1f} us"
            return f"{label:44}{said}, error {result['relative_error']:.1e}"
        label = f"picks {item.mode} {item.batch} x {item.tokens} {item.dtype}"
        us, ways = result["us"], ("static", GATHERED, WHOLE)
        said = ", ".join(f"{way} {us[way] / us[AGGREGATED]:.2f} x" for way in ways)
        return f"{label:44}{said}"

    def close(self) -> None:
        """Give the memory back."""
        self._models.clear()
        release(self._setting.timer.device)

    def _fused(self, item: Routed) -> Result:
        """One layer of a square weight, in which the last blocks are picked."""
        side = TINY["hidden_size"] if self._setting.dry else SHAPES[MODEL]["hidden_size"]
        decision = decision_for(side, side)
        device, dtype = self._setting.timer.device, DTYPES[item.dtype]
        x_TN, down_RN, up_RM = (
            (torch.randn(count, side, device=device) / side**0.5).to(dtype)
            for count in (item.tokens, decision.pool, decision.pool)
        )
        first = decision.blocks - decision.picks
        blocks_B = torch.arange(first, decision.blocks, dtype=torch.int32, device=device)
        down_KN, up_KM = (each[first * BLOCK :].double() for each in (down_RN, up_RM))
        want_TM = (x_TN.double() @ down_KN.T) @ up_KM

        def fused() -> Tensor:
            return routed_linear(x_TN, down_RN, up_RM, blocks_B, BLOCK)

        def plain() -> Tensor:
            down, up = (
                each.unflatten(0, (-1, BLOCK)).index_select(0, blocks_B).flatten(0, 1)
                for each in (down_RN, up_RM)
            )
            return linear(linear(x_TN, down), up.T)

        return {
            "relative_error": relative_error(fused().double(), want_TM),
            "plain_error": relative_error(plain().double(), want_TM),
            "fused_us": self._setting.timer.warm(fused).median_us,
            "plain_us": self._setting.timer.warm(plain).median_us,
        }

    def _picks(self, item: Routed) -> Result:
        dense, model = self._of(item.dtype)
        tokens = 16 if self._setting.dry else item.tokens
        effort = Effort(2, 0.2) if self._setting.dry else Effort(24, 4.0)
        work = Workload(batch=item.batch, seq=tokens, mode=item.mode)
        (cell,) = time_picks(model, dense, works=[work], effort=effort)
        return {
            "us": {way: found.median for way, found in cell.us.items()},
            "router_us": cell.router_us.median,
            "install_us": cell.install_us.median,
            "share_of_prompt": cell.share_of_prompt,
        }

    def _of(self, dtype: str) -> tuple[Any, Any]:
        """(dense model, the same with pools) on the device."""
        if dtype not in self._models:
            place: dict[str, Any] = {"device": self._setting.timer.device, "dtype": DTYPES[dtype]}
            dense = dense_model(TINY if self._setting.dry else SHAPES[MODEL]).to(**place)
            self._models[dtype] = dense, routed_model(dense)
        return self._models[dtype]


_MODES: tuple[Mode, ...] = ("prefill", "decode")
