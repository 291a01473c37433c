"""Weights that another program holds, or stores, as something else than numbers of the model."""

from collections import Counter
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gacfx.core.config_json import METHOD


def held_otherwise(model: nn.Module) -> dict[str, str]:
    """Parameter -> what holds it, ``Int8Tensor of torchao``; those that are plain are not named."""
    return {
        name: f"{type(parameter).__name__} of {type(parameter).__module__.partition('.')[0]}"
        for name, parameter in model.named_parameters()
        if is_traceable_wrapper_subclass(parameter)
    }


def declared(config: object) -> str:
    """The quantization that a configuration declares, such as ``gptq``; empty for none or ours."""
    block = getattr(config, "quantization_config", None)
    own = isinstance(block, Mapping)
    method = block.get("quant_method", METHOD) if own else getattr(block, "quant_method", METHOD)
    return "" if method == METHOD else str(getattr(method, "value", method))


def stored_text(model: nn.Module) -> str:
    """How weights are held, for a person: ``15 of 21 as Int8Tensor of torchao``; or empty."""
    found, whole = Counter(held_otherwise(model).values()), len(list(model.parameters()))
    held = ", ".join(f"{number} of {whole} as {kind}" for kind, number in sorted(found.items()))
    return held or declared_text(getattr(model, "config", None))


def declared_text(config: object) -> str:
    """What a configuration declares, for a person: ``gptq in config.json``; or empty."""
    method = declared(config)
    return f"{method} in config.json" if method else ""


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor is made of: codes and scales, or it alone."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from parts_of(getattr(tensor, name))
