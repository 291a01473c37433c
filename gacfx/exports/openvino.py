"""openvino: the ONNX graph, read and written by OpenVINO, and compared there in float32.

OpenVINO also reads graphs of torch.export. They give logits as close, but take four times as long
and lose the names, and with a cache there would be a second translation to keep right.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from gacfx.core.surroundings import plain_torch
from gacfx.exports.exported import Exported, explained, exported_folder
from gacfx.exports.onnx import Run, checked, onnx_program, write_onnx

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "openvino_model.xml"
"""As optimum names it; the weights are in the ``.bin`` beside it."""


@plain_torch()
def save_openvino(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
    cache: bool = False,
) -> Exported:
    """Writes ``openvino_model.xml`` and ``openvino_model.bin``.

    Raises:
        CaptureError, ExportError, CheckpointError: as :func:`gacfx.export`.
    """
    program = onnx_program(model, cache=cache, engine="OpenVINO")
    with exported_folder(model, out, tokenizer=tokenizer, overwrite=overwrite) as folder:
        with TemporaryDirectory(dir=folder) as between:
            path = Path(between) / "model.onnx"
            write_onnx(program, path, where=out)
            with explained(f"{out}: OpenVINO cannot convert it"):
                _convert(path, folder / FILE)
        with explained(f"{out}: OpenVINO does not run it"):
            difference = checked(model, program, _compiled(folder / FILE), what=FILE)
    return Exported(out, difference)


def _convert(path: Path, to: Path) -> None:
    import openvino

    read = openvino.Core().read_model(path)
    openvino.save_model(read, to, compress_to_fp16=False)


def _compiled(path: Path) -> Run:
    """The graph on the CPU, with float32 kept: some CPUs compute in bfloat16 if nothing is said."""
    import openvino

    asked = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", asked)

    def run(given: dict[str, Any]) -> list[Any]:
        made = compiled(given)
        return [np.array(made[each]) for each in compiled.outputs]

    return run
