"""One training from step to step: AdamW on the learning parameters, and a state to go on from."""

# T tokens of one window

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Reads
from gacfx.healing.divergence import learn_from
from gacfx.healing.schedule import rate_share, steps_of
from gacfx.healing.settings import Healing
from gacfx.healing.trainable import Learner

BETAS = (0.9, 0.95)
CLIP = 1.0
"""Largest norm of all slopes of a step together."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""
LEAST_SCALE = 1e-3
"""Of a parameter, for its rate: one that is 0 learns as well."""


class Training:
    """A training between two steps."""

    def __init__(
        self,
        learner: Learner,
        dense: nn.Module,
        windows: Sequence[Tensor],
        reads: Reads,
        settings: Healing,
        rate: float,
        steps: int,
    ) -> None:
        """Begin; the learner is as it was at its own beginning.

        Args:
            learner: whose parameters move.
            dense: what is right.
            windows: of the text to learn from, token ids [T] each.
            reads: which of them are read together.
            settings: seed and tokens of a step.
            rate: learning rate, as a share of the root mean square of each parameter.
            steps: in all.
        """
        learner.restart()
        self.learner, self.dense, self.windows, self.reads = learner, dense, windows, reads
        self.steps = steps
        self.order = steps_of(windows, settings.step_tokens, settings.seed, steps)
        self.rates = {n: rate * max(learner.scale(n), LEAST_SCALE) for n in learner.parameters}
        groups = [{"params": [p], "lr": 0.0} for p in learner.parameters.values()]
        self.optimiser = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0)
        self.losses: list[float] = []

    @property
    def done(self) -> int:
        """Steps that were done."""
        return len(self.losses)

    @property
    def diverged(self) -> bool:
        """The loss of the last step is no number."""
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.done >= self.steps or self.diverged

    def step(self) -> None:
        """One batch; nothing moves where its loss is no number."""
        for parameter in self.learner.parameters.values():
            parameter.grad = None
        seen = [self.windows[place] for place in self.order[self.done]]
        loss = learn_from(self.dense, self.learner.model, seen, self.reads)
        if math.isfinite(loss):
            nn.utils.clip_grad_norm_(self.learner.parameters.values(), CLIP)
            share = rate_share(self.done, self.steps)
            for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
                group["lr"] = rate * share
            self.optimiser.step()
        self.losses.append(loss)

    def state(self) -> dict[str, Tensor]:
        """All that later steps depend on; no copies."""
        found = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, parameter in self.learner.parameters.items():
            found[f"parameter.{name}"] = parameter.detach()
            # An expert that no token has met yet has none of these.
            moments = self.optimiser.state.get(parameter, {})
            found |= {f"{part}.{name}": each for part, each in moments.items()}
        return found

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.losses = state["losses"].tolist()
        for name, parameter in self.learner.parameters.items():
            parameter.copy_(state[f"parameter.{name}"])
            held = {part: state.get(f"{part}.{name}") for part in MOMENTS}
            if held["step"] is not None:
                self.optimiser.state[parameter] = {
                    part: each.clone() for part, each in held.items() if each is not None
                }
