"""How many steps fit into tokens and minutes, what each of them reads, and how rates move."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from gacfx.errors import HealingError
from gacfx.healing.settings import EVALUATIONS, MOST_TRIALS, PROBE_SHARE, Healing

MOST_JUDGED, LEAST_JUDGED = 16_384, 4096
"""Held-back tokens on which a state is judged, at most; and those that a short training gets, where
there are so many."""
JUDGED_TOKENS_SHARE = 2 / 3
"""Held-back tokens of all judgements, as a share of those that are trained on: a third of the work,
as a forward of both models is half of what a token of a training costs."""
JUDGED_SHARE = 0.25
"""Of the time, what judging may take; fewer held-back tokens are read where it would take more."""
USED_SHARE = 0.9
"""Of the time, what is planned for: a machine has other things to do now and then."""
WARM_UP_SHARE = 0.05
"""Of the steps, those in which the rate rises to its full height."""
LEAST_STEPS = EVALUATIONS
"""Of a training: fewer cannot be judged so often."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What this machine takes for the parts of a healing, seconds."""

    step_s: float
    """A step of :attr:`Healing.step_tokens` tokens."""
    judged_token_s: float
    """A held-back token, read by both models."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is done, fixed at the beginning, so that a run that goes on does the same."""

    steps: int
    """Of the training."""
    probe_steps: int
    """Of the trial of each learning rate; 0 where nothing is tried."""
    judged_tokens: int
    """Held-back tokens that each judgement reads, about."""

    def judged_after(self, step: int) -> bool:
        """Whether the training is judged once so many steps are done."""
        marks = (math.ceil(self.steps * (at + 1) / EVALUATIONS) for at in range(EVALUATIONS))
        return step in marks


def plan_schedule(settings: Healing, speed: Speed, held_tokens: int) -> Schedule:
    """As many steps as tokens and minutes allow.

    Args:
        settings: what is asked for.
        speed: of this machine.
        held_tokens: of all held-back text.

    Raises:
        HealingError: too few steps would be done; says what to raise.
    """
    seconds = 60 * settings.minutes * USED_SHARE
    probes = settings.trials
    judgements = 1 + probes + EVALUATIONS
    # By tokens and not by seconds where that is possible: equal runs then do equal things.
    fair = int(JUDGED_TOKENS_SHARE * settings.most_tokens / judgements)
    judged = min(
        held_tokens,
        MOST_JUDGED,
        max(LEAST_JUDGED, fair),
        int(JUDGED_SHARE * seconds / (judgements * max(speed.judged_token_s, 1e-12))),
    )
    left = seconds - judgements * judged * speed.judged_token_s
    by_time = int(left / max(speed.step_s, 1e-12))
    by_tokens = settings.most_tokens // settings.step_tokens
    share = 1 + probes * PROBE_SHARE
    steps = int(min(by_time, by_tokens) / share)
    if steps < LEAST_STEPS or judged < 1:
        _refuse(settings, by_time < by_tokens or judged < 1, steps, share, speed)
    return Schedule(steps, int(steps * PROBE_SHARE) if probes else 0, judged)


def _refuse(settings: Healing, by_time: bool, steps: int, share: float, speed: Speed) -> None:
    if by_time:
        needed = LEAST_STEPS * share * speed.step_s / (1 - JUDGED_SHARE) / USED_SHARE / 60
        raise HealingError(
            f"minutes {settings.minutes:g}: {steps} steps of {settings.step_tokens} tokens fit "
            f"into it on this machine, at least {LEAST_STEPS} are needed; allow about "
            f"{needed:.2g} minutes (--minutes) or take a smaller window (--window)"
        )
    needed = math.ceil(LEAST_STEPS * share) * settings.step_tokens
    raise HealingError(
        f"tokens {settings.tokens}: that makes {steps} steps of {settings.step_tokens} tokens, at "
        f"least {LEAST_STEPS} are needed; allow {needed:,} (--tokens), or take a smaller window"
    )


def searched(count: int, score_of: Callable[[int], float], unhealed: float) -> dict[int, float]:
    """Place of a learning rate -> score of its trial, of those that were tried.

    From the middle one upwards if its trial made the model better, else downwards, as long as that
    gets better; downwards also where the first step upwards did not.

    Args:
        count: of the rates, which rise.
        score_of: makes the trial of one; the least is the best.
        unhealed: score of the model as it came.
    """
    middle = count // 2
    known = {middle: score_of(middle)}
    for way in (1, -1) if known[middle] < unhealed else (-1,):
        at = middle
        while 0 <= at + way < count and len(known) < MOST_TRIALS:
            known[at + way] = score_of(at + way)
            if not known[at + way] < known[at] and not (way < 0 and known[at + way] == inf):
                break  # a rate that diverges says that smaller ones are worth a trial
            at += way
        if at != middle:
            break
    return known


def rate_share(step: int, steps: int) -> float:
    """Share of the learning rate that a step has: a linear rise, then a cosine down to 0.

    Args:
        step: from 0.
        steps: in all.
    """
    rise = max(round(WARM_UP_SHARE * steps), 1)
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise + 1) / (steps - rise + 1))) / 2


def steps_of(
    windows: Sequence[Tensor], step_tokens: int, seed: int, count: int
) -> list[tuple[int, ...]]:
    """Places of the windows that each step reads: the text again and again, mixed anew each time.

    Args:
        windows: token ids [T] each.
        step_tokens: most tokens of a step; a longer window is a step by itself.
        seed: of the order.
        count: of the steps.
    """
    found: list[tuple[int, ...]] = []
    now: list[int] = []
    tokens, turn = 0, 0
    while len(found) < count:
        for place in _mixed(len(windows), seed, turn):
            length = len(windows[place])
            if now and tokens + length > step_tokens:
                found.append(tuple(now))
                now, tokens = [], 0
            now.append(place)
            tokens += length
        turn += 1
    return found[:count]


def _mixed(count: int, seed: int, turn: int) -> list[int]:
    mixed = hashlib.sha256(f"{seed} {turn}".encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(mixed[:7], "little"))
    return torch.randperm(count, generator=random).tolist()
