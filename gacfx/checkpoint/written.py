"""After writing: what lies on disk equals what is in memory, tensor by tensor, bit by bit."""

from pathlib import Path

import torch
from torch import Tensor, nn

from gacfx.checkpoint.sharing import declared_ties, memory_of
from gacfx.errors import CheckpointError


def check_written(model: nn.Module, folder: Path) -> None:
    """Nothing when the weight files in ``folder`` hold every tensor of the model, unchanged.

    One tensor is read at a time. A name that is missing is allowed where another name of the same
    memory is there: a loader ties it again. A weight that is on disk (offloaded) has no values in
    memory: its dtype and shape are compared, and it may be missing where it is declared as tied.

    Raises:
        CheckpointError: names the first tensor that differs or is missing.
    """
    state = model.state_dict()
    found = set()
    for file in sorted(folder.glob("*.safetensors")):
        found |= compare(state, file)
    shared, ties = {memory_of(name, state[name]) for name in found}, declared_ties(model)
    for name, tensor in state.items():
        tied = tensor.is_meta and ties.get(name) in found
        if name not in found and not tied and memory_of(name, tensor) not in shared:
            raise CheckpointError(f"{name}: was not written; the folder would not load")


def compare(state: dict[str, Tensor], file: Path) -> set[str]:
    """The names in one file, once all their tensors are found to be those of the model.

    Args:
        state: name -> tensor of the model.
        file: of safetensors.

    Raises:
        CheckpointError: names the first tensor that differs, or that the model has not.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - no mapping
            if name not in state:
                raise CheckpointError(f"{name}: was written, and the model has no such tensor")
            written, known = tensors.get_tensor(name), state[name]
            if written.dtype != known.dtype or not _same(written, known):
                raise CheckpointError(
                    f"{name}: {written.dtype} {tuple(written.shape)} was written, which is not "
                    f"the {known.dtype} {tuple(known.shape)} in memory"
                )
        return set(tensors.keys())


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal bits, where both have values: NaN equals itself, and 0.0 is not -0.0."""
    if one.shape != other.shape or other.is_meta:
        return one.shape == other.shape
    other = other.detach().cpu().contiguous()
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
