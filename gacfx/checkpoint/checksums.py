"""Checksums of a checkpoint folder: whether every file is what was written.

    {"format": "gacfx-files", "version": 1,
     "files": {"config.json": {"bytes": 1834, "sha256": "..."}, "plan/plan.json": {...}, ...}}

``gacfx_files.json`` names every other file of the folder, in order. A weight file with random bytes
in it loads without a word, because safetensors checks sizes only; here it is found.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gacfx.checkpoint.folders import stays_inside
from gacfx.core.files.reading import read_table
from gacfx.core.names import printable
from gacfx.errors import CheckpointError

FILES = "gacfx_files.json"
VERSION = 1

_TAKEN = ("config.json", "model.safetensors.index.json", "adapter_config.json")
_SHA256 = re.compile("[0-9a-f]{64}")
_STRICT: dict[str, object] = {"extra": "forbid", "strict": True}

State = Literal["whole", "changed", "missing", "link"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What one file was when it was written."""

    bytes: int
    sha256: str
    """64 hexadecimal digits, small letters."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT


@dataclass(frozen=True, slots=True)
class FileList:
    """``gacfx_files.json``."""

    format: Literal["gacfx-files"]
    version: int
    files: dict[str, FileEntry]
    """Name relative to the folder, with ``/`` -> what it was."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of the files of a folder; names in order, relative to it."""

    files: int
    """That were written."""
    changed: tuple[str, ...]
    """Other contents, or no regular file any more."""
    missing: tuple[str, ...]
    links: tuple[str, ...]
    """Links that lead out of the folder; they were not followed."""
    added: tuple[str, ...]
    """Not there when the folder was written; no fault."""
    taken: tuple[str, ...] = ()
    """Added, and a loader takes them for the model or on top of it; a fault."""

    @property
    def whole(self) -> bool:
        """Every file that makes the model is as it was written."""
        return not (self.changed or self.missing or self.links or self.taken)


def write_checksums(folder: Path) -> None:
    """Write ``gacfx_files.json``, the last file of a complete folder."""
    files = {name: _entry(folder / name) for name in _names(folder)}
    text = json.dumps(asdict(FileList("gacfx-files", VERSION, files)), indent=1) + "\n"
    (folder / FILES).write_text(text, encoding="utf-8")


def verify_checksums(folder: Path) -> Checked:
    """Read every file of the folder and compare; seconds for each gigabyte.

    Raises:
        CheckpointError: no such folder, no list of files in it, or a list that cannot be read.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder")
    if not os.path.lexists(folder / FILES):
        raise CheckpointError(
            f"{folder}: has no {FILES}; it was written by an older gacfx or not by gacfx"
        )
    written = _read(folder).files
    states = {name: _state(folder, name, written[name]) for name in sorted(written)}
    changed, missing, links = (
        tuple(name for name, state in states.items() if state == wanted)
        for wanted in ("changed", "missing", "link")
    )
    new = [name for name in _names(folder) if name not in written]
    added = tuple(name for name in new if not _makes_model(name))
    taken = tuple(filter(_makes_model, new))
    return Checked(len(written), changed, missing, links, added, taken)


def _makes_model(name: str) -> bool:
    """A loader takes such a file for the model; one file of weights goes before an index."""
    return "/" not in name and (name in _TAKEN or name.endswith(".safetensors"))


def _state(folder: Path, name: str, entry: FileEntry) -> State:
    path = folder / name
    if not os.path.lexists(path):
        return "missing"
    if not _is_inside(path, folder):
        return "link"
    if not path.exists():
        return "missing"  # a link within the folder that leads nowhere
    if not path.is_file() or path.stat().st_size != entry.bytes:
        return "changed"
    return "whole" if _sha256(path) == entry.sha256 else "changed"


def _is_inside(path: Path, folder: Path) -> bool:
    """No link leads out of the folder, other than into the cache of the hub that it is part of."""
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(home):
        return True
    # models--owner--name/snapshots/REVISION/file -> ../../blobs/DIGEST
    return home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"


def _names(folder: Path) -> list[str]:
    """Every file below the folder but the list itself; links to folders are not entered."""

    def found() -> Iterator[str]:
        for where, folders, files in os.walk(folder):
            links = [name for name in folders if os.path.islink(os.path.join(where, name))]
            for name in (*files, *links):
                yield Path(where, name).relative_to(folder).as_posix()

    return sorted(name for name in found() if name != FILES)


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _read(folder: Path) -> FileList:
    """The list in a folder, every name inside the folder."""
    from pydantic import TypeAdapter, ValidationError

    path = folder / FILES
    if not _is_inside(path, folder):
        raise CheckpointError(f"{path}: is a link that leads out of the folder")
    raw = read_table(path)
    version = raw.get("version")
    if type(version) is not int or version != VERSION:
        said = printable(repr(version))
        raise CheckpointError(f"{path}: version {said}; this gacfx reads {VERSION}")
    try:
        found = TypeAdapter(FileList).validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors()[0]
        spot = printable(".".join(map(str, first["loc"])))
        raise CheckpointError(f"{path}: {spot}: {first['msg']}") from error
    if not found.files:
        raise CheckpointError(f"{path}: lists no file; copy it again")
    for name, entry in found.files.items():
        if not stays_inside(name) or name == FILES:
            raise CheckpointError(
                f"{path}: names '{printable(name)}', which is no other file of this folder"
            )
        if entry.bytes < 0 or not _SHA256.fullmatch(entry.sha256):
            raise CheckpointError(f"{path}: {name}: its size or its sha256 cannot be")
    return found
