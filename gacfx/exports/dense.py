"""dense: low ranks and pivots multiplied out again, as an ordinary checkpoint.

It is for programs that read plain checkpoints only: each product is as large as the weight that it
stands for, so nothing of what compression saved is left.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gacfx.calibration.running import borrowed
from gacfx.checkpoint.plain_folder import plain_model, skeleton_of, write_plain
from gacfx.checkpoint.pretrained import plain_config
from gacfx.core.files.targets import check_folder
from gacfx.core.surroundings import plain_torch
from gacfx.errors import ExportError
from gacfx.exports.exported import Exported, compared, probes
from gacfx.modules.carrier import Carrier
from gacfx.modules.dense import like
from gacfx.modules.experts import needs_unpacking, packed_again, unpack_, unpacked_experts
from gacfx.modules.install import compressed_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROWS = 1024
"""Inputs that are multiplied at once."""


@plain_torch()
def save_dense(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Exported:
    """Writes an ordinary checkpoint, which loads without gacfx.

    Raises:
        ExportError, CheckpointError: as :func:`dense_model`, and :func:`gacfx.export`.
    """
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")
    made = dense_model(model)
    with borrowed(model), borrowed(made):
        difference = compared(
            model, lambda ids: made(ids, use_cache=False).logits, what="dense", ids=probes(model)
        )
    write_plain(made, out, tokenizer=tokenizer, overwrite=overwrite)
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, made))
    note = (
        f"{before:,} parameters became {after:,}: multiplied out, low ranks and pivots save "
        "neither memory nor time"
    )
    return Exported(out, difference, (note,))


def dense_model(model: "PreTrainedModel") -> "PreTrainedModel":
    """An ordinary model of the same architecture, with each product as one weight.

    Products are computed in float64 and rounded once, to the dtype of the model; what else the
    model has is shared. Where all layers are pruned alike, it is one with smaller numbers.

    Raises:
        ExportError: nothing is to be multiplied out.
        CheckpointError: layers that differ or are skipped, which no plain configuration says.
    """
    carriers = compressed_modules(model)
    if not carriers:
        raise ExportError(
            f"{type(model).__name__}: has no low rank and no pivot to multiply out; take plain "
            "where all layers are pruned alike, per-layer-config for a Llama where they differ"
        )
    with _multiplied(model, carriers):
        return plain_model(model)


@contextmanager
def _multiplied(model: "PreTrainedModel", carriers: dict[str, Carrier]) -> Iterator[None]:
    """Inside, dense layers stand in the place of these."""
    skeleton = skeleton_of(model, plain_config(model))
    if needs_unpacking(skeleton, carriers):
        unpack_(skeleton)
    experts = unpacked_experts(model)
    try:
        for name, carrier in carriers.items():
            dtype = next(carrier.parameters()).dtype
            weight = product(carrier).to(dtype)
            if not bool(weight.isfinite().all()):
                raise ExportError(
                    f"{name}: its product is NaN or overflows {dtype}; load the model in float32 "
                    "(--dtype fp32)"
                )
            dense = like(skeleton.get_submodule(name), weight, carrier.bias)
            model.set_submodule(name, dense)
        for name, each in experts.items():
            model.set_submodule(name, packed_again(each))
        yield
    finally:
        for name, each in experts.items():
            model.set_submodule(name, each)
        for name, carrier in carriers.items():
            model.set_submodule(name, carrier)


def product(carrier: Carrier) -> Tensor:
    """The weight [outputs, inputs] that a layer stands for, in float64, of any kind."""
    exact: Any = copy.deepcopy(carrier).double()
    exact._take_bias(None)
    device = next(exact.parameters()).device
    parts = []
    with torch.no_grad():
        for first in range(0, carrier.in_features, _ROWS):
            rows = torch.arange(first, min(first + _ROWS, carrier.in_features), device=device)
            inputs = nn.functional.one_hot(rows, carrier.in_features).double()
            parts.append(exact(inputs))
    return torch.cat(parts).T
