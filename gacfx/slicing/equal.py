"""The small model against the large one that loses the same directions, in float64.

A large model whose writers and tables are multiplied by the projector on what is kept computes what
the small one must compute, with its own norms, its own readers and its own hidden size. Whatever
the analysis took for a part that no rotation moves, and is not, shows here.
"""

# B documents, T tokens, H hidden size, V vocabulary

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gacfx.calibration.running import batch_logits, borrowed
from gacfx.core.model_class import vocabulary
from gacfx.coupling.residual import Residual
from gacfx.errors import UnsupportedModel
from gacfx.modules.dense import is_conv1d
from gacfx.slicing.basis import Basis
from gacfx.slicing.folding import folded
from gacfx.slicing.norms import NormForm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference of logits in float64, as a share of the largest: norms compute in float32
whatever they are given."""
TOKENS = 24


def check_equal(
    model: "PreTrainedModel", residual: Residual, forms: Mapping[str, NormForm], basis: Basis
) -> float:
    """How far the logits of the two are apart for random tokens, as a share of the largest.

    Both are copies in float64, so this takes eight bytes for each parameter of both.

    Raises:
        UnsupportedModel: too far.
    """
    large = copy.deepcopy(model).double()
    small = folded(large, residual, forms, basis)
    projected_(large, residual, basis)
    made = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, vocabulary(model), (1, TOKENS), generator=made)
    logits = []
    for each in (large, small):
        with borrowed(each), torch.no_grad():
            logits.append(batch_logits(each, ids_BT))
    one, other = logits
    difference = float((one - other).abs().max() / one.abs().max().clamp_min(1e-30))
    if not difference <= TOLERANCE:
        raise UnsupportedModel(
            f"{type(model).__name__}: with a hidden size of {basis.size} it computes something "
            f"else than the model that loses the same directions (logits differ by "
            f"{difference:.1e} of the largest), so something in it depends on the hidden size that "
            "no weight makes up for"
        )
    return difference


def projected_(model: nn.Module, residual: Residual, basis: Basis) -> nn.Module:
    """The model with what is lost taken out of everything that is written, in place.

    Args:
        model: of the old hidden size; its norms and readers stay, a tied head included.
        residual: its stream.
        basis: what is kept.
    """
    kept_HH = basis.projector
    with torch.no_grad():
        for name in residual.embeddings:
            table = model.get_submodule(name)
            table.weight = nn.Parameter(_times(_of(table), kept_HH.T))
        for name in residual.writers:
            layer = model.get_submodule(name)
            turned = _of(layer) if is_conv1d(layer) else _of(layer).T
            found = _times(turned, kept_HH.T)
            layer.weight = nn.Parameter(found if is_conv1d(layer) else found.T.contiguous())
            if layer.bias is not None:
                layer.bias = nn.Parameter(_times(layer.bias, kept_HH.T))  # type: ignore[arg-type]
    return model


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    return (rows.detach().double() @ matrix).to(rows.dtype)


def _of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
