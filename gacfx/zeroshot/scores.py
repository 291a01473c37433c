"""Scores: means over items with their standard errors, and what compression changed of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, hypot, isnan, sqrt
from typing import Any, Literal

from gacfx.errors import TaskError

Metric = Literal["acc", "acc_norm"]
METRICS: tuple[Metric, ...] = ("acc", "acc_norm")
"""The answer with the highest log-likelihood, and that of the highest for each character."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and how sure it is."""

    mean: float
    stderr: float | None
    """Standard error of the mean; None where it is of one item."""

    @property
    def clear(self) -> bool:
        """It is further from 0 than twice its standard error."""
        return self.stderr is not None and abs(self.mean) > 2 * self.stderr


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of at least one value; its error is the sample's deviation over sqrt(n)."""
    count = len(values)
    mean = fsum(values) / count
    if count < 2:
        return Mean(mean, None)
    squares = fsum((value - mean) ** 2 for value in values)
    return Mean(mean, sqrt(squares / (count - 1) / count))


def average(means: Sequence[Mean]) -> Mean:
    """The plain mean of the means of several tasks, whose errors are independent."""
    errors = [mean.stderr for mean in means if mean.stderr is not None]
    stderr = hypot(*errors) / len(means) if len(errors) == len(means) else None
    return Mean(fsum(mean.mean for mean in means) / len(means), stderr)


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What one model scores on one task."""

    task: str
    given: int
    """Items that the task has; as many or fewer are scored."""
    chance: float
    """What guessing scores: the mean of one over the number of answers."""
    right: Mapping[Metric, tuple[bool, ...]]
    """For each item that is scored, whether the model is right."""
    cut: int = 0
    """Items longer than the model's positions, which lost their beginning."""

    @property
    def items(self) -> int:
        """How many are scored."""
        return len(self.right["acc"])

    @property
    def acc(self) -> Mean:
        """Share of items whose right answer has the highest log-likelihood, 0..1."""
        return self.of("acc")

    @property
    def acc_norm(self) -> Mean:
        """The same of log-likelihoods over the characters of each answer, 0..1."""
        return self.of("acc_norm")

    def of(self, metric: Metric) -> Mean:
        """The mean of a metric."""
        return mean_of([float(right) for right in self.right[metric]])

    def change(self, dense: "TaskScores", metric: Metric) -> Mean:
        """This model's mean less the dense one's, item by item: both are asked the same."""
        pairs = zip(self.right[metric], dense.right[metric], strict=True)
        return mean_of([float(ours) - float(theirs) for ours, theirs in pairs])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        counts = {"items": self.items, "given": self.given, "chance": self.chance, "cut": self.cut}
        return {**counts, **figures({metric: self.of(metric) for metric in METRICS})}


def task_scores(
    task: str, samples: Sequence[Mapping[str, Any]], given: int, cut: int = 0
) -> TaskScores:
    """The scores from lm-eval's samples: one table for each item.

    Args:
        task: its name.
        samples: each with ``doc_id``, ``acc``, ``acc_norm`` and ``filtered_resps``, which has one
            (log-likelihood in nats, ...) for each answer.
        given: items that the task has.
        cut: items that lost their beginning.

    Raises:
        TaskError: a log-likelihood is NaN.
    """
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    for sample in samples:
        if any(isnan(float(nats)) for nats, *_ in sample["filtered_resps"]):
            raise TaskError(
                f"{task}: the model's logits are NaN or infinite on item {sample['doc_id'] + 1}; "
                "run it in bfloat16 or float32, and check its configuration"
            )
    chance = fsum(1 / len(sample["filtered_resps"]) for sample in samples) / len(samples)
    right = {metric: tuple(bool(float(sample[metric])) for sample in samples) for metric in METRICS}
    return TaskScores(task, given, chance, right, cut)


@dataclass(frozen=True, slots=True)
class Scores:
    """What one model scores."""

    name: str
    tasks: tuple[TaskScores, ...]

    def mean(self, metric: Metric) -> Mean:
        """The plain mean over the tasks."""
        return average([task.of(metric) for task in self.tasks])

    @property
    def chance(self) -> float:
        """What guessing scores, the plain mean over the tasks."""
        return fsum(task.chance for task in self.tasks) / len(self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "tasks": {task.task: task.to_dict() for task in self.tasks},
            "mean": figures({metric: self.mean(metric) for metric in METRICS}),
        }


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """The scores of a model and, where it is compared, of the dense one."""

    model: Scores
    dense: Scores | None = None
    data: str | None = None
    """Folder of the items; None: lm-eval's own data sets."""
    harness: str = ""
    """What scored: ``lm-eval 0.4.13``."""

    def change(self, metric: Metric) -> tuple[Mean, ...]:
        """What compression changed of each task; empty without a dense model."""
        if self.dense is None:
            return ()
        pairs = zip(self.model.tasks, self.dense.tasks, strict=True)
        return tuple(ours.change(theirs, metric) for ours, theirs in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "harness": self.harness,
            "data": self.data,
            "model": self.model.to_dict(),
            "dense": None if self.dense is None else self.dense.to_dict(),
            "change": None if self.dense is None else self._changes(),
        }

    def _changes(self) -> dict[str, Any]:
        changes = {metric: self.change(metric) for metric in METRICS}
        tasks = {
            task.task: figures({metric: means[place] for metric, means in changes.items()})
            for place, task in enumerate(self.model.tasks)
        }
        whole = figures({metric: average(means) for metric, means in changes.items()})
        return {"tasks": tasks, "mean": whole}


def figures(means: Mapping[Metric, Mean]) -> dict[str, float | None]:
    """``acc``, ``acc_stderr`` and so on."""
    named = ((name, mean.mean, mean.stderr) for name, mean in means.items())
    return {
        key: value
        for name, mean, stderr in named
        for key, value in ((name, mean), (f"{name}_stderr", stderr))
    }
