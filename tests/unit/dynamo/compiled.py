"""Plans of every kind for the tiny Llama, and the model with one of them compiled into it."""

from functools import cache
from typing import Any

import torch

import gacfx
from gacfx.calibration.text import Corpus
from gacfx.core.planned import Planned
from gacfx.core.search import Bound, Search
from tests import tiny

STAYS = (Bound("*.mlp", 8), Bound("*.self_attn", 1))
SEARCHES = {
    "low-rank": Search(value="two-sided", form="pair"),
    "pivot": Search(value="two-sided"),
    "heads and widths": Search(value="two-sided", prune="only", bounds=STAYS),
    "skip": Search(value="two-sided", prune="only"),
    "all at once": Search(value="two-sided", prune="both", bounds=STAYS),
}
"""A random model loses nothing without its blocks: without bounds they all go."""


def corpus() -> Corpus:
    generator = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, 250, (40,), generator=generator) for _ in range(6)))


@cache
def planned(kind: str = "pivot", dtype: torch.dtype = torch.float32) -> Planned:
    model = tiny.llama().to(dtype)
    return gacfx.plan(model, calibration=corpus(), ratio=0.4, search=SEARCHES[kind])


def ids(batch: int = 2, seq: int = 11) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch * seq)
    return torch.randint(3, 250, (batch, seq), generator=generator)


def compiled(model: Any, plan: Any = None, inner: Any = "eager", **more: Any) -> Any:
    """A call without cache that gives logits."""
    made = through(model, plan=plan, inner=inner, **more)
    return lambda tokens: made(tokens, use_cache=False).logits


def through(called: Any, *, dynamic: bool | None = None, **options: Any) -> Any:
    """A module or function, compiled by the backend."""
    asked: dict[str, Any] = {"inner": "eager", **options}
    return torch.compile(called, backend="gacfx", dynamic=dynamic, options=asked)
