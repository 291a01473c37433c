"""The tables of irregular ranks, beside what the papers print of another model."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from gacfx.prevalence import STEPS, Prevalence
from gacfx.report.layout import Column, grid, sentence
from gacfx.report.numbers import count


class Printed(NamedTuple):
    """A row of Table 1 of GAC-v1, shares 0..1: means over ratios 0.1, 0.2, 0.3 and 0.5."""

    mean: dict[int, float]
    """Step -> share."""
    worst: float
    """Over the ratios, of multiples of 8."""
    best: float


PRINTED = {
    "activation": Printed({8: 0.808, 16: 0.882}, 0.862, 0.723),
    "fisher": Printed({8: 0.613, 16: 0.683}, 0.714, 0.496),
    "magnitude": Printed({8: 0.608, 16: 0.679}, 0.701, 0.290),
    "gradient": Printed({8: 0.530, 16: 0.594}, 0.638, 0.415),
}
"""Of Llama-3-8B. They are the paper's: nothing here has measured them."""
SOURCE = (
    "printed: Llama-3-8B in Table 1 of GAC-v1, ratios 0.1 0.2 0.3 0.5; the papers do not say how a "
    "score becomes a dimension, nor how scores are summed"
)
CHANCE = "ranks drawn evenly would be 7/8 = 87.5% and 15/16 = 93.8% irregular"
CAPS = (
    "a rank at break-even has as many parameters as the weight: the same for all weights of a "
    "shape, it is irregular or not by their shape alone"
)


def prevalence_view(found: Prevalence) -> RenderableType:
    """The head, shares over all ratios, shares at each of them, and what is to be said."""
    parts: list[RenderableType] = [
        sentence(head(found), style="bold"),
        grid(overall(found)),
        Text(),
        Text("no multiples of 8, by the share that is removed", style="bold"),
        grid(by_ratio(found)),
        Text(),
    ]
    return Group(*parts, *map(sentence, notes(found)))


def head(found: Prevalence) -> str:
    """``irregular ranks of small, 224 weights of 6.98 G parameters``."""
    text = f", {found.tokens:,} tokens of text" if found.tokens else ", weights alone"
    literal = ", scores of whole weights" if found.normalize == "none" else ""
    size = f"{found.weights:,} weights of {count(found.params)} parameters"
    return f"irregular ranks of {found.model}, {size}{text}{literal}"


def overall(found: Prevalence) -> list[Column]:
    """A row for each proxy and step."""
    rows = [(proxy, step) for proxy in found.proxies for step in STEPS]
    shares = [found.shares(*row) for row in rows]
    return [
        Column("proxy", [proxy if step == STEPS[0] else "" for proxy, step in rows]),
        Column("step", [str(step) for _, step in rows], right=True),
        Column("mean", [percent(found.mean(*row)) for row in rows], right=True),
        Column("worst", [percent(max(each)) for each in shares], right=True),
        Column("best", [percent(min(each)) for each in shares], right=True),
        Column("of flops", [percent(found.mean(*row, flops=True)) for row in rows], right=True),
        Column("printed", [printed(*row) for row in rows], right=True),
    ]


def by_ratio(found: Prevalence) -> list[Column]:
    """A row for each proxy, a column for each ratio."""
    columns = [Column("proxy", list(found.proxies))]
    for place, ratio in enumerate(found.ratios):
        cells = [percent(found.shares(proxy, STEPS[0])[place]) for proxy in found.proxies]
        columns.append(Column(ratio, cells, right=True))
    caps = [
        " ".join(str(cell.found.at_most) for cell in found.of(proxy)) for proxy in found.proxies
    ]
    return [*columns, Column("at break-even", caps, right=True)]


def printed(proxy: str, step: int) -> str:
    """``80.8% (72.3-86.2)``; the range is printed for multiples of 8 alone."""
    row = PRINTED[proxy]
    if step != STEPS[0]:
        return f"{percent(row.mean[step])}{'':14}"
    return f"{percent(row.mean[step])} ({percent(row.best)}-{percent(row.worst)})"


def notes(found: Prevalence) -> Iterator[str]:
    """What the numbers are, and whose."""
    yield (
        "step: ranks are to be multiples of it; mean, worst and best over the ratios "
        f"{' '.join(found.ratios)}; of flops: the mean, by the FLOPs of the factors"
    )
    yield CHANCE
    yield CAPS
    yield SOURCE
    yield from found.warnings


def percent(share: float) -> str:
    """``61.3%``."""
    return f"{share:.1%}"
