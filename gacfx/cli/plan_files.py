"""Files named on the command line: plans, curves, and what is to be written."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gacfx.core.plan import Plan


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Nothing when a file can be written there; asked before the work that makes it.

    Raises:
        CheckpointError: it is a folder or there already, its folder is missing, or nothing can be
            written in that.
    """
    from gacfx.core.files.targets import check_file
    from gacfx.errors import CheckpointError

    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: there is no folder {path.parent}; make it first")
    check_file(path, overwrite=overwrite)


def check_plan_folder(path: Path, *, overwrite: bool) -> None:
    """Nothing when a plan can be written there; with ``overwrite`` other files of it stay.

    Raises:
        CheckpointError: it is a file, it holds something, or nothing can be written there.
    """
    from gacfx.core.files.targets import check_file, check_folder
    from gacfx.core.plan_folder import FACTORS_FILE, PLAN_FILE

    check_folder(path, overwrite=overwrite)
    for name in (PLAN_FILE, FACTORS_FILE):
        check_file(path / name, overwrite=True)


def check_source(model: str, out: Path) -> None:
    """Nothing when ``out`` is another folder than the model that is read, and has room for as much.

    A name of the hub is taken for another folder, of unknown size.

    Raises:
        CheckpointError: the model is in ``out``, or there is too little room.
    """
    from gacfx.core.files.targets import check_space
    from gacfx.errors import CheckpointError

    source = Path(model)
    if not source.is_dir():
        return
    if source.resolve().is_relative_to(out.resolve()):
        raise CheckpointError(f"{out}: holds the model that is read; name another folder")
    check_space(out, sum(file.stat().st_size for file in source.glob("*.safetensors")))


def read_plan(name: str) -> "Plan":
    """The plan behind a name; its factors are not read.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        PlanError: a malformed plan.
    """
    from gacfx.checkpoint.save import PLAN_FOLDER
    from gacfx.core.files.reading import read_text
    from gacfx.core.plan import Plan
    from gacfx.core.plan_folder import PLAN_FILE
    from gacfx.errors import CheckpointError

    path = Path(name)
    places = (path / PLAN_FILE, path / PLAN_FOLDER / PLAN_FILE) if path.is_dir() else (path,)
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise CheckpointError(
            f"{name}: no plan there; name a plan folder, a checkpoint of gacfx, or a {PLAN_FILE}"
        )
    return Plan.from_json(read_text(found), where=str(found))
