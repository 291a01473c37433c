"""What the weight files of a folder hold, read from their headers: no values, no code."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gacfx.core.names import printable
from gacfx.errors import CheckpointError
from gacfx.modules.carrier import Carrier
from gacfx.modules.dense import features
from gacfx.modules.install import decisions_in

_NO_WEIGHTS = ("I", "U", "BOOL", "C")
"""How safetensors begins the names of dtypes that are no real numbers: I8, U8, BOOL, C64."""


def check_stored(file: Path, config: Mapping[str, Any]) -> None:
    """Nothing when a file is whole and holds weights as they are used.

    A loader casts integers to floats without a word. They are the codes of a quantization, and
    without what config.json said of it they are no weights.

    Raises:
        CheckpointError: the file is missing, truncated, or holds integers that nothing explains.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:  # compares its length with its header
            odd = None if _is_explained(config) else _first_odd(opened)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: is missing, truncated or no safetensors file ({error}); copy it again"
        ) from error
    if odd is not None:
        name, dtype = odd
        raise CheckpointError(
            f"{file}: {printable(name)} is stored as {dtype}, and config.json names no "
            "quantization that makes weights of it; restore its quantization_config, or take the "
            "original checkpoint"
        )


def _first_odd(opened: Any) -> tuple[str, str] | None:
    names: Iterable[str] = opened.keys()
    for name in sorted(name for name in names if name.endswith(".weight")):
        dtype = str(opened.get_slice(name).get_dtype())
        if dtype.startswith(_NO_WEIGHTS):
            return name, dtype
    return None


def _is_explained(config: Mapping[str, Any]) -> bool:
    """transformers has a loader for the quantization that a configuration names."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    for table in (config, config.get("text_config")):
        block = table.get("quantization_config") if isinstance(table, Mapping) else None
        method = block.get("quant_method") if isinstance(block, Mapping) else None
        if isinstance(method, str) and method != "gacfx" and method in KNOWN:
            return True
    return False


def check_listed(index: Path, weight_map: Mapping[str, str]) -> None:
    """Nothing when every weight that an index names is in one of its files.

    Raises:
        CheckpointError: names those that no file has.
    """
    from safetensors import safe_open

    there = set[str]()
    for name in sorted(set(weight_map.values())):
        with safe_open(index.parent / name, framework="pt") as opened:
            there.update(opened.keys())
    if lost := sorted(weight_map.keys() - there):
        shown = ", ".join(map(printable, lost[:8])) + (" ..." if len(lost) > 8 else "")
        raise CheckpointError(
            f"{index}: no file has {len(lost)} of the weights that it names, so the files are not "
            f"all of one model; copy them again: {shown}"
        )


def check_there(model: nn.Module, files: Iterable[str | Path]) -> None:
    """Nothing when the files hold every tensor of the compressed layers of a model.

    A loader fills what is missing with random numbers and only warns. Names are compared by their
    ends, since loaders and savers rename what stands in front.

    Raises:
        CheckpointError: names the first tensor that is missing.
    """
    ends = _stored_ends(files)
    if ends is None:
        return
    for module, decision in decisions_in(model).items():
        short = ".".join(module.split(".")[-_DEPTH:])
        for stored in decision.tensors(*_features(model.get_submodule(module))).values():
            if f"{short}.{stored.parameter}" not in ends:
                raise CheckpointError(
                    f"{module}: the files have no {stored.parameter} of it, which {decision} "
                    "in config.json asks for; the two do not belong together"
                )


def not_there(names: Iterable[str], files: Iterable[str | Path]) -> list[str]:
    """Which of these tensors no file has; compared by their ends, as in :func:`check_there`."""
    ends = _stored_ends(files)
    return [
        n for n in names if ends is not None and ".".join(n.split(".")[-_DEPTH - 1 :]) not in ends
    ]


def check_integers(wanted: Mapping[str, tuple[int, ...]], files: Iterable[str | Path]) -> None:
    """Nothing when the files hold these tensors as int32 of these shapes, as far as files can tell.

    A loader casts other numbers to integers without a word.

    Raises:
        CheckpointError: names the first tensor that is missing or another one.
    """
    from safetensors import safe_open

    if lacking := not_there(wanted, files := [*files]):
        raise CheckpointError(
            f"{lacking[0]}: is in no file, and config.json asks for it; the two do not belong "
            "together"
        )
    for path in (Path(file) for file in files if _stored_ends([file]) is not None):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                end = next((each for each in wanted if f".{name}".endswith(f".{each}")), None)
                if end is None:
                    continue
                part = opened.get_slice(name)
                found = (part.get_dtype(), tuple(part.get_shape()))
                if found != ("I32", wanted[end]):
                    raise CheckpointError(
                        f"{printable(name)}: the file has {found[0]} of {found[1]}, config.json "
                        f"asks for I32 of {wanted[end]}; the two do not belong together"
                    )


def _stored_ends(files: Iterable[str | Path]) -> set[str] | None:
    """Names of all tensors in the files, and how those end; None where files cannot tell."""
    from safetensors import safe_open

    paths = [Path(file) for file in files]
    if not paths or any(path.suffix != ".safetensors" for path in paths):
        return None
    ends = set[str]()
    for path in paths:
        with safe_open(path, framework="pt") as opened:
            ends |= {end for name in opened.keys() for end in _ends(name)}  # noqa: SIM118
    return ends


def _features(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a compressed layer."""
    if isinstance(layer, Carrier):
        return layer.out_features, layer.in_features
    return features(layer)


_DEPTH = 3
"""Parts of a module's name that are compared: ``0.mlp.up_proj``."""


def _ends(name: str) -> Iterable[str]:
    """``0.mlp.up_proj.down.weight`` and everything that is shorter or longer."""
    parts = name.split(".")
    return (".".join(parts[at:]) for at in range(len(parts)))
