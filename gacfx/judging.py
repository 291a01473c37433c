"""Losses of plans on held-back text, which is read to its end only for plans that may be the best.

Plans are compared token by token on a sample first. One that loses there to the best so far by more
than chance explains is out of the race (racing of models: Maron and Moore 1994).
"""

from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING

from torch import Tensor

from gacfx.calibration.evaluate import mean_loss
from gacfx.calibration.text import SAMPLE_TOKENS, Corpus
from gacfx.core.planned import Planned
from gacfx.core.settings import file_name
from gacfx.trials import SAME_NATS
from gacfx.work import plan_digest

if TYPE_CHECKING:
    from gacfx.study import Study

SURE = 3.0
"""Standard errors of a paired difference beyond which it is no chance. Losses of neighbouring
tokens go together a little, so that they are not quite three of a normal distribution."""


@dataclass(frozen=True)
class Judged:
    """A plan and its loss."""

    nats_per_token: float
    """Of all held-back text; infinite where the model gave no numbers, or where the plan is out."""
    sample: Tensor
    """Loss of each token of the sample, float32, nats."""
    out: bool = False
    """It lost on the sample, and the rest was not read."""


@dataclass(eq=False)
class Judge:
    """Reads held-back text with one plan after the other."""

    study: "Study"
    sample: Corpus = field(init=False)
    rest: Corpus | None = field(init=False)
    best: Judged | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.sample, self.rest = self.study.held_back.divided(SAMPLE_TOKENS)

    def judge(self, made: Planned) -> Judged:
        """The loss of a plan of the other text."""
        seen = self._losses(made, "sample", self.sample)
        best, rest, out = self.best, self.rest, False
        if best is not None and rest is not None and isfinite(best.nats_per_token):
            out = clearly_worse(seen, best.sample)
        if out:
            nats = inf
        else:
            nats = mean_loss([seen, *([self._losses(made, "rest", rest)] if rest else [])])
        found = Judged(nats, seen, out)
        if best is None or nats < best.nats_per_token:
            self.best = found
        return found

    def _losses(self, made: Planned, name: str, text: Corpus) -> Tensor:
        """Loss of each token, read once."""
        store = self.study.fit.store
        where = f"loss.{file_name(self.study.method)}.{plan_digest(made.plan)}.{name}"
        if store is not None and where in store:
            return store.get(where, "nats")
        found = self.study.token_losses(made, text)
        if store is not None and isfinite(mean_loss([found])):
            store.put(where, {"nats": found})
        return found


def clearly_worse(losses: Tensor, best: Tensor) -> bool:
    """Whether one plan loses to another on the same tokens by more than chance, and by more than
    what says nothing.

    Args:
        losses: of each token, nats.
        best: those of the other plan.
    """
    if not (isfinite(mean_loss([losses])) and isfinite(mean_loss([best]))):
        return isfinite(mean_loss([best]))
    difference = losses.double() - best.double()
    error = float(difference.std(correction=0)) / sqrt(len(difference))
    return float(difference.mean()) > SAME_NATS + SURE * error
