"""Pictures in one style: the same data and the same matplotlib make the same SVG bytes.

matplotlib is imported where something is drawn; whether it can be is known without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gacfx.core.files.atomic import replacing
from gacfx.core.files.targets import writing
from gacfx.errors import CheckpointError, NoMatplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GREY, FAINT = "#343a40", "#868e96", "#e9ecef"
WIDTH_IN = 8.4
FORMATS = (".svg", ".png")
DOTS_PER_IN = 130
PAD_IN = 0.04167
"""matplotlib's own."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "gacfx",  # ids of the file's elements; random otherwise
    "svg.fonttype": "path",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


def can_draw() -> bool:
    """Is matplotlib installed?"""
    try:
        return find_spec("matplotlib") is not None
    except ValueError:  # a module that is blocked has no spec
        return False


def check_target(path: Path) -> None:
    """Nothing when a picture can be written there.

    Raises:
        NoMatplotlib: matplotlib is not installed.
        CheckpointError: the suffix is no format that is drawn.
    """
    if path.suffix not in FORMATS:
        raise CheckpointError(f"{path}: a plot is written as {' or '.join(FORMATS)}")
    if not can_draw():
        raise NoMatplotlib(f"{path}: drawing needs matplotlib: pip install matplotlib")


@contextmanager
def canvas(
    path: Path,
    height_in: float,
    *,
    pad_in: float = PAD_IN,
    more: dict[Any, Any] | None = None,
    overwrite: bool = True,
) -> Iterator["Figure"]:
    """An empty figure in the style; what is drawn on it becomes the file, whole or not at all.

    Args:
        path: its suffix is the format, ``.svg`` or ``.png``.
        height_in: the width is the same for all.
        pad_in: around each panel.
        more: matplotlib settings beside the style.
        overwrite: replace a file that is there; pages of results are drawn again and again.

    Raises:
        NoMatplotlib: matplotlib is not installed.
        CheckpointError: another format, or a file that cannot be written.
    """
    check_target(path)
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own settings would change the file
        matplotlib.rcParams.update({**STYLE, **(more or {})})
        layout = ConstrainedLayoutEngine(w_pad=pad_in, h_pad=pad_in)
        figure = Figure(figsize=(WIDTH_IN, height_in), layout=layout)
        yield figure
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        with writing(path), replacing(path, overwrite=overwrite) as partial:
            figure.savefig(partial, format=path.suffix[1:], dpi=DOTS_PER_IN, metadata=metadata)
