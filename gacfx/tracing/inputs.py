"""Arguments for one forward of a model that nobody gave any: tokens, an image, or sound."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.caches import without_cache
from gacfx.errors import CaptureError

BATCH, SEQ = 3, 17
"""Capture sizes: odd, distinct primes."""

_Takes = Mapping[str, Parameter]


def example_inputs(model: nn.Module, batch: int = BATCH, seq: int = SEQ) -> dict[str, Any]:
    """Keyword arguments for one forward without cache, on the model's device.

    Token ids [batch, seq], an image for each of the batch, the features of a sound (Whisper), or a
    sound that its convolutions make ``seq`` frames of (wav2vec 2.0).

    Raises:
        CaptureError: the model is no Hugging Face model, so its inputs are not known, or takes
            something else.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "main_input_name"):
        raise CaptureError(f"{type(model).__name__} is no Hugging Face model; pass inputs={{...}}")
    first = next(model.parameters(), None)
    if first is None:
        raise CaptureError(f"{type(model).__name__} has no parameters; give the model itself")
    takes = signature(model.forward).parameters
    main = _main(model, takes)
    ids = torch.zeros(batch, seq, dtype=torch.long, device=first.device)
    found: dict[str, Any] = {"input_ids": ids}
    if main != "input_ids":
        try:
            made = _MAKES[main](config, batch, seq).to(first.device, first.dtype)
        except AttributeError as error:
            raise _unknown(model, main) from error
        found = {main: made, **({"input_ids": ids} if _needs(takes, "input_ids") else {})}
        if main == "pixel_values":
            return found
    if getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = ids.clone()
    return found | without_cache(model)


def _main(model: nn.Module, takes: _Takes) -> str:
    """The argument that a forward begins with: the model does not always say the one it takes."""
    said = str(model.main_input_name)
    named = [name for name in takes if takes[name].kind is Parameter.POSITIONAL_OR_KEYWORD]
    main = said if said in takes or not named else named[0]
    if main in _MAKES:
        return main
    if main != "input_ids" and named and "input_ids" not in takes:
        raise _unknown(model, main)
    return "input_ids"


def _unknown(model: nn.Module, main: str) -> CaptureError:
    return CaptureError(
        f"{type(model).__name__}: its forward begins with {main}, of sizes that gacfx does not "
        "know; pass inputs={...}"
    )


def _needs(takes: _Takes, name: str) -> bool:
    return name in takes and takes[name].default is Parameter.empty


def _image(config: Any, batch: int, seq: int) -> Tensor:
    """[batch, channels, height, width]; of a part, where a configuration has parts."""
    del seq
    about = getattr(config, "vision_config", config)
    size = about.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return torch.zeros(batch, getattr(about, "num_channels", 3), height, width)


def _features(config: Any, batch: int, seq: int) -> Tensor:
    """[batch, mel bins, frames]: as many frames as two convolutions make all positions of."""
    del seq
    return torch.zeros(batch, config.num_mel_bins, 2 * config.max_source_positions)


def _sound(config: Any, batch: int, seq: int) -> Tensor:
    """[batch, samples], so many that the convolutions make ``seq`` frames of them."""
    samples = seq
    layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
    for kernel, stride in reversed(layers):
        samples = (samples - 1) * stride + kernel
    return torch.zeros(batch, samples)


_MAKES: dict[str, Callable[[Any, int, int], Tensor]] = {
    "pixel_values": _image,
    "input_features": _features,
    "input_values": _sound,
}
"""Name of the main argument -> zeros for it."""
