"""From a model, or from the name of one, to its graph."""

from pathlib import Path

import torch
from torch import nn
from torch.fx import GraphModule

from gacfx.core.asked import check_module
from gacfx.core.defaults import MODEL_DTYPES
from gacfx.core.stored_as import stored_as
from gacfx.core.surroundings import plain_torch
from gacfx.errors import UnsupportedModel
from gacfx.graph.notes import state
from gacfx.graph.ops import DTYPES
from gacfx.modules.experts import unpacked
from gacfx.tracing.export import export_model
from gacfx.tracing.skeleton import read_config, skeleton


@plain_torch()
def capture(
    model: "nn.Module | str | Path",
    *,
    seq: int = 1024,
    dtype: str | None = None,
    one_by_one: bool = False,
) -> GraphModule:
    """One flat GraphModule: of a module, or of a skeleton made from a path, config or name.

    Args:
        model: a Hugging Face model in eval mode, a checkpoint folder, a config.json, a name.
        seq: tokens of a sequence for which eager attention calls are recorded.
        dtype: fp32, bf16 or fp16, instead of the configuration's own.
        one_by_one: experts of a mixture get nodes of their own (:mod:`gacfx.modules.experts`),
            as plans speak of them; else one node stands for all of a layer.

    Raises:
        CaptureError: torch.export refuses the model.
        UnsupportedModel: it is no model, or a wrapper of one.
        CheckpointError, UnsupportedModel: nothing readable behind the name; or no such dtype.
    """
    if not isinstance(model, str | Path):
        check_module(model)
    if not isinstance(model, nn.Module):
        config = read_config(model)
        made: nn.Module = skeleton(config, None if dtype is None else torch_dtype(dtype))
        made = unpacked(made) if one_by_one else made
        gm = export_model(made, attention_seq=seq, alike=True)
        state(gm).stored_as = stored_as(config)
        return gm
    if dtype is not None:
        raise UnsupportedModel(
            f"{type(model).__name__}: a module has its dtype already; leave out dtype={dtype!r} or "
            "cast the module"
        )
    return export_model(unpacked(model) if one_by_one else model, attention_seq=seq)


def torch_dtype(name: str) -> torch.dtype:
    """``torch.float16`` for ``fp16``.

    Raises:
        UnsupportedModel: models are not held in such a dtype.
    """
    if name not in MODEL_DTYPES:
        raise UnsupportedModel(f"no model in dtype {name!r}; take {', '.join(MODEL_DTYPES)}")
    return next(dtype for dtype, short in DTYPES.items() if short == name)
