"""Tensors as bytes, to be sent to another process or machine.

Pools of processes send a tensor as a handle to shared memory, and a few thousand of those are more
files than a process may have open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from gacfx.core.stored_moments import placed


@dataclass(frozen=True)
class TensorBytes:
    """Tensors by name: bytes of a safetensors file, and which names had the same tensor."""

    data: bytes
    same: dict[str, str]
    """Name -> name that its tensor has in the bytes."""

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "TensorBytes":
        """The values of these tensors, wherever they are."""
        from safetensors.torch import save

        first: dict[int, str] = {}
        same = {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
        own, seen = dict[str, Tensor](), set[int]()
        for name in first.values():
            tensor = tensors[name].detach().cpu().contiguous()
            at = tensor.untyped_storage().data_ptr()
            # safetensors takes no two views of one storage.
            own[name] = tensor.clone() if at in seen else tensor
            seen.add(at)
        return TensorBytes(save(own), same)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, on the CPU; names that had the same one have the same one again."""
        from safetensors.torch import load

        own = {name: placed(tensor) for name, tensor in load(self.data).items()}
        return {name: own[stored] for name, stored in self.same.items()}
