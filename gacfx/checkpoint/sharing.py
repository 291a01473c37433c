"""Which tensors of a model are one and the same, and what a loader knows of it."""

from collections.abc import Hashable

from torch import Tensor, nn


def memory_of(name: str, tensor: Tensor) -> Hashable:
    """What a tensor shares with others; its own name where it has no memory of its own.

    Weights on disk (offloaded) and empty buffers have none, and all of those have the address 0.
    """
    if tensor.is_meta or tensor.numel() == 0:
        return name
    return tensor.device, tensor.untyped_storage().data_ptr()


def declared_ties(model: nn.Module) -> dict[str, str]:
    """Name -> the name that a loader ties it to, as the model's class says."""
    keys = getattr(model, "all_tied_weights_keys", None)
    return dict(keys) if isinstance(keys, dict) else {}


def undeclared(model: nn.Module) -> set[str]:
    """Names that share memory with an earlier one, and no loader would tie them again."""
    ties = declared_ties(model)
    declared = {*ties.keys(), *ties.values()}
    seen: set[Hashable] = set()
    found = set()
    for name, tensor in model.state_dict().items():
        memory = memory_of(name, tensor)
        if memory in seen and name not in declared:
            found.add(name)
        seen.add(memory)
    return found
