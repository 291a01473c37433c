"""config.json, read with bounds: what no model can be is refused before anything is built of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gacfx.core.decision import Decision, of_rank
from gacfx.core.files.reading import read_table
from gacfx.core.kinds import read_decision
from gacfx.core.names import is_module_name, printable
from gacfx.errors import CheckpointError, PlanError

FORMAT_VERSION = 2
"""Of the gacfx block: a decision for each module. Version 1 has ``ranks`` instead, of pairs."""
READS = (1, FORMAT_VERSION)
METHOD = "gacfx"
"""The ``quant_method`` of the block."""
MAX_MODULES = 100_000
"""In the gacfx block. A model of 61 layers with 256 experts each has 47,000 such weights."""
MAX_BYTES = 32 * 2**20
"""Of the file: 330 for each module."""
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
    read_block(config.get("quantization_config"), where)


def read_block(block: object, where: str = "config.json") -> dict[str, Decision]:
    """Module -> decision, as the gacfx block of a configuration says; empty for any other block.

    Args:
        block: ``quantization_config``, of a file that anybody may have written.
        where: for messages.

    Raises:
        CheckpointError: a version that this gacfx does not read, an unknown kind of decision, or
            what is no table of modules and decisions.
    """
    if not isinstance(block, Mapping) or block.get("quant_method", METHOD) != METHOD:
        return {}
    version = block.get("format_version", FORMAT_VERSION if "modules" in block else READS[0])
    if type(version) is not int or version not in READS:
        reads = " and ".join(map(str, READS))
        raise CheckpointError(
            f"{where}: gacfx format version {printable(repr(version))}; this gacfx reads {reads}. "
            f"A newer gacfx may read it{_writer(block)}"
        )
    key = "modules" if version == FORMAT_VERSION else "ranks"
    table = block.get(key, {})
    if not isinstance(table, Mapping):
        raise CheckpointError(f"{where}: gacfx {key} must be a table, not {printable(repr(table))}")
    if len(table) > MAX_MODULES:
        raise CheckpointError(
            f"{where}: gacfx {key} of {len(table):,} layers; no model has over {MAX_MODULES:,}"
        )
    found = {}
    for name, said in sorted(table.items(), key=str):
        if not is_module_name(name):
            raise CheckpointError(f"{where}: '{printable(name)}' is no module name")
        try:
            found[name] = _decision(said) if version == FORMAT_VERSION else _pair(said)
        except PlanError as error:
            raise CheckpointError(f"{where}: {name}: {error}{_writer(block)}") from error
    return found


def _decision(said: object) -> Decision:
    decision = read_decision(said)
    if decision.is_dense:
        raise PlanError("nothing replaces a dense weight; leave it out")
    return decision


def _pair(rank: object) -> Decision:
    if type(rank) is not int or rank < 1:
        raise PlanError(f"rank {printable(repr(rank))} is not a positive integer")
    return of_rank(rank)


def _writer(block: Mapping[str, Any]) -> str:
    """Who wrote the block, where it says so."""
    by = block.get("gacfx_version")
    return f" (it was written by gacfx {printable(by, 40)})" if isinstance(by, str) and by else ""


def _numbers(table: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number by its key, those of nested configurations included."""
    for key, found in table.items():
        if isinstance(found, int):
            yield str(key), found
        elif isinstance(found, Mapping) and key != "quantization_config":
            yield from _numbers(found)
