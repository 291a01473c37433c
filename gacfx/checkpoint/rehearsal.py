"""Before any work: would this model come back from a folder?

A loader builds the model that the configuration describes, and fills it by name. So the model is
compared with that skeleton, and ``save_pretrained`` is tried with one number in place of each
tensor: whatever it refuses, it refuses here, in milliseconds.
"""

import copy
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gacfx.checkpoint.sharing import memory_of, undeclared
from gacfx.core.names import one_line
from gacfx.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ChangedByLoading(UserWarning):
    """What is loaded again will differ from what was saved, in a way that can be lived with."""


_LIBRARIES = ("transformers.", "accelerate.", "torch.")
"""Hooks of these come again with the model."""

Shapes = dict[str, tuple[int, ...]]


def check_comes_back(model: "PreTrainedModel", skeleton: nn.Module) -> None:
    """Nothing when a folder written from ``model`` would be loaded as this very model.

    Args:
        model: dense or compressed, with its weights.
        skeleton: what a loader builds from the model's configuration; on the meta device.

    Raises:
        UnsupportedModel: adapters are attached, or the configuration describes another model.
        CheckpointError: transformers refuses to save it; carries its reason.
    """
    if attached := adapters(model):
        raise UnsupportedModel(
            f"{attached[0]}: an adapter is attached, and a compressed folder would hold it apart "
            "from its weight; call merge_and_unload() first"
        )
    _compare(shapes(model), shapes(skeleton), type(model).__name__)
    _warn_of_changes(model)
    try:
        with TemporaryDirectory() as folder, _without_progress():
            save_pretrained(model, folder, stand_ins(model))
    except Exception as error:  # transformers raises nearly everything
        raise CheckpointError(
            f"{type(model).__name__} cannot be saved: {one_line(error)}"
        ) from error


def save_pretrained(
    model: "PreTrainedModel", folder: Any, tensors: dict[str, Tensor] | None = None
) -> None:
    """``save_pretrained`` that writes what is in memory, and nothing else.

    Names and dtypes are those in memory: the original format of a checkpoint that was dequantized
    while it was loaded is not restored. The generation config is written as it was read:
    transformers reads what it refuses to write.

    Args:
        model: any Hugging Face model; it is left as it was.
        folder: to write to.
        tensors: instead of ``state_dict_to_save``.
    """
    with _lent(model) as generation:
        model.save_pretrained(
            folder,
            state_dict=tensors if tensors is not None else state_dict_to_save(model),
            save_original_format=False,
        )
        if generation is not None:
            generation.to_json_file(f"{folder}/generation_config.json", use_diff=True)


def state_dict_to_save(model: nn.Module) -> dict[str, Tensor]:
    """The state dict; what is shared without the model's saying so gets a copy for each name.

    transformers drops the further names of declared ties by itself and ties them again on loading.
    It refuses all other sharing, because a loader would fill the second name with random numbers.
    """
    state, copied = model.state_dict(), undeclared(model)
    return {name: t.clone() if name in copied else t for name, t in state.items()}


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


def _is_untied(model: Any) -> bool:
    """The configuration says that the head is the embedding, and the two are not one.

    transformers finds out when both are in the file and differ; other loaders believe the
    configuration.
    """
    if getattr(model.config, "tie_word_embeddings", False) is not True:
        return False
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    first, last = (getattr(part, "weight", None) for part in parts)
    if not isinstance(first, Tensor) or not isinstance(last, Tensor) or first.shape != last.shape:
        return False
    return memory_of("first", first) != memory_of("last", last) and not (
        first.is_meta or last.is_meta
    )


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


@contextmanager
def _lent(model: Any) -> Iterator[Any]:
    """Inside, the model has a copy of its config, and a generation config that can be written.

    Yields its own generation config, or None.
    """
    from transformers import GenerationConfig

    config, generation = model.config, getattr(model, "generation_config", None)
    model.config = copy.deepcopy(config)  # saving writes dtype and class into it
    if _is_untied(model):
        model.config.tie_word_embeddings = False
    if generation is not None:
        model.generation_config = GenerationConfig()
    try:
        yield generation
    finally:
        model.config = config
        if generation is not None:
            model.generation_config = generation
