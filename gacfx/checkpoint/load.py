"""Read models from disk or hub: no code, no pickle, no random weights, no NaN."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gacfx.checkpoint.folders import check_files, shard_files
from gacfx.checkpoint.rehearsal import adapters
from gacfx.checkpoint.stored import check_listed, check_stored
from gacfx.core.config_json import METHOD, read_config_json
from gacfx.core.files.reading import read_table
from gacfx.core.finite import not_finite
from gacfx.core.model_class import causal_class
from gacfx.core.names import one_line
from gacfx.errors import CheckpointError, GacError, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = "model.safetensors"
_UNUSED = "_gacfx_unused_weights"
_INDEX = "model.safetensors.index.json"
_GENERATION = "generation_config.json"
_WHERE = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "proxies")
"""Options of from_pretrained that say where the files are."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.*",
    "*.tiktoken",
)


class UnusedWeights(UserWarning):
    """A checkpoint holds weights that the model does not take."""


class AdapterBeside(UserWarning):
    """A folder holds an adapter beside the weights of its model."""


def load_checkpoint(folder: str | Path, **kwargs: Any) -> "PreTrainedModel":
    """The compressed model in ``folder``: ``from_pretrained`` that refuses what is not whole.

    Args:
        folder: written by ``save_checkpoint``, or the hub name of such a folder.
        kwargs: for ``from_pretrained`` (``dtype``, ``device_map`` ...).

    Raises:
        CheckpointError: not a folder that gacfx wrote, or it cannot be read whole.
        UnsupportedModel: transformers has no such causal language model.
    """
    if _is_local(folder):
        block = _check_folder(Path(folder)).get("quantization_config")
        method = block.get("quant_method") if isinstance(block, dict) else None
        if method != METHOD:
            raise CheckpointError(
                f"{folder}: is not compressed by gacfx (quant_method {method!r}); "
                "load it with transformers, or with load_dense"
            )
    return _load(folder, **{"dtype": "auto", **kwargs})


def load_dense(
    path_or_name: str | Path, *, dtype: torch.dtype | str | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """The model and its tokenizer, in eval mode, on the CPU; a gacfx checkpoint loads as well.

    Args:
        path_or_name: a Hugging Face folder, or a hub name.
        dtype: of the weights; None keeps that of the checkpoint.

    Returns:
        The model; its tokenizer, or None where a folder has none.

    Raises:
        CheckpointError: weights that are pickled, missing, truncated, incomplete, NaN or infinite;
            no config; a model that brings its own code.
        UnsupportedModel: transformers has no such causal language model.
    """
    if _is_local(path_or_name):
        _check_folder(Path(path_or_name))
    model = _load(path_or_name, dtype=dtype or "auto")
    return model, load_tokenizer(path_or_name)


def stored_bytes(path_or_name: str | Path) -> int | None:
    """Bytes of the weight files of a checkpoint folder, once it is known to be whole; None for a
    name of the hub, whose files are not looked for.

    Raises:
        CheckpointError: there is no such folder, or it has no whole weights or no config.
    """
    if not _is_local(path_or_name):
        return None
    _check_folder(Path(path_or_name))
    return sum(file.stat().st_size for file in _weight_files(Path(path_or_name)))


def check_finite(model: nn.Module) -> None:
    """Nothing when no parameter holds NaN or infinity; parameters without values are skipped.

    Raises:
        CheckpointError: names the first such parameter.
    """
    if name := not_finite(model):
        raise CheckpointError(f"{name}: NaN or infinite values; check the checkpoint")


def _load(source: str | Path, **kwargs: Any) -> "PreTrainedModel":
    if not isinstance(source, str | Path):
        raise CheckpointError(
            f"a {type(source).__name__} is no checkpoint; give a folder or a name"
        )
    if kwargs.pop("trust_remote_code", False):
        raise CheckpointError(f"{source}: gacfx never runs code from a checkpoint")
    kwargs |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    kwargs["ignore_mismatched_sizes"] = True  # they are refused below, by name
    try:
        model, info = _loader(source, kwargs).from_pretrained(str(source), **kwargs)
    except (GacError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises nearly everything
        raise _explained(source, error) from error
    _refuse(source, "missing and would be random", info["missing_keys"])
    shapes = {f"{n} {tuple(a)} for {tuple(b)}" for n, a, b in info["mismatched_keys"]}
    _refuse(source, "of another shape than the model needs", shapes)
    check_finite(model)
    _note_unused(source, model, info["unexpected_keys"])
    _note_adapter(source, model)
    return model  # type: ignore[no-any-return]


def _loader(source: str | Path, kwargs: dict[str, Any]) -> Any:
    """The class to load: what a folder was saved from, not only the language model in it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    where = {name: each for name, each in kwargs.items() if name in _WHERE}
    config = AutoConfig.from_pretrained(str(source), trust_remote_code=False, **where)
    return causal_class(config) or AutoModelForCausalLM


def unused_weights(model: nn.Module) -> tuple[str, ...]:
    """Weights of the checkpoint that the model has no use for, by name; those of its loading."""
    return getattr(model, _UNUSED, ())


def _note_unused(source: str | Path, model: nn.Module, names: Iterable[str]) -> None:
    """Remember, and say once, which weights of a checkpoint are lost when the model is saved."""
    unused = tuple(sorted(names))
    setattr(model, _UNUSED, unused)
    if unused:
        shown = ", ".join(unused[:4]) + (" ..." if len(unused) > 4 else "")
        warnings.warn(
            f"{source}: {type(model).__name__} does not use {len(unused)} weights of the "
            f"checkpoint, and what is made of it will not have them: {shown}",
            UnusedWeights,
            stacklevel=4,
        )


def _note_adapter(source: str | Path, model: nn.Module) -> None:
    """Say what became of an adapter beside the weights: it depends on what is installed."""
    if (Path(source) / "adapter_config.json").exists():
        found = "is attached" if adapters(model) else "is left out, because PEFT is not installed"
        warnings.warn(
            f"{source}: the adapter beside its weights (adapter_config.json) {found}; merge it, or "
            "move it away",
            AdapterBeside,
            stacklevel=4,
        )


def _refuse(source: str | Path, why: str, weights: set[str]) -> None:
    if weights:
        shown = ", ".join(sorted(weights)[:8]) + (" ..." if len(weights) > 8 else "")
        raise CheckpointError(f"{source}: {len(weights)} weights are {why}: {shown}")


def _explained(source: str | Path, error: Exception) -> GacError:
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return CheckpointError(
            f"{source}: brings its own modelling code, and gacfx never runs code from a checkpoint"
        )
    if "model type" in text or "Unrecognized" in text:
        return UnsupportedModel(f"{source}: {one_line(error)}")
    return CheckpointError(f"{source}: cannot be loaded: {one_line(error)}")


def load_tokenizer(source: str | Path) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a checkpoint; None where a folder has none.

    Raises:
        CheckpointError: its files cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(source)
    if _is_local(source) and not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        return None
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{source}: its tokenizer cannot be loaded: {type(error).__name__}: {text}; copy the "
            "tokenizer's files again, or remove them to load the model alone"
        ) from error


def _is_local(source: str | Path) -> bool:
    """A folder, or what can only be one: hub names are ``name`` or ``owner/name``."""
    text = str(source)
    return (
        isinstance(source, Path)
        or os.path.exists(text)  # False for what no path can be
        or text.startswith((".", "~"))
        or Path(text).is_absolute()
        or text.count("/") > 1
    )


def _check_folder(folder: Path) -> dict[str, Any]:
    """config.json, when the folder has one and every weight file is whole."""
    if not folder.is_dir():
        why = "is a file; name its folder" if folder.exists() else "there is no such folder"
        raise CheckpointError(f"{folder}: {why}")
    check_files(folder)
    config = read_config_json(folder / "config.json")
    if (folder / _GENERATION).exists():
        read_table(folder / _GENERATION)  # transformers takes one that it cannot read for none
    files = _weight_files(folder)
    for file in files:
        check_stored(file, config)
    if files != [folder / _WEIGHTS]:
        check_listed(folder / _INDEX, read_table(folder / _INDEX)["weight_map"])
    return config


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).exists():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).exists():
        index = read_table(folder / _INDEX)
        files = shard_files(folder / _INDEX, index.get("weight_map"))
        if not isinstance(index.get("metadata"), dict):  # transformers reads no other
            raise CheckpointError(f"{folder / _INDEX}: has no metadata; copy it again, or add {{}}")
        return files
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        raise CheckpointError(
            f"{folder}: has pickled weights only, and unpickling runs code; "
            "convert to safetensors: load it with transformers and save_pretrained it again"
        )
    raise CheckpointError(f"{folder}: has no {_WEIGHTS}; are the weights elsewhere?")
