"""Which modules share parameters, so that a plan leaves them alone."""

from collections import defaultdict
from collections.abc import Hashable

from torch import nn


def tied_modules(model: nn.Module) -> dict[str, str]:
    """Name of each module that shares a parameter -> a module that it shares it with.

    Three ways of sharing count: one parameter (or one whole module) under two names, two
    parameters with one memory, and what a Hugging Face model says of itself (its skeleton is not
    tied yet while a checkpoint loads). Sorted by name.
    """
    owners: dict[Hashable, set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[_memory(parameter)].add(_owner(name))
    declared = getattr(model, "all_tied_weights_keys", None)
    for one, other in declared.items() if isinstance(declared, dict) else ():
        owners["declared", one] = {_owner(one), _owner(other)}
    ties: dict[str, str] = {}
    for group in owners.values():
        for name in sorted(group):
            for other in sorted(group - {name}):
                ties.setdefault(name, other)
    return dict(sorted(ties.items()))


def _owner(parameter_name: str) -> str:
    return parameter_name.rpartition(".")[0]


def _memory(parameter: nn.Parameter) -> Hashable:
    # Fake, distributed and empty tensors have no address to compare.
    if parameter.is_meta or type(parameter) is not nn.Parameter or parameter.numel() == 0:
        return id(parameter)
    return parameter.device, parameter.data_ptr()
