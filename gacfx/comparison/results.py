"""What a comparison finds, as plain values."""

import math
from dataclasses import dataclass
from typing import Any

from gacfx.zeroshot.scores import METRICS, Mean, Metric, Scores, average, figures


@dataclass(frozen=True, slots=True)
class TextScores:
    """What one model makes of the text."""

    loss: Mean
    """Nats per predicted token; infinite where the model gives NaN."""
    nats_per_byte: float
    """Of the predicted text in UTF-8: also comparable between tokenizers."""
    tokens: int
    """Tokens that were predicted."""
    windows: int
    change: Mean | None = None
    """Loss less that of the dense model, paired; None for the dense one, or without one."""
    divergence: Mean | None = None
    """KL(dense || this), nats per token."""
    problem: str = ""
    """Why the loss says nothing of the model."""

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        # exp overflows a float above 709.78 nats.
        return math.exp(self.loss.mean) if self.loss.mean < 709 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is infinite is null."""
        return {
            "nats_per_token": _finite(self.loss.mean),
            "stderr": self.loss.stderr,
            "perplexity": _finite(self.perplexity),
            "nats_per_byte": _finite(self.nats_per_byte),
            "tokens": self.tokens,
            "windows": self.windows,
            "change": _mean(self.change),
            "kl": _mean(self.divergence),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the models."""

    name: str
    source: str
    """Folder or name that it was read from."""
    params: int
    """Of the whole model, tied ones once."""
    nbytes: int | None
    """Of its weight files; None where they were not looked for."""
    compressed: bool
    """Its configuration says that it is compressed or quantized."""
    text: TextScores | None = None
    tasks: Scores | None = None
    apart: str = ""
    """Why its loss per token is not comparable with that of the first model; empty where it is."""
    no_kl: str = ""
    """Why it has no KL to the dense model, where it is compared with one."""

    def to_dict(self, dense: "Compared | None") -> dict[str, Any]:
        """Plain JSON values.

        Args:
            dense: what it is compared with, if anything.
        """
        scores = None if self.tasks is None else self.tasks.to_dict()
        if scores is not None and dense is not None and dense is not self:
            scores["change"] = {
                name: figures({metric: self.changes(dense, metric)[place] for metric in METRICS})
                for place, name in enumerate(scores["tasks"])
            }
        return {
            "name": self.name,
            "source": self.source,
            "params": self.params,
            "bytes": self.nbytes,
            "compressed": self.compressed,
            "text": None if self.text is None else self.text.to_dict(),
            "zero_shot": scores,
            "apart": self.apart,
            "no_kl": self.no_kl,
        }

    def changes(self, dense: "Compared", metric: Metric) -> list[Mean]:
        """What it scores more than ``dense`` in each task, item by item; none without tasks."""
        if self.tasks is None or dense.tasks is None:
            return []
        pairs = zip(self.tasks.tasks, dense.tasks.tasks, strict=True)
        return [ours.change(theirs, metric) for ours, theirs in pairs]

    def mean_change(self, dense: "Compared", metric: Metric) -> Mean | None:
        """The mean of these over the tasks; None without tasks."""
        found = self.changes(dense, metric)
        return average(found) if found else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of them, the dense one first where there is one."""

    models: tuple[Compared, ...]
    against: bool
    """The first one is dense, and the others are compared with it."""
    usage: str = ""
    """How much of the text was used, in one line; empty without a text."""
    window: int | None = None
    """Most tokens of a window."""
    stride: int | None = None
    """Tokens from one window to the next."""
    errors_over: str = ""
    """``120 documents``: what standard errors of losses are taken over."""
    harness: str = ""
    data: str | None = None
    """Folder of the items; None: lm-eval's own data sets."""

    @property
    def dense(self) -> Compared | None:
        """What the others are compared with."""
        return self.models[0] if self.against else None

    @property
    def tokenizers_differ(self) -> bool:
        """The texts of some are cut into other tokens, so that losses per token are not alike."""
        return any(model.apart for model in self.models)

    @property
    def problems(self) -> list[str]:
        """Models whose loss says nothing of them, and why."""
        return [
            f"{model.name}: {model.text.problem}"
            for model in self.models
            if model.text is not None and model.text.problem
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        dense = self.dense
        return {
            "against": None if dense is None else dense.name,
            "text": self.usage or None,
            "window": self.window,
            "stride": self.stride,
            "errors_over": self.errors_over or None,
            "harness": self.harness or None,
            "data": self.data,
            "models": [model.to_dict(dense) for model in self.models],
        }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _mean(found: Mean | None) -> dict[str, float | None] | None:
    return None if found is None else {"mean": _finite(found.mean), "stderr": found.stderr}
