"""After writing: what lies on disk equals what is in memory, tensor by tensor, bit by bit."""

from pathlib import Path

import torch
from torch import Tensor, nn

from gacfx.errors import CheckpointError


def check_written(model: nn.Module, folder: Path) -> None:
    """Nothing when the weight files in ``folder`` hold every tensor of the model, unchanged.

    One tensor is read at a time. A name that is missing is allowed where another name of the same
    memory is there: a loader ties it again.

    Raises:
        CheckpointError: names the first tensor that differs or is missing.
    """
    state = model.state_dict()
    found = set()
    for file in sorted(folder.glob("*.safetensors")):
        found |= _compare(state, file)
    tied = {_memory(state[name]) for name in found}
    for name, tensor in state.items():
        if name not in found and _memory(tensor) not in tied:
            raise CheckpointError(f"{name}: was not written; the folder would not load")


def _compare(state: dict[str, Tensor], file: Path) -> set[str]:
    """The names in one file, once all their tensors are found to be those of the model."""
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
    """Equal bits: NaN equals itself, and 0.0 is not -0.0."""
    other = other.detach().cpu().contiguous()
    return one.shape == other.shape and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


def _memory(tensor: Tensor) -> object:
    return tensor.device, tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
