"""Before any work: would this model come back from a folder?

A loader builds the model that the configuration describes, and fills it by name. So the model is
compared with that skeleton, and ``save_pretrained`` is tried with one number in place of each
tensor: whatever it refuses, it refuses here, in milliseconds.
"""

import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod

from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.checkpoint.sharing import memory_of, undeclared
from gacfx.core.names import one_line
from gacfx.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Shapes = dict[str, tuple[int, ...]]

_LIBRARIES = ("transformers.", "accelerate.", "torch.", "gacfx.")
"""Hooks of these come again with the model."""


class ChangedByLoading(UserWarning):
    """What is loaded again will differ from what was saved, in a way that can be lived with."""


def check_comes_back(model: "PreTrainedModel", skeleton: nn.Module) -> None:
    """Nothing when a folder written from ``model`` would be loaded as this very model.

    Args:
        model: dense or compressed, with its weights.
        skeleton: what a loader builds from the model's configuration; on the meta device.

    Raises:
        UnsupportedModel: adapters, masks or parametrizations are attached, a part is compiled, or
            the configuration describes another model.
        CheckpointError: transformers refuses to save it; carries its reason.
    """
    if attached := _attached(model):
        raise UnsupportedModel(attached)
    _compare(shapes(model), shapes(skeleton), type(model).__name__)
    _warn_of_changes(model)
    try:
        with TemporaryDirectory() as folder, _without_progress():
            save_pretrained(model, folder, tensors=stand_ins(model))
    except Exception as error:  # transformers raises nearly everything
        raise CheckpointError(
            f"{type(model).__name__} cannot be saved: {one_line(error)}"
        ) from error


def _attached(model: nn.Module) -> str:
    """What other programs put around a weight, so that a folder would not hold it; or empty."""
    if adapted := adapters(model):
        return (
            f"{adapted[0]}: an adapter is attached, and a compressed folder would hold it apart "
            "from its weight; call merge_and_unload() first"
        )
    for name, module in model.named_modules():
        if name.endswith("._orig_mod"):
            return (
                f"{name.removesuffix('._orig_mod')} is compiled, which changes the names of its "
                f"weights; put {name} in its place, and compile after"
            )
        if is_parametrized(module):
            return (
                f"{name}: is parametrized, and a folder would hold what its weight is computed "
                "from; call torch.nn.utils.parametrize.remove_parametrizations first"
            )
        if any(isinstance(h, BasePruningMethod) for h in module._forward_pre_hooks.values()):
            return (
                f"{name}: a pruning mask is attached, and a folder would hold it apart from its "
                "weight; call torch.nn.utils.prune.remove first"
            )
    for name, held in model.state_dict().items():
        if not isinstance(held, Tensor):
            return (
                f"{name}: is a {type(held).__name__} and no tensor, as another program keeps its "
                "layers; start from the model before that"
            )
    return ""


def stand_ins(model: nn.Module) -> dict[str, Tensor]:
    """One number in place of each tensor that would be saved; what is shared stays shared."""
    made: dict[Hashable, Tensor] = {}
    copied = undeclared(model)
    return {
        name: made.setdefault(
            name if name in copied else memory_of(name, tensor), torch.zeros(1, dtype=tensor.dtype)
        )
        for name, tensor in model.state_dict().items()
    }


def adapters(model: nn.Module) -> list[str]:
    """Names of the modules that an adapter of PEFT sits in."""
    return [
        name
        for name, module in model.named_modules()
        if any(cls.__name__ == "BaseTunerLayer" for cls in type(module).__mro__)
    ]


def shapes(model: nn.Module) -> Shapes:
    """Name -> shape of everything in the state dict."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _compare(found: Shapes, expected: Shapes, name: str) -> None:
    remedy = (
        "mend the configuration (num_hidden_layers, vocab_size ...) so that it describes the model"
    )
    lacking, foreign = (
        sorted(expected.keys() - found.keys()),
        sorted(found.keys() - expected.keys()),
    )
    for names, why in (
        (lacking, "the configuration has it, the model has not"),
        (foreign, "the model has it, its configuration has not"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UnsupportedModel(
                f"{names[0]}{more}: {why}, so a saved {name} would not come back; {remedy}"
            )
    for key, shape in found.items():
        if shape != expected[key]:
            raise UnsupportedModel(
                f"{key}: is {shape}, the configuration asks for {expected[key]}, so a saved {name} "
                f"would not come back; {remedy}"
            )


def _warn_of_changes(model: "PreTrainedModel") -> None:
    """Say what a loader will do otherwise, though all names and shapes fit."""
    kept = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
    main = model.dtype
    recast = [
        name
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.dtype != main
        if not any(part in name for part in kept)
    ]
    if recast:
        more = f" and {len(recast) - 1} more" if len(recast) > 1 else ""
        warnings.warn(
            f"{recast[0]}{more}: not {main} as the rest, and a loader casts all weights to one "
            "dtype, unless it is told another",
            ChangedByLoading,
            stacklevel=3,
        )
    if lost := _not_in_a_folder(model):
        warnings.warn(
            f"{lost}; no folder holds that, so what is loaded will compute something else",
            ChangedByLoading,
            stacklevel=3,
        )
    if not type(model).__module__.startswith("transformers."):
        warnings.warn(
            f"{type(model).__name__} is no class of transformers: its own code is not saved, and "
            "the folder is loaded as the class that its configuration names",
            ChangedByLoading,
            stacklevel=3,
        )


def _not_in_a_folder(model: nn.Module) -> str:
    """The first thing that changes what the model computes and that is in no file; or empty."""
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if any(not str(getattr(hook, "__module__", "")).startswith(_LIBRARIES) for hook in hooks):
            return f"{name or 'the model'}: has forward hooks"
        if "forward" in vars(module) and not hasattr(module, "_hf_hook"):
            return f"{name or 'the model'}: has a forward of its own"
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and buffer.itemsize < 4:
            return (
                f"{name}: is {buffer.dtype}, as Module.to makes it, and transformers has it in "
                "torch.float32 (load the model with dtype=... instead)"
            )
    return ""


@contextmanager
def _without_progress() -> Iterator[None]:
    """No bar for files that nobody will see."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
