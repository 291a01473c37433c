"""The table of a comparison: a row for each model, in two parts where the terminal is narrow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from gacfx.comparison.results import Compared, Comparison
from gacfx.report.layout import Cell, Column, grid, sentence, width_of
from gacfx.report.numbers import count
from gacfx.zeroshot.scores import METRICS, Mean, Metric

NONE = "-"
KL = "KL to it"
NOT_ALIKE = "losses per token are not comparable between tokenizers, nats/byte are"
LONGEST = 24
"""Columns of a name; of longer ones the end is shown, which tells folders apart."""


def comparison_view(found: Comparison) -> RenderableType:
    """The head, sizes and losses, scores, and what is to be said of them."""
    parts: list[RenderableType] = []
    if found.usage:
        parts.append(sentence(found.usage))
    parts.append(sentence(head(found), style="bold"))
    parts.append(_Fitting(names(found), sizes(found), losses(found)))
    if any(model.tasks for model in found.models):
        for metric in METRICS:
            parts += [Text(), Text(f"zero-shot {metric}, {found.harness}", style="bold")]
            parts.append(_Fitting(*scores(found, metric)))
    lines = list(notes(found))
    parts += [Text(), *map(sentence, lines)] if lines else []
    return Group(*parts)


def head(found: Comparison) -> str:
    """``3 models against dense, window 512, stride 256``."""
    models = f"{len(found.models)} models"
    against = f"{models} against {found.dense.name}" if found.dense else models
    if found.window is None or found.stride is None:
        return against
    return f"{against}, window {found.window:,}, stride {found.stride:,}"


def predicted(window: int, stride: int) -> str:
    """Which tokens of a text are predicted, and with how much before them."""
    if stride == window:
        return f"all but the first of each window of {window:,}"
    return (
        f"each with at least {window - stride:,} before it, in the first window of a document with "
        "what there is"
    )


def names(found: Comparison) -> Column:
    """The names of the models."""
    shown = [model.name for model in found.models]
    short = [name if len(name) <= LONGEST else "…" + name[1 - LONGEST :] for name in shown]
    return Column("model", short)


def sizes(found: Comparison) -> list[Column]:
    """Parameters, files, and the loss."""
    models = found.models
    columns = [
        Column("params", [count(model.params) for model in models], right=True),
        Column("weights", [_bytes(model.nbytes) for model in models], right=True),
    ]
    if found.usage:
        losses = [mean_text(model.text.loss) if model.text else NONE for model in models]
        columns.append(Column("nats/token", losses, right=True))
        columns.append(Column("perplexity", [_perplexity(model) for model in models], right=True))
    return columns


def losses(found: Comparison) -> list[Column]:
    """What changed against the dense model, and what is comparable between tokenizers."""
    models, columns = found.models, list[Column]()
    if found.usage and found.dense:
        columns.append(Column("change", [_change(model) for model in models], right=True))
        divergences = [model.text.divergence if model.text else None for model in models]
        cells = [NONE if each is None else mean_text(each) for each in divergences]
        columns.append(Column(KL, cells, right=True))
    if found.usage and found.tokenizers_differ:
        nats = [model.text.nats_per_byte if model.text else inf for model in models]
        columns.append(Column("nats/byte", [_number(each, 4) for each in nats], right=True))
    return columns


def scores(found: Comparison, metric: Metric) -> tuple[Column, list[Column], list[Column]]:
    """(names, a metric of every task, their mean and what changed of it)."""
    models = found.models
    sides = [model.tasks for model in models if model.tasks is not None]
    tasks, means = list[Column](), list[Column]()
    for place, task in enumerate(sides[0].tasks):
        cells = [short(side.tasks[place].of(metric)) for side in sides]
        tasks.append(Column(task.task, cells, right=True))
    if len(sides[0].tasks) > 1:
        means.append(Column("mean", [short(side.mean(metric)) for side in sides], right=True))
    if found.dense is not None:
        changes = [_score_change(model, found.dense, metric) for model in models]
        means.append(Column("change", changes, right=True))
    return names(found), tasks, means


def notes(found: Comparison) -> Iterator[str]:
    """How errors are to be read, and what is not there for which reason."""
    texts = [model.text for model in found.models if model.text is not None]
    if texts:
        if found.window is not None and found.stride is not None:
            yield f"predicted: {texts[0].tokens:,} tokens, {predicted(found.window, found.stride)}"
        yield f"± one standard error, of losses over {found.errors_over}"
        if found.dense:
            yield (
                f"change and {KL}: against {found.dense.name}, in nats per token, token by token "
                "and with errors of their own"
            )
    elif any(model.tasks for model in found.models):
        yield "± one standard error"
    if found.dense is None:
        yield (
            f"{found.models[0].name} is compressed or quantized: name the dense model with "
            "--against to see changes and KL"
        )
    for model in found.models:
        if model.apart:
            yield f"{model.name}: {model.apart}"
        elif model.no_kl:
            yield f"{model.name}: no KL ({model.no_kl})"
    if texts and found.tokenizers_differ:
        yield NOT_ALIKE
    yield from found.problems


@dataclass(frozen=True)
class _Fitting:
    """Columns beside each other, or in two parts one below the other."""

    name: Column
    first: Sequence[Column]
    second: Sequence[Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = [self.name, *self.first, *self.second]
        if not self.second or width_of(whole) <= options.max_width:
            yield grid(whole)
            return
        yield grid([self.name, *self.first])
        yield Text()
        yield grid([self.name, *self.second])


def mean_text(mean: Mean, *, sign: bool = False) -> str:
    """``3.0412 ± 0.0210``."""
    shown = _number(mean.mean, 4, sign=sign)
    return shown if mean.stderr is None else f"{shown} ± {mean.stderr:.4f}"


def short(mean: Mean) -> str:
    """``0.650±0.034``."""
    return f"{mean.mean:.3f}" + ("" if mean.stderr is None else f"±{mean.stderr:.3f}")


def _score_change(model: Compared, dense: Compared, metric: Metric) -> Cell:
    change = None if model is dense else model.mean_change(dense, metric)
    if change is None:
        return NONE
    text = f"{change.mean:+.3f}" + ("" if change.stderr is None else f"±{change.stderr:.3f}")
    return Text(text, style=("green" if change.mean > 0 else "red") if change.clear else "")


def _change(model: Compared) -> Cell:
    change = None if model.text is None else model.text.change
    if change is None:
        return NONE
    style = ("red" if change.mean > 0 else "green") if change.clear else ""
    return Text(mean_text(change, sign=True), style=style)


def _perplexity(model: Compared) -> str:
    return NONE if model.text is None else _number(model.text.perplexity, 3)


def _number(number: float, digits: int, *, sign: bool = False) -> str:
    if not isfinite(number):
        return "inf"
    return f"{number:+.{digits}f}" if sign else f"{number:.{digits}f}"


def _bytes(nbytes: int | None) -> str:
    """``269 MB``, the decimal units of disks."""
    if nbytes is None:
        return NONE
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes} B"
