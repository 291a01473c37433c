"""Outside packages as they are installed: a module and its metadata in a folder on the path."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest


def install(
    folder: Path,
    patch: pytest.MonkeyPatch,
    module: str,
    code: str,
    points: Mapping[str, Mapping[str, str]],
) -> None:
    """A package of one module, found by its entry points until ``patch`` is undone.

    Args:
        folder: where it is put.
        patch: takes it from the path again, and from what Python has imported.
        module: its name.
        code: its source.
        points: group -> name -> object of the module.
    """
    name = module.replace("_", "-")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, found in points.items():
        lines += [f"[{group}]", *(f"{key} = {module}:{value}" for key, value in found.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    patch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    patch.setitem(sys.modules, module, ModuleType(module))
    del sys.modules[module]  # what is undone is its import
