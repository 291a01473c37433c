"""The files of a checkpoint folder that somebody else made: what may be opened at all."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from gacfx.core.names import printable
from gacfx.errors import CheckpointError


def check_files(folder: Path) -> None:
    """Nothing when every entry is a file or a folder, or a link to one.

    Opening a pipe would wait for a writer forever, and transformers opens what it finds.

    Raises:
        CheckpointError: names the first other entry.
    """
    for entry in sorted(folder.iterdir()):
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            raise CheckpointError(
                f"{folder}: {printable(entry.name)} is a pipe or a device, no file; remove it"
            )


def shard_files(index: Path, weight_map: object) -> list[Path]:
    """The files that an index names, all of them inside its folder.

    A name stands for what is there under it, a link as well: the cache of the hub has nothing else.

    Args:
        index: path of ``model.safetensors.index.json``.
        weight_map: its table weight -> file.

    Raises:
        CheckpointError: no such table, or a name that leads out of the folder.
    """
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    for name in weight_map.values():
        if not stays_inside(name):
            raise CheckpointError(
                f"{index}: weight_map names '{printable(name)}', which is no file of this folder"
            )
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def stays_inside(name: object) -> bool:
    """A relative path in its plain form, without ``..``, that a person can read."""
    if not isinstance(name, str) or not name or not name.isprintable():
        return False
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or str(plain) != name or name == ".":
        return False
    windows = PureWindowsPath(name)
    return "\\" not in name and not windows.drive
