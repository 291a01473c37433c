"""Files named on the command line: plans, curves, and what is to be written."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gacfx.core.plan import Plan


def check_writable(path: Path) -> None:
    """Nothing when a file can be written there; asked before the work that makes it.

    Raises:
        CheckpointError: it is a folder, its folder is missing, or nothing can be written in that.
    """
    from gacfx.errors import CheckpointError

    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: there is no folder {path.parent}; make it first")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error


def check_new(path: Path, *, overwrite: bool) -> None:
    """Nothing when a file can be written there, and is missing or may be replaced.

    Raises:
        CheckpointError: as ``check_writable``, or it exists and ``overwrite`` is false.
    """
    from gacfx.errors import CheckpointError

    check_writable(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path}: exists; allow overwrite or name another")


def read_plan(name: str) -> "Plan":
    """The plan behind a name; its factors are not read.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        PlanError: a malformed plan.
    """
    from gacfx.checkpoint.save import PLAN_FOLDER
    from gacfx.core.materialise import PLAN_FILE
    from gacfx.core.plan import Plan
    from gacfx.errors import CheckpointError

    path = Path(name)
    places = (path / PLAN_FILE, path / PLAN_FOLDER / PLAN_FILE) if path.is_dir() else (path,)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{name}: no plan there; name a plan folder, a checkpoint of gacfx, or a {PLAN_FILE}"
        )
    try:
        text = found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{found}: cannot be read: {error}") from error
    return Plan.from_json(text, where=str(found))
