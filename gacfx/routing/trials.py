"""Which of several plans to take: the loss behind held-back prompts decides, with the router at
work, so that what is promised by curves alone is never taken where it does not hold."""

# P prompts, T tokens

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.text import Corpus
from gacfx.core.planned import Planned
from gacfx.errors import CalibrationError
from gacfx.modules.install import swapped
from gacfx.modules.prompt_router import PromptRouter
from gacfx.modules.routing_hooks import attach_, detach_, pick_for, picked, router_of

MOST = 48
"""Prompts of each kind of text that plans are judged on."""
BATCH = 8
BEHIND = 2
"""Tokens behind a prompt, at least."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan with factors, and the router that picks among them."""

    name: str
    planned: Planned
    router: PromptRouter | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate, and what it costs on held-back text."""

    name: str
    nats_per_token: float
    """Behind the prompts, mean of the kinds of text."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The candidate that was taken, as it is to be served, and the trials of all."""

    candidate: Candidate
    trials: tuple[Trial, ...]
    """Least loss first."""


def judged(
    model: nn.Module,
    candidates: Iterable[Candidate],
    held: Mapping[str, Corpus],
    prompt_tokens: int,
    count: Callable[[float], None] = lambda _: None,
) -> tuple[Trial, ...]:
    """The loss of each candidate behind held-back prompts, least first.

    Args:
        model: dense, and left as it was.
        candidates: one at a time, none of them made of the held-back text.
        held: kind of text -> held-back windows; those with two tokens behind a prompt count.
        prompt_tokens: of each window, by which the router picks.
        count: called with 1 behind each candidate.

    Raises:
        CalibrationError: no window of a kind has two tokens behind a prompt.
    """
    check_long(held, prompt_tokens)
    texts = [_windows(corpus, prompt_tokens) for corpus in held.values()]
    found = []
    for each in candidates:
        with swapped(model, each.planned.factors):
            if each.router is not None:
                attach_(model, each.router)
            try:
                losses = [_loss(model, windows, prompt_tokens) for windows in texts]
            finally:
                detach_(model)
        found.append(Trial(each.name, sum(losses) / len(losses)))
        count(1)
    return tuple(sorted(found, key=lambda trial: trial.nats_per_token))


def check_long(held: Mapping[str, Corpus], prompt_tokens: int, part: str = "is held back") -> None:
    """Nothing when plans can be judged on each kind of text.

    Args:
        held: kind -> held-back windows.
        prompt_tokens: of each window, by which the router picks.
        part: what the windows are for, in the message.

    Raises:
        CalibrationError: names the kind of which no window has two tokens behind a prompt.
    """
    for name, corpus in held.items():
        longest = max(len(ids_T) for ids_T in corpus.documents)
        if longest < prompt_tokens + BEHIND:
            raise CalibrationError(
                f"{name}: plans are judged behind the {prompt_tokens} tokens of a prompt, and the "
                f"longest window that {part} for it has {longest}; give longer texts, or shorter "
                "prompts (--prompt-tokens)"
            )


def _windows(corpus: Corpus, prompt_tokens: int) -> list[Tensor]:
    """As much text behind each prompt as it has itself."""
    long = [ids_T for ids_T in corpus.documents if len(ids_T) >= prompt_tokens + BEHIND]
    return [ids_T[: 2 * prompt_tokens] for ids_T in long[:MOST]]


@torch.no_grad()
def _loss(model: Any, windows: Sequence[Tensor], prompt_tokens: int) -> float:
    """Nats per token behind the prompts of one kind of text."""
    nats, tokens = 0.0, 0
    by_length: dict[int, list[Tensor]] = {}
    for ids_T in windows:
        by_length.setdefault(len(ids_T), []).append(ids_T)
    for same in by_length.values():
        for ids_PT in torch.stack(same).split(BATCH):
            with _picking(model, ids_PT[:, :prompt_tokens]):
                logits_PTV = model(ids_PT, use_cache=False).logits[:, prompt_tokens - 1 : -1]
            next_PT = ids_PT[:, prompt_tokens:].to(logits_PTV.device)
            nats += float(
                nn.functional.cross_entropy(
                    logits_PTV.float().flatten(0, 1), next_PT.flatten(), reduction="sum"
                )
            )
            tokens += next_PT.numel()
    return nats / tokens


def _picking(model: nn.Module, ids_PT: Tensor) -> AbstractContextManager[None]:
    pick = None if router_of(model) is None else pick_for(model, ids_PT)
    return picked(model, pick)
