"""The door to all exports: a model in memory, a folder, and the name of a target."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gacfx.checkpoint.hf import check_unquantized
from gacfx.core.asked import check_module
from gacfx.core.files.targets import check_folder
from gacfx.core.surroundings import plain_torch
from gacfx.errors import ExportError
from gacfx.exports.exported import Exported
from gacfx.exports.targets import target_named
from gacfx.modules.experts import ungrouped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FILES = (".pt2", ".onnx", ".xml", ".bin", ".safetensors")


@plain_torch()
def export(
    model: "PreTrainedModel",
    out: str | Path,
    *,
    to: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    cache: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Writes a model as a folder that runs without gacfx, once it was found to compute the same.

    Args:
        model: causal language model of transformers with its weights, compressed or (but for
            ``dense``) dense; it is left as it is.
        out: the folder to make; every target makes one, with the graph or weights, the
            configuration and the tokenizer.
        to: a name of :data:`gacfx.exports.targets.TARGETS`.
        tokenizer: saved beside it; None leaves it out.
        cache: with keys and values as inputs and outputs, for decoding step by step.
        overwrite: replace a folder that has a config.json.

    Raises:
        NoExporter: a package is not installed; names the extra.
        ExportError: this model has no such form, or the exporter or its engine failed.
        CaptureError: torch.export refuses the model.
        CheckpointError: the folder exists or cannot be written, or no plain configuration says
            what the model is.
        UnsupportedModel: it is no such model.
    """
    target = target_named(to)
    target.check_cache(asked=cache)
    target.check_installed()
    check_module(model)
    check_model(model)
    folder = check_out(out, overwrite=overwrite)
    more: dict[str, Any] = {"cache": cache} if target.caches else {}
    model = cast("PreTrainedModel", ungrouped(model))
    made: Exported = target.find()(model, folder, tokenizer=tokenizer, overwrite=overwrite, **more)
    return made


def check_out(out: str | Path, *, overwrite: bool) -> Path:
    """The folder, when one can be written there; asked before a model is loaded, too.

    Raises:
        ExportError: it is named as a file.
        CheckpointError: it is there, or cannot be written.
    """
    folder = Path(out).expanduser()
    if folder.suffix in _FILES:
        raise ExportError(
            f"{folder}: exports are folders, with the configuration and the tokenizer beside the "
            f"model; name one, for example {folder.with_suffix('')}"
        )
    check_folder(folder, overwrite=overwrite, holds=("config.json",), what="an exported folder")
    return folder


def check_model(model: Any) -> None:
    """Nothing when this is a causal language model with its weights in memory.

    Raises:
        CheckpointError: another program's quantization is in force.
        ExportError: it is another kind of model, or weights have no values.
    """
    check_unquantized(model)
    name = type(model).__name__
    generates = hasattr(model, "can_generate") and model.can_generate()
    if not generates or model.config.is_encoder_decoder:
        raise ExportError(f"{name}: is no causal language model of transformers; give one")
    for weight, tensor in model.named_parameters():
        if tensor.is_meta:
            raise ExportError(f"{weight}: has no values (meta device); load the weights first")
