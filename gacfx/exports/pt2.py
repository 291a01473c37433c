"""pt2: the graph of torch.export, which runs where only torch is.

program = torch.export.load("out/model.pt2").module()
logits = program(input_ids=ids)          # int64 [batch, length] -> [batch, length, vocabulary]
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram

from gacfx.calibration.running import borrowed
from gacfx.core.surroundings import plain_torch
from gacfx.exports.exported import Exported, compared, explained, exported_folder, probes
from gacfx.exports.programs import forward_program

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "model.pt2"


@plain_torch()
def save_pt2(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Exported:
    """Writes ``model.pt2``; it runs on the kind of device that the model is on.

    Raises:
        CaptureError, ExportError, CheckpointError: as :func:`gacfx.export`.
    """
    program = forward_program(model)
    with (
        borrowed(model),  # frozen, so that no logits of the graph ask for gradients
        exported_folder(model, out, tokenizer=tokenizer, overwrite=overwrite) as folder,
    ):
        with explained(f"{out}: cannot be written"):
            _write(program.graph, folder / FILE)
        with explained(f"{out}: what was written does not run"):
            loaded = torch.export.load(folder / FILE).module()
            difference = compared(
                model, lambda ids: loaded(input_ids=ids), what=FILE, ids=probes(model)
            )
    return Exported(out, difference)


def _write(graph: ExportedProgram, path: Path) -> None:
    with path.open("wb") as file:
        patient = _Patient(file)
        torch.export.save(graph, patient)  # type: ignore[arg-type]  # what it needs is there
    if patient.failed is not None:
        raise patient.failed


class _Patient(io.RawIOBase):
    """A file that goes on after a failure, which is raised later: torch ends the process where
    writing raises."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.failed: BaseException | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        del whence
        return offset  # torch rewinds at the end, for a reader

    def write(self, data: Any) -> int:
        if self.failed is None:
            try:
                self.file.write(data)
            except BaseException as error:  # an interruption comes in here as well
                self.failed = error
        return len(data)
