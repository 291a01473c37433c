"""Skeletons: a model without weights, on the meta device, from its configuration alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gacfx.core.config_json import (
    check_sizes,
    no_config,
    read_block,
    read_blocks,
    read_config_json,
    read_router,
)
from gacfx.core.model_class import named_class
from gacfx.errors import CheckpointError, GacError, UnsupportedModel
from gacfx.graph.compat import without_weight_init
from gacfx.modules.install import skeleton_
from gacfx.modules.routing_hooks import attach_empty_

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

CONFIGS = Path(__file__).parent / "configs"
"""Shapes of well-known models, so that they can be inspected without network or weights."""


def known_configs() -> tuple[str, ...]:
    """Names of the configurations that come with gacfx."""
    return tuple(sorted(p.stem for p in CONFIGS.glob("*.json")))


def read_config(source: str | Path) -> "PretrainedConfig":
    """The configuration behind a folder, a config.json, a name that gacfx knows, or a hub name.

    Raises:
        CheckpointError: nothing is there, it is no readable configuration, or that of no model that
            can be.
        UnsupportedModel: transformers does not know the architecture.
    """
    from transformers import AutoConfig

    path = Path(source)
    bundled = CONFIGS / f"{source}.json"
    try:
        if path.suffix == ".json" and path.is_file():
            return _from_dict(read_config_json(path), str(path))
        if not path.exists() and bundled.is_file():
            return _from_dict(json.loads(bundled.read_text(encoding="utf-8")), str(source))
        if path.exists() and not (path / "config.json").is_file():
            raise CheckpointError(f"{source}: {no_config(path)}")
        if path.exists():
            read_config_json(path / "config.json")
        config: PretrainedConfig = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        return config
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{source}: not JSON: {error}") from error
    except ValueError as error:  # what transformers raises for an architecture it does not know
        if "trust_remote_code" in str(error):
            raise UnsupportedModel(
                f"{source}: brings its own modelling code, and gacfx never runs code from a "
                "checkpoint"
            ) from error
        raise UnsupportedModel(f"{source}: {_short(error)}") from error
    except OSError as error:
        names = ", ".join(known_configs())
        raise CheckpointError(
            f"{source}: no such folder, config.json or model name ({_short(error)}). "
            f"Without network these names work: {names}"
        ) from error
    except GacError:
        raise
    except Exception as error:  # a wrong entry: transformers raises nearly everything
        raise CheckpointError(
            f"{source}: its configuration cannot be read: {_short(error)}; mend it or copy it again"
        ) from error


def _from_dict(raw: Any, where: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise CheckpointError(f"{where}: no Hugging Face configuration (it has no model_type)")
    raw = dict(raw)
    config: PretrainedConfig = AutoConfig.for_model(raw.pop("model_type"), **raw)
    return config


def skeleton(config: "PretrainedConfig", dtype: torch.dtype | None = None) -> "PreTrainedModel":
    """The model of ``config`` on the meta device, in eval mode, without memory for weights.

    The class that the configuration names, where transformers has it and it fits, else the causal
    language model of its architecture. ``dtype`` defaults to the configuration's own, else
    bfloat16.

    Raises:
        UnsupportedModel: the architecture cannot be built.
        CheckpointError: sizes that no model has, or a gacfx block that cannot be read.
    """
    check_sizes(config.to_dict(), config.model_type)
    block = getattr(config, "quantization_config", None)
    block = block if isinstance(block, dict) else getattr(block, "__dict__", None)
    decisions, states = read_block(block), read_blocks(block)
    dtype = dtype or _dtype(config)
    try:
        with torch.device("meta"), without_weight_init():
            model: PreTrainedModel = _build(config).to(dtype)
        if model._can_set_experts_implementation():
            model.set_experts_implementation("grouped_mm")  # the eager one cannot be exported
    except Exception as error:  # a wrong entry: models raise nearly everything
        raise UnsupportedModel(f"{config.model_type}: cannot be built: {_short(error)}") from error
    if decisions or states:
        skeleton_(model, decisions, states)
    if (router := read_router(block)) is not None:
        attach_empty_(model, router)
    model.train(False)
    return model


def _build(config: "PretrainedConfig") -> Any:
    import transformers

    cls = named_class(config)
    if cls is not None:
        return cls(config)
    return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _dtype(config: "PretrainedConfig") -> torch.dtype:
    found = getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def _short(error: BaseException) -> str:
    """The first line, and the kind of error where that tells nothing (``'x'`` of a KeyError)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (lines[1] if "error for" in lines[0] and lines[1:] else lines[0]) if lines else ""
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return f"{kind}{said or 'no message'}"[:200]
