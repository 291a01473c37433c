"""config.json, read with bounds: what no model can be is refused before anything is built of it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from gacfx.core.blocks import BlockState, read_block_state
from gacfx.core.decision import Decision, of_rank
from gacfx.core.files.reading import read_table
from gacfx.core.kinds import read_decision
from gacfx.core.names import is_module_name, printable
from gacfx.core.padding import Padded
from gacfx.core.pruning import Gone, Sliced
from gacfx.core.router_shape import RouterShape, read_router_shape
from gacfx.errors import CheckpointError, PlanError

FORMAT_VERSION = 4
"""Of the gacfx block: a decision for each module, which may be a slice, what became of blocks, and
the router of prompts. Version 3 has no router, version 2 has no slices and no blocks, version 1 has
``ranks`` instead, of pairs."""
UNROUTED = 3
"""Written where nothing is routed, for older readers."""
UNPRUNED = 2
"""Written where nothing is pruned either."""
READS = (1, UNPRUNED, UNROUTED, FORMAT_VERSION)
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

T = TypeVar("T")

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
    read_block(block, where)
    read_blocks(block, where)
    read_router(block, where)


def version_for(
    decisions: Mapping[str, Decision],
    blocks: Mapping[str, BlockState],
    router: RouterShape | None = None,
) -> int:
    """The oldest format that can say these."""
    if router is not None:
        return FORMAT_VERSION
    pruned = blocks or any(isinstance(one, Sliced | Padded) for one in decisions.values())
    return UNROUTED if pruned else UNPRUNED


def read_block(block: object, where: str = "config.json") -> dict[str, Decision]:
    """Module -> decision, as the gacfx block of a configuration says; empty for any other block.

    Args:
        block: ``quantization_config``, of a file that anybody may have written.
        where: for messages.

    Raises:
        CheckpointError: a version that this gacfx does not read, an unknown kind of decision, or
            what is no table of modules and decisions.
    """
    if not _is_ours(block):
        return {}
    version = _version(block, where)
    if version == READS[0]:
        return _table(block, "ranks", _pair, where)
    return _table(block, "modules", _decision if version > UNPRUNED else _unpruned, where)


def read_blocks(block: object, where: str = "config.json") -> dict[str, BlockState]:
    """Name of an attention or MLP -> what became of it, as the gacfx block of a configuration says.

    Args:
        block: ``quantization_config``, of a file that anybody may have written.
        where: for messages.

    Raises:
        CheckpointError: as ``read_block``, or blocks in a version that has none.
    """
    if not _is_ours(block):
        return {}
    version = _version(block, where)
    if version < UNROUTED and block.get("blocks"):
        raise CheckpointError(
            f"{where}: gacfx format version {version} has no blocks; it should be {UNROUTED}"
            f"{_writer(block)}"
        )
    return _table(block, "blocks", read_block_state, where)


def read_router(block: object, where: str = "config.json") -> RouterShape | None:
    """The sizes of the router, as the gacfx block of a configuration says; None without one.

    Args:
        block: ``quantization_config``, of a file that anybody may have written.
        where: for messages.

    Raises:
        CheckpointError: as ``read_block``, sizes that no router has, or a router in a version that
            has none.
    """
    if not _is_ours(block) or block.get("router") is None:
        return None
    if (version := _version(block, where)) < FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: gacfx format version {version} has no router; it should be "
            f"{FORMAT_VERSION}{_writer(block)}"
        )
    try:
        return read_router_shape(block["router"])
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}{_writer(block)}") from error


def _is_ours(block: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(block, Mapping) and block.get("quant_method", METHOD) == METHOD


def _version(block: Mapping[str, Any], where: str) -> int:
    """Version of the gacfx block."""
    unsaid = UNROUTED if "blocks" in block else UNPRUNED if "modules" in block else READS[0]
    unsaid = FORMAT_VERSION if block.get("router") is not None else unsaid
    version = block.get("format_version", unsaid)
    if type(version) is not int or version not in READS:
        reads = f"{', '.join(map(str, READS[:-1]))} and {READS[-1]}"
        raise CheckpointError(
            f"{where}: gacfx format version {printable(repr(version))}; this gacfx reads {reads}. "
            f"A newer gacfx may read it{_writer(block)}"
        )
    return version


def _table(
    block: Mapping[str, Any], key: str, read: Callable[[object], T], where: str
) -> dict[str, T]:
    """Name -> what is read, of one table of the block."""
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
            found[name] = read(said)
        except PlanError as error:
            raise CheckpointError(f"{where}: {name}: {error}{_writer(block)}") from error
    return found


def _decision(said: object) -> Decision:
    decision = read_decision(said)
    if decision.is_dense:
        raise PlanError("nothing replaces a dense weight; leave it out")
    if isinstance(decision, Gone):
        raise PlanError("a weight goes with its block; name that under blocks, as a skip")
    return decision


def _unpruned(said: object) -> Decision:
    decision = _decision(said)
    if isinstance(decision, Sliced | Padded):
        raise PlanError(
            f"format version {UNPRUNED} has nothing that is {decision.kind}; it should be "
            f"{UNROUTED}"
        )
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
