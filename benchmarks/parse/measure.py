"""KL to the dense model on what follows a prompt, which is all that a pick can be judged by."""

# P prompts, T tokens, V vocabulary

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parse.texts import PROMPT
from gacfx.calibration.divergence import divergences
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import picked

BATCH = 8


@dataclass(frozen=True, eq=False)
class Judge:
    """Prompts, and what the dense model says behind them."""

    windows_PT: Tensor
    groups: int
    """Domains, one after the other, of equally many prompts."""
    dense: tuple[Tensor, ...]
    """Log-probabilities of each batch, [batch, T - prompt, V]."""

    @staticmethod
    def of(model: nn.Module, windows_PT: Tensor, groups: int) -> "Judge":
        """The judge by a dense model."""
        parts = windows_PT.split(BATCH)
        return Judge(windows_PT, groups, tuple(behind(model, part) for part in parts))

    def divergences(self, model: nn.Module, pick: Pick | None = None) -> Tensor:
        """KL of each prompt's continuation, nats per token, float64 [P].

        Args:
            model: compressed.
            pick: of all prompts, for a model with pools; None for the static prefix.
        """
        found, start = [], 0
        for dense_PTV, windows_PT in zip(self.dense, self.windows_PT.split(BATCH), strict=True):
            part = None if pick is None else rows(pick, start, start + len(windows_PT))
            with picked(model, part):
                ours_PTV = behind(model, windows_PT)
            found.append(divergences(dense_PTV, ours_PTV).double().mean(1))
            start += len(windows_PT)
        return torch.cat(found)

    def kl(self, model: nn.Module, pick: Pick | None = None) -> list[float]:
        """Mean KL of each domain, then of all."""
        found_P = self.divergences(model, pick)
        means = found_P.view(self.groups, -1).mean(1).tolist()
        return [*means, float(found_P.mean())]


@torch.no_grad()
def behind(model: Any, windows_PT: Tensor) -> Tensor:
    """Log-probabilities of the tokens behind the prompt, float32."""
    logits = model(windows_PT, use_cache=False).logits[:, PROMPT - 1 : -1]
    return torch.log_softmax(logits.float(), -1)


def rows(pick: Pick, start: int, end: int) -> Pick:
    """The pick of some prompts."""
    blocks = {name: found[start:end] for name, found in pick.blocks.items()}
    return Pick(blocks, pick.classes[start:end])


def spread(values: list[float]) -> dict[str, float]:
    """Mean, least and most of the seeds."""
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}


def progress(say: Callable[[str], None], what: str) -> Callable[[str, int, int], None]:
    """A progress callback that says each tenth."""

    def move(stage: str, done: int, total: int) -> None:
        if total and done % max(total // 10, 1) == 0:
            say(f"{what}: {stage} {done} of {total}")

    return move
