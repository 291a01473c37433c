"""The folder of ``gacfx demo``: its own earlier one is written again, any other is left alone."""

from pathlib import Path

NAMES = ("upstream", "gacfx")
"""Plans that the demo compares: one checkpoint folder for each."""


def check(out: Path) -> None:
    """Nothing when the demo may write there.

    Raises:
        CheckpointError: the folder holds something other than an earlier demo, it is a file, or
            nothing can be written there.
    """
    from gacfx.core.files.targets import check_folder
    from gacfx.errors import CheckpointError

    check_folder(out, overwrite=True)
    for entry in sorted(out.iterdir()) if out.is_dir() else ():
        if entry.name not in NAMES or not _is_of_a_demo(entry):
            raise CheckpointError(
                f"{out}: is not the folder of an earlier demo (it holds {entry.name}), so it is "
                "not overwritten; name another with --out"
            )


def _is_of_a_demo(folder: Path) -> bool:
    """Its report compares both plans, and no other command does so."""
    from gacfx.checkpoint.save import REPORT_FILE
    from gacfx.core.files.reading import read_table
    from gacfx.errors import CheckpointError

    try:
        sides = read_table(folder / REPORT_FILE).get("sides")
    except CheckpointError:
        return False
    names = {side.get("name") for side in sides or () if isinstance(side, dict)}
    return names.issuperset(NAMES)
