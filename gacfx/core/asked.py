"""What a door is given: refused before any work where it is not what the door can use."""

from collections.abc import Iterable
from math import isnan
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.sites import Workload
from gacfx.errors import PlanError, UnsupportedModel


def check_module(model: object) -> None:
    """Nothing when ``model`` is a module itself, with parameters, and no wrapper of one.

    Raises:
        UnsupportedModel: names what to give instead.
    """
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"{name} is no model; {_remedy(model)}")
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        raise UnsupportedModel(f"{name} spreads a model over devices; give its .module")
    if hasattr(model, "_orig_mod"):
        raise UnsupportedModel(
            f"{name} is a compiled model; give its ._orig_mod, and compile after"
        )
    if any(cls.__name__ == "PeftModel" for cls in type(model).__mro__):
        raise UnsupportedModel(
            f"{name}: an adapter is attached around the model; call merge_and_unload() first, or "
            "give its get_base_model()"
        )
    if next(model.parameters(), None) is None:
        raise UnsupportedModel(f"{name} has no parameters; give a Hugging Face model in eval mode")


def _remedy(given: object) -> str:
    if isinstance(getattr(given, "model", None), nn.Module):
        return "give its .model"
    if isinstance(given, str | Path):
        return "read it with gacfx.load, and give the model"
    return "give a Hugging Face model in eval mode"


def check_asked(
    *,
    search: object = DEFAULT_SEARCH,
    workload: object = None,
    skip: object = (),
    seed: object = 0,
    max_loss: Any = 0.0,
    force: object = False,
) -> None:
    """Nothing when the arguments of a door are of the kind that it takes.

    Raises:
        PlanError: names the first that is not, and what to give.
    """
    if not isinstance(search, Search):
        raise PlanError(f"search {search!r}: give gacfx.Search(...), for example Search(align=8)")
    if not isinstance(workload, Workload | None):
        raise PlanError(f"workload {workload!r}: give gacfx.Workload(batch, seq, mode, execution)")
    if isinstance(skip, str) or not (isinstance(skip, Iterable) and all(map(_is_text, skip))):
        raise PlanError(f"skip {skip!r}: give a tuple of patterns, for example ('*.down_proj',)")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise PlanError(f"seed {seed!r}: give a whole number")
    if isinstance(max_loss, bool) or not isinstance(max_loss, int | float) or isnan(max_loss):
        raise PlanError(f"max_loss {max_loss!r}: give nats per token, for example 1.0")
    if not isinstance(force, bool):
        raise PlanError(f"force {force!r}: give True or False")


def _is_text(item: object) -> bool:
    return isinstance(item, str)
