"""Factors that live in a store: written as they are made, read from there as they are used."""

from dataclasses import replace

import torch

from gacfx.core.materialise import Factors
from gacfx.core.store import Store

_ORDER = "outputs:order"


def keep(
    store: Store | None, module: str, made: Factors, device: torch.device | None = None
) -> Factors:
    """The same factors, in a store.

    Args:
        store: a folder gives tensors that lie in its files, so that they take memory only while
            they are used; None for factors that stay as they are.
        module: that they are for; later factors of it take their place in the store.
        made: of any decision.
        device: where the kept ones are to be; None for where they were made.
    """
    if store is None or not made.tensors:
        return made
    name = f"factors.{module}"
    order = {} if made.order is None else {_ORDER: made.order}
    device = device or next(iter(made.tensors.values())).device
    store.put(name, {key: each.detach().cpu() for key, each in {**made.tensors, **order}.items()})
    tensors = {key: store.get(name, key).to(device) for key in made.tensors}
    own = None if made.order is None else store.get(name, _ORDER).to(device)
    return replace(made, tensors=tensors, order=own, lent=True)
