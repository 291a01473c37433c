"""The source of gacfx as one number, for caches of what was compiled with it."""

from functools import cache
from hashlib import sha256
from pathlib import Path

_HOME = Path(__file__).parents[1]


@cache
def source_digest(home: Path = _HOME) -> str:
    """sha256 of every module and every profile of the package at ``home``.

    Another one after any change of them, the same in every process without.
    """
    found = sha256()
    for name, file in sorted(_files(home).items()):
        content = sha256(file.read_bytes()).hexdigest()
        found.update(f"{name} {content}\n".encode())
    return found.hexdigest()


def _files(home: Path) -> dict[str, Path]:
    """Name in the package -> file; the passes may be behind a link, which is not followed."""
    files = [*home.rglob("*.py"), *(home / "passes").rglob("*.py")]
    files += (home / "hardware" / "profiles").glob("*.json")
    return {file.relative_to(home).as_posix(): file for file in files}
