"""Golden texts: what a person sees, kept in files beside the tests.

``GOLDEN=write pytest tests/golden`` writes them anew; read the difference before it is committed.
"""

import io
import os
from functools import cache
from pathlib import Path

import torch
from rich.console import Console, RenderableType
from torch.fx import GraphModule

from gacfx.api import annotate_graph
from gacfx.core.sites import Workload
from gacfx.graph import edit
from gacfx.hardware import profile as profiles
from gacfx.inspection import Inspection
from gacfx.tracing.export import export_model
from gacfx.tracing.skeleton import read_config, skeleton

FOLDER = Path(__file__).parent
WIDTH = 132
NARROW = 80
"""The terminal that everything must be readable on."""
LAYERS = 2
"""Of each real model: one layer is like the other, and two show how equal ones fold."""


def check(name: str, text: str, folder: Path = FOLDER) -> None:
    """``text`` is what ``<name>.txt`` says."""
    path, text = folder / f"{name}.txt", text.rstrip("\n") + "\n"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"no {path.name} yet: GOLDEN=write pytest tests/golden writes it"
    assert text == path.read_text(encoding="utf-8")


def render(view: RenderableType, width: int = WIDTH) -> str:
    """A view as a pipe shows it: no colour, fixed width, no blanks at line ends."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False, markup=False).print(view)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


@cache
def _captured(name: str, dtype: torch.dtype | None) -> GraphModule:
    config = read_config(name)
    config.num_hidden_layers = LAYERS
    return export_model(skeleton(config, dtype))


def shapes(name: str, dtype: torch.dtype | None = None) -> GraphModule:
    """The first layers of a bundled configuration, in their real size, without weights."""
    return edit.fork(_captured(name, dtype))


def inspected(gm: GraphModule, name: str, workload: Workload) -> Inspection:
    """``gm`` annotated for an H200."""
    return annotate_graph(gm, profiles.load("h200"), workload, f"{name}, {LAYERS} layers")
