"""The models that are measured: how they are read, and whether two can be compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gacfx.core.model_class import vocabulary
from gacfx.errors import BenchError
from gacfx.graph.ops import DTYPES
from gacfx.hardware.measure.device import default_device, is_here
from gacfx.hardware.measure.memory import is_out_of_memory
from gacfx.modules.install import compressed_modules

CONV1D = "Conv1D"
"""The linear layer of GPT-2 in transformers, weight [in, out]."""


@dataclass(frozen=True, slots=True)
class Side:
    """What is said of one measured model."""

    name: str
    architecture: str
    """Class of the model."""
    params: int
    dtype: str
    low_rank_layers: int
    linear_calls: int
    """Matmuls by linear layers in a step, two in a low-rank one; fused experts are not in it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def side_of(model: nn.Module, name: str) -> Side:
    """What can be counted in ``model``."""
    linears = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == CONV1D
    ]
    dtype = next(model.parameters()).dtype
    return Side(
        name=name,
        architecture=type(model).__name__,
        params=sum(parameter.numel() for parameter in model.parameters()),
        dtype=DTYPES.get(dtype, str(dtype)),
        low_rank_layers=len(compressed_modules(model)),
        linear_calls=len(linears),
    )


def read_models(
    sources: Sequence[str | Path], *, device: str | None = None, dtype: str | None = None
) -> list[nn.Module]:
    """Models from safetensors, without remote code, on one device and in one dtype.

    Args:
        sources: checkpoint folders or names, the model itself first.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None: the GPU, if there is one.
        dtype: ``fp64``, ``fp32``, ``fp16`` or ``bf16``; None: that of the first checkpoint.

    Raises:
        BenchError: no such device or dtype, models that cannot be compared or are too large.
        GacError: a checkpoint that cannot be read.
    """
    from gacfx.checkpoint.load import load_dense

    place = device_named(device)
    wanted = None if dtype is None else dtype_named(dtype)
    models: list[nn.Module] = []
    for source in sources:
        model: Any = load_dense(source, dtype=wanted)[0]
        wanted = wanted or next(model.parameters()).dtype
        try:
            models.append(model.to(place))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise BenchError(
                f"{source}: out of memory: the weights do not fit on {place} beside what is there; "
                "free some, or bench without --against"
            ) from error
    check_alike(models)
    return models


def device_named(name: str | None) -> torch.device:
    """The device of that name on this machine.

    Raises:
        BenchError: it is no device, or this machine has none.
    """
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BenchError(f"device {name!r}: give cpu or cuda") from None
    if not is_here(device):
        raise BenchError(f"device {name}: this machine has none that torch can use; give cpu")
    return device


def dtype_named(name: str) -> torch.dtype:
    """The dtype that gacfx calls so.

    Raises:
        BenchError: there is none in which a whole model runs.
    """
    named = {short: dtype for dtype, short in DTYPES.items() if dtype.itemsize > 1}
    if name not in named:
        raise BenchError(f"dtype {name!r}: give one of {', '.join(named)}")
    return named[name]


def check_alike(models: Sequence[Any]) -> None:
    """Nothing when the models read the same tokens, lie on one device and are in eval mode.

    Raises:
        BenchError: another architecture, vocabulary or device, or a model in training mode.
    """
    for model in models:
        if not hasattr(model, "config") or not hasattr(model, "get_output_embeddings"):
            raise BenchError(
                f"{type(model).__name__} is no language model of transformers, which reads tokens "
                "and gives logits; give one"
            )
    if any(model.training for model in models):
        raise BenchError("a model is in training mode; call its eval() first")
    facts = [
        {
            "architecture": type(model).__name__,
            "vocabulary": vocabulary(model),
            "device": str(next(model.parameters()).device),
        }
        for model in models
    ]
    for other in facts[1:]:
        for what, here in facts[0].items():
            if other[what] != here:
                raise BenchError(
                    f"the two models cannot be compared: {what} {here} and {other[what]}; "
                    "give the dense model that this one was made of"
                )
