"""What an export is when it is done, the folder that it is written into, and how it is compared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.pretrained import plain_config
from gacfx.core.files.atomic import making, replacing_folder
from gacfx.core.files.targets import check_folder, writing
from gacfx.core.names import one_line
from gacfx.errors import ExportError, GacError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCES = {
    torch.float64: 1e-4,  # norms of transformers are float32
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
"""Largest difference of a logit, as a share of the largest logit, that rounding in another order
explains; exports are compared when they are written."""
PROBES = ((1, 1), (2, 7))
"""(batch, length) of the tokens that are compared; no graph is traced at one of these sizes."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    difference: float | None
    """Largest difference of a logit from the model in memory, as a share of the largest logit; None
    where nothing here could run it."""
    notes: tuple[str, ...] = ()
    """What a person should know of it."""


@contextmanager
def exported_folder(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None",
    overwrite: bool,
) -> Iterator[Path]:
    """A new folder with configuration and tokenizer; whole, it takes the place of ``out``.

    The block of gacfx is left out of config.json: its layers are in the graph, for nobody to load.

    Raises:
        CheckpointError: ``out`` exists or cannot be written.
    """
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="an exported folder")
    out = out.resolve()
    with writing(out), making(out.parent), replacing_folder(out, overwrite=overwrite) as folder:
        yield folder
        config = plain_config(model)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.to_json_file(folder / "generation_config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        write_checksums(folder)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """What an exporter or an engine raises in the body becomes one line that names it.

    Raises:
        ExportError: for everything but errors of gacfx, of files and of memory.
    """
    try:
        yield
    except (GacError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # exporters raise nearly everything
        cause = error.__cause__ or error
        raise ExportError(f"{what}: {type(cause).__name__}: {one_line(cause)}") from error


def probes(model: "PreTrainedModel") -> list[Tensor]:
    """Random token ids of several sizes, none of them padding."""
    weight: Any = model.get_input_embeddings().weight
    padding = model.config.get_text_config().pad_token_id
    draw = torch.Generator().manual_seed(0)
    found = [torch.randint(len(weight), size, generator=draw) for size in PROBES]
    if padding is not None:
        found = [torch.where(ids == padding, (padding + 1) % len(weight), ids) for ids in found]
    return [ids.to(model.device) for ids in found]


def compared(
    model: "PreTrainedModel", run: Callable[[Tensor], Tensor], *, what: str, ids: list[Tensor]
) -> float:
    """The largest difference of a logit from those of the model, as a share of the largest.

    Args:
        model: in memory, in evaluation mode.
        run: token ids [B, T] -> logits [B, T, V] of what was exported.
        what: it is called in an error.
        ids: of one call each.

    Raises:
        ExportError: it is too large for rounding, so something else is computed.
    """
    worst = 0.0
    for ids_BT in ids:
        with torch.no_grad():
            own_BTV = model(ids_BT, use_cache=False).logits.double().cpu()
            made_BTV = run(ids_BT).double().cpu()
        worst = max(worst, _apart(own_BTV, made_BTV))
    allowed = TOLERANCES.get(model.dtype, 0.0)
    if not worst <= allowed:
        raise ExportError(
            f"{what}: its logits are {worst:.1g} of the largest away from those of the model, "
            f"where {allowed:g} would be rounding; nothing was written"
        )
    return worst


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or not bool((one.isfinite() & other.isfinite()).all()):
        return float("inf")
    gap, size = (one - other).abs().max().item(), one.abs().max().item()
    return gap / size if size else gap
