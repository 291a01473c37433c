"""Gradients of weights in a store, gathered once."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields

from torch import Tensor

from gacfx.core.store import Store
from gacfx.core.stored_moments import placed
from gacfx.core.taylor import TaylorSums

Gradients = Mapping[str, TaylorSums]
"""Module -> gradients of its weight."""
_TENSORS = tuple(field.name for field in fields(TaylorSums))


def kept_gradients(
    store: Store | None, name: str, modules: Collection[str], make: Callable[[], Gradients]
) -> Gradients:
    """Gradients that are gathered once, where the store has room for them.

    Args:
        store: where they are kept; None to gather them again.
        name: of the set.
        modules: whose gradients are wanted.
        make: gathers them.
    """
    if store is None:
        return make()
    if name not in store or not {*modules} <= {key.partition("|")[0] for key in store.keys(name)}:
        made = make()
        tensors = gradients_tensors(made)
        if sum(tensor.nbytes for tensor in tensors.values()) > store.room():
            return made
        store.put(name, tensors)
    return {
        module: TaylorSums(**{x: placed(store.get(name, f"{module}|{x}")) for x in _TENSORS})
        for module in modules
    }


def gradients_tensors(gradients: Gradients) -> dict[str, Tensor]:
    """What a store keeps of them."""
    return {
        f"{module}|{name}": getattr(found, name)
        for module, found in gradients.items()
        for name in _TENSORS
    }
