"""A model that keeps no keys and values, however its forward is asked for that.

forward(input_ids, use_cache)     by name
forward(input_ids, **kwargs)      through the configurations of its modules, which hold the
                                  default; one that knows no such argument is given none
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def without_cache(model: Any) -> dict[str, bool]:
    """The argument that asks for no cache, where the forward of a model names it."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}


@contextmanager
def cacheless(model: nn.Module) -> Iterator[None]:
    """Inside, no module of a model makes a cache unless it is asked; afterwards as before."""
    configs = {id(each): each for each in map(_config, model.modules()) if _caches(each)}
    for config in configs.values():
        config.use_cache = False
    try:
        yield
    finally:
        for config in configs.values():
            config.use_cache = True


def _config(module: nn.Module) -> Any:
    return getattr(module, "config", None)


def _caches(config: object) -> bool:
    return getattr(config, "use_cache", None) is True
