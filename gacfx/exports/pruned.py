"""plain and per-layer-config: what the checkpoints of pruned models are exported to."""

from pathlib import Path
from typing import TYPE_CHECKING

from gacfx.checkpoint import per_layer_config, plain_folder
from gacfx.exports.exported import Exported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_plain(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Exported:
    """As :func:`gacfx.checkpoint.plain_folder.save_plain`, whose logits are equal."""
    made = plain_folder.save_plain(model, out, tokenizer=tokenizer, overwrite=overwrite)
    return Exported(made, 0.0)


def save_per_layer_config(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Exported:
    """As :func:`gacfx.checkpoint.per_layer_config.save_per_layer_config`, which nothing runs."""
    made = per_layer_config.save_per_layer_config(
        model, out, tokenizer=tokenizer, overwrite=overwrite
    )
    return Exported(made, None)
