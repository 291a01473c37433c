"""config.json, read with bounds: what no model can be is refused before anything is built of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gacfx.core.files.reading import read_table
from gacfx.errors import CheckpointError

FORMAT_VERSION = 1
"""Of the gacfx block."""
MAX_RANKS = 100_000
"""Ranks in the gacfx block. A model of 61 layers with 256 experts each has 47,000 such weights."""
MAX_BYTES = 16 * 2**20
"""Of the file: 160 for each rank."""
MAX_SIZE = 2**28
"""Features, or words of a vocabulary."""
MAX_COUNT = 2_000
"""Layers: each is a dozen Python modules, whatever its size."""

_SIZES = ("size", "dim", "embd", "inner", "d_model", "d_ff", "ffn")


def read_config_json(file: Path) -> dict[str, Any]:
    """The table in ``file``.

    Raises:
        CheckpointError: it is missing, no JSON table, or describes no model that can be.
    """
    if not file.exists():
        raise CheckpointError(f"{file.parent}: {no_config(file.parent)}")
    raw = read_table(file, most_bytes=MAX_BYTES)
    check_sizes(raw, str(file))
    return raw


def no_config(folder: Path) -> str:
    """What to say of a folder without a config.json."""
    if (folder / "adapter_config.json").exists():
        return (
            "holds an adapter and no model; load it with its base model, merge_and_unload() and "
            "save_pretrained(), and give that folder"
        )
    return "has no config.json"


def check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Nothing when the sizes in a configuration are those of a model that somebody could own.

    Without it a skeleton of ten million layers fills the memory before anything else is wrong.

    Raises:
        CheckpointError: names the first entry that is out of bounds.
    """
    for key, found in _numbers(config):
        sized = any(word in key for word in _SIZES)
        most = MAX_SIZE if sized else MAX_COUNT if "layer" in key else found
        if found > most:
            raise CheckpointError(f"{where}: {key} is {found:,}; no model has over {most:,}")
    block = config.get("quantization_config")
    ranks = block.get("ranks") if isinstance(block, Mapping) else None
    if isinstance(ranks, Mapping):
        check_count(ranks, where)


def check_version(version: object) -> None:
    """Nothing when this gacfx reads such a gacfx block.

    Raises:
        CheckpointError: another gacfx wrote it.
    """
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"config.json: gacfx format version {version!r}; this gacfx reads {FORMAT_VERSION}. "
            "A newer gacfx may read it"
        )


def check_count(ranks: Mapping[Any, Any], where: str) -> None:
    """Nothing when a model can have so many layers.

    Raises:
        CheckpointError: it cannot.
    """
    if len(ranks) > MAX_RANKS:
        raise CheckpointError(
            f"{where}: gacfx ranks of {len(ranks):,} layers; no model has over {MAX_RANKS:,}"
        )


def _numbers(table: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number by its key, those of nested configurations included."""
    for key, found in table.items():
        if isinstance(found, int):
            yield str(key), found
        elif isinstance(found, Mapping) and key != "quantization_config":
            yield from _numbers(found)
