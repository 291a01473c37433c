"""A picture of irregular ranks: their remainders, and their share at every ratio."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gacfx.core.files.targets import check_file
from gacfx.prevalence import STEPS, Prevalence
from gacfx.report import drawing
from gacfx.report.drawing import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "magnitude": "#495057",
    "activation": "#d98032",
    "fisher": "#14605f",
    "gradient": "#7a5195",
}
REGULAR = "#e6f2e6"
HEIGHT_IN = 4.2
MORE: dict[Any, Any] = {"legend.frameon": False}


def prevalence_plot(found: Prevalence, path: str | Path, *, overwrite: bool = False) -> Path:
    """Draw how many ranks leave each remainder, and the shares that are irregular, SVG or PNG.

    Args:
        found: of :func:`gacfx.prevalence.prevalence`.
        path: its suffix is the format.
        overwrite: replace a file that is there.

    Raises:
        NoMatplotlib: matplotlib is not installed.
        CheckpointError: another format, a file that exists and ``overwrite`` is false, or one that
            cannot be written.
    """
    path = Path(path)
    drawing.check_target(path)
    check_file(path, overwrite=overwrite)
    with drawing.canvas(path, HEIGHT_IN, pad_in=0.1, more=MORE, overwrite=overwrite) as figure:
        left, right = figure.subplots(1, 2)
        title = f"Ranks in proportion to importance: {found.model}"
        figure.suptitle(title, x=0.012, ha="left", weight="bold", size=12)
        _remainders(left, found)
        _shares(right, found)
    return path


def _remainders(axes: "Axes", found: Prevalence) -> None:
    """Bars of the remainders of the larger step, those of each proxy side by side."""
    step = STEPS[-1]
    places, width = np.arange(step), 0.84 / len(found.proxies)
    for number, proxy in enumerate(found.proxies):
        counts = np.array(found.remainders(proxy, step))
        at = places + (number - (len(found.proxies) - 1) / 2) * width
        share = counts / counts.sum()
        axes.bar(at, share, width, color=COLOURS[proxy], linewidth=0)
    for place in range(0, step, STEPS[0]):
        axes.axvspan(place - 0.5, place + 0.5, color=REGULAR, linewidth=0, zorder=0)
    axes.axhline(1 / step, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xticks(places)
    axes.set_xlim(-0.7, step - 0.3)
    axes.set_xlabel(f"rank modulo {step}; shaded: multiples of {STEPS[0]}")
    axes.set_ylabel("share of ranks, all ratios; dashed: drawn evenly")
    axes.grid(axis="x", visible=False)


def _shares(axes: "Axes", found: Prevalence) -> None:
    """Lines over the ratios: of multiples of 8 drawn through, of 16 dashed."""
    ratios = [100 * float(ratio) for ratio in found.ratios]
    order = np.argsort(ratios)
    for proxy in found.proxies:
        for step, style in zip(STEPS, ("-", "--"), strict=True):
            shares = 100 * np.array(found.shares(proxy, step))
            more: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.4}
            at, label = np.array(ratios)[order], proxy if step == STEPS[0] else None
            axes.plot(at, shares[order], style, color=COLOURS[proxy], label=label, **more)
    for step in STEPS:
        even = 100 * (1 - 1 / step)
        axes.axhline(even, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set_xticks(ratios)
    axes.set_ylim(0, 102)
    axes.set_xlabel("removed of the targeted parameters, %")
    words = " and ".join(f"of {step}" for step in STEPS)
    axes.set_ylabel(f"no multiples {words} (dashed), % of ranks")
    axes.legend(loc="lower right", title="dotted: drawn evenly", alignment="left")
