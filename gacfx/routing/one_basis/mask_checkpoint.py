"""The state of a training of masks in one file: whole or not at all, and only for the same work.

masks.safetensors    parameter.bias, mean.bias, square.bias, ..., losses
its metadata         format, step, what the work is of, sha256 of all tensors
"""

# S steps that were done

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gacfx.core.files.atomic import making, replacing
from gacfx.core.files.reading import check_regular
from gacfx.core.files.targets import writing
from gacfx.core.names import printable
from gacfx.core.tensor_file import save_tensors
from gacfx.errors import CheckpointError

FORMAT = "gacfx masks 1"
_PARTS = ("parameter", "mean", "square")


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A training between two steps; all tensors on the CPU."""

    parameters: Mapping[str, Tensor]
    means: Mapping[str, Tensor]
    """Running means of the gradients, by parameter."""
    squares: Mapping[str, Tensor]
    """Running means of their squares."""
    losses: tuple[float, ...]
    """Of each step that was done."""


def save_state(path: Path, key: Mapping[str, str], state: TrainingState) -> None:
    """Write the file, in the place of the one before.

    Args:
        path: of the file; missing folders are made.
        key: what the work is of: name -> digest or number, as text.
        state: between two steps.

    Raises:
        CheckpointError: it cannot be written.
    """
    sets = (state.parameters, state.means, state.squares)
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, found in zip(_PARTS, sets, strict=True)
        for name, tensor in found.items()
    }
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    metadata = {"format": FORMAT, "key": json.dumps(dict(key)), "sha256": digest_of(tensors)}
    with writing(path), making(path.parent), replacing(path) as partial:
        save_tensors(partial, tensors, metadata)


def load_state(path: Path, key: Mapping[str, str]) -> TrainingState | None:
    """The state in a file; None where there is no file.

    Args:
        path: of the file.
        key: as it was saved with.

    Raises:
        CheckpointError: the file is harmed or another one, or of other work; says which part.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error}; remove it to begin anew"
        ) from error
    if metadata.get("format") != FORMAT:
        said = printable(repr(metadata.get("format")), 60)
        raise CheckpointError(f"{path}: format {said}; this gacfx reads {FORMAT!r}; name another")
    if metadata.get("sha256") != digest_of(tensors):
        raise CheckpointError(f"{path}: its tensors are harmed; remove it to begin anew")
    _check_key(path, metadata.get("key", ""), key)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, parameter = name.partition(".")
        if part in parts:
            parts[part][parameter] = tensor
    losses = tuple(tensors["losses"].tolist())
    return TrainingState(parts["parameter"], parts["mean"], parts["square"], losses)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the names, dtypes, shapes and bytes of tensors, whatever their order."""
    return digest_items(sorted(tensors.items()))


def digest_items(items: Iterable[tuple[str, Tensor]]) -> str:
    """The same of pairs in the order that they come in, one tensor at a time."""
    mixed = hashlib.sha256()
    for name, tensor in items:
        stored = tensor.detach().cpu().contiguous()
        mixed.update(f"{name} {stored.dtype} {tuple(stored.shape)}\n".encode())
        mixed.update(stored.flatten().view(torch.uint8).numpy().data)
    return mixed.hexdigest()


def _check_key(path: Path, text: str, key: Mapping[str, str]) -> None:
    try:
        there = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: does not say what it is of; name another") from error
    if not isinstance(there, dict):
        raise CheckpointError(f"{path}: does not say what it is of; name another")
    for name in sorted(there.keys() | key.keys()):
        old, new = there.get(name), key.get(name)
        if old != new:
            said, wanted = (printable(repr(one), 60) for one in (old, new))
            raise CheckpointError(
                f"{path}: is of other work: its {printable(str(name), 40)} is {said}, and {wanted} "
                "is asked for; name another file, or remove this one to begin anew"
            )
