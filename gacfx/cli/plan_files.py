"""Plans named on the command line: a plan folder, a checkpoint with one, or a plan.json."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gacfx.core.plan import Plan


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
