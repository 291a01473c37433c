"""The table of zero-shot scores, for 80 columns: a row for each task, three where compared."""

from collections.abc import Iterator
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gacfx.report.layout import sentence
from gacfx.zeroshot.scores import METRICS, Mean, Metric, Scores, TaskScores, ZeroShot, average

ERROR = "± one standard error"
CUT = "items are longer than the model's positions and lost their beginning"
CHANGE = "; changes are taken item by item, with errors of their own"


def zeroshot_view(found: ZeroShot) -> RenderableType:
    """The head, the scores, and what is to be said of them."""
    head = Text(f"{names(found)}, zero-shot, {found.harness}", style="bold")
    lines = map(sentence, notes(found))
    return Group(head, scores_table(found), Text(), *lines)


def names(found: ZeroShot) -> str:
    """``small``, or ``small against dense``."""
    return f"{found.model.name} against {found.dense.name}" if found.dense else found.model.name


def scores_table(found: ZeroShot) -> Table:
    """A row for each task, or three: the dense model's, this one's, and the change."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    compared = found.dense is not None
    for name in (
        "task",
        ">items",
        ">chance",
        *(["model"] if compared else []),
        ">acc",
        ">acc_norm",
    ):
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=justify, no_wrap=True)
    for row in rows(found):
        table.add_row(*row)
    return table


def rows(found: ZeroShot) -> Iterator[tuple[str | Text, ...]]:
    """The rows of all tasks, and of their mean where there are several."""
    for place, task in enumerate(found.model.tasks):
        first = (task.task, items(task), f"{task.chance:.3f}")
        yield from _block(found, first, place)
    if len(found.model.tasks) > 1:
        yield from _block(found, ("mean", "", f"{found.model.chance:.3f}"), None)


def items(task: TaskScores) -> str:
    """``1,838``, or ``100 of 1,838``."""
    return f"{task.items:,}" + (f" of {task.given:,}" if task.items < task.given else "")


def mean_text(mean: Mean, *, sign: bool = False) -> str:
    """``0.684 ± 0.011``."""
    shown = f"{mean.mean:+.3f}" if sign else f"{mean.mean:.3f}"
    return f"{shown} ± {mean.stderr:.3f}" if mean.stderr is not None else f"{shown} ±     -"


def notes(found: ZeroShot) -> Iterator[str]:
    """How errors are to be read, and which items were cut."""
    yield ERROR + (CHANGE if found.dense else "")
    tasks = [task for side in filter(None, (found.dense, found.model)) for task in side.tasks]
    cuts = [f"{task.task}: {task.cut:,} {CUT}" for task in tasks if task.cut]
    yield from dict.fromkeys(cuts)


def _block(
    found: ZeroShot, first: tuple[str, str, str], place: int | None
) -> Iterator[tuple[str | Text, ...]]:
    """The rows of one task, or of the mean of all where ``place`` is None."""
    if found.dense is None:
        yield *first, *_figures(found.model, place)
        return
    yield *first, "dense", *_figures(found.dense, place)
    yield "", "", "", "this", *_figures(found.model, place)
    yield "", "", "", "change", *(_change(found, metric, place) for metric in METRICS)


def _figures(side: Scores, place: int | None) -> list[str]:
    means = (side.mean(m) if place is None else side.tasks[place].of(m) for m in METRICS)
    return list(map(mean_text, means))


def _change(found: ZeroShot, metric: Metric, place: int | None) -> Text:
    changes = found.change(metric)
    mean = average(changes) if place is None else changes[place]
    style = ("green" if mean.mean > 0 else "red") if mean.clear else ""
    return Text(mean_text(mean, sign=True), style=style)
