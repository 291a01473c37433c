"""onnx: an ONNX graph by torch's own exporter, compared in ONNX Runtime before it is kept.

    input_ids [batch_size, sequence_length]  ->  logits [.., .., vocabulary]

With a cache also ``attention_mask`` and ``past_key_values.N.key`` and ``.value`` go in and
``present.N.key`` and ``.value`` come out, as optimum names them. The first step has an empty past.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gacfx.calibration.running import borrowed
from gacfx.core.surroundings import plain_torch
from gacfx.errors import ExportError
from gacfx.exports.exported import Exported, compared, explained, exported_folder, probes
from gacfx.exports.programs import Program, forward_program
from gacfx.exports.steps import step_program

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "model.onnx"
MOST_INSIDE = 3 << 29
"""Bytes of weights that are kept inside the graph; a file of protobuf ends at 2 GiB."""
_DTYPES = (torch.float32, torch.float16)

Run = Callable[[dict[str, Any]], list[Any]]
"""Arrays by name -> arrays in the order of the outputs."""


@plain_torch()
def save_onnx(
    model: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
    cache: bool = False,
) -> Exported:
    """Writes ``model.onnx``, and ``model.onnx.data`` beside it where the weights are large.

    Raises:
        CaptureError, ExportError, CheckpointError: as :func:`gacfx.export`.
    """
    program = onnx_program(model, cache=cache, engine="ONNX Runtime")
    with exported_folder(model, out, tokenizer=tokenizer, overwrite=overwrite) as folder:
        write_onnx(program, folder / FILE, where=out)
        with explained(f"{out}: ONNX Runtime does not run it"):
            run = _session(folder / FILE)
            difference = checked(model, program, run, what=FILE)
    return Exported(out, difference)


def onnx_program(model: "PreTrainedModel", *, cache: bool, engine: str) -> Program:
    """What is translated to ONNX.

    Raises:
        ExportError: the CPU kernels of the engine know no such dtype.
    """
    dtypes = {each.dtype for each in model.parameters() if each.is_floating_point()}
    for dtype in sorted(dtypes.difference(_DTYPES), key=str):
        raise ExportError(
            f"{type(model).__name__}: has weights in {dtype}, for which {engine} has no products "
            "on a CPU; load it in float32 (--dtype fp32), which keeps every bit of bfloat16"
        )
    return step_program(model) if cache else forward_program(model)


def write_onnx(program: Program, path: Path, *, where: Path) -> None:
    """Translates a graph and writes it.

    Args:
        program: with names for everything.
        path: of the file.
        where: it is to be, in an error.

    Raises:
        ExportError: an operator has no translation, or nothing can be written.
    """
    state = program.graph.state_dict.values()
    weights = {each.untyped_storage().data_ptr(): each.nbytes for each in state}
    with explained(f"{where}: torch.onnx cannot export it"), _quiet():
        torch.onnx.export(
            program.graph,
            f=path,
            input_names=program.inputs,
            output_names=program.outputs,
            dynamic_shapes=program.axes,
            external_data=sum(weights.values()) > MOST_INSIDE,
            dynamo=True,
            verbose=False,
        )


def checked(model: "PreTrainedModel", program: Program, run: Run, *, what: str) -> float:
    """How far the logits of an engine are from the model's: of whole sequences, or of a prompt and
    one step behind it.

    Raises:
        ExportError: too far.
    """
    ids = probes(model)
    with borrowed(model):
        if not program.past:
            return compared(model, lambda each: _logits(run, each), what=what, ids=ids)
        steps = [each for each in ids if each.shape[1] > 1]
        return compared(model, lambda each: _stepwise(run, program, each), what=what, ids=steps)


def _logits(run: Run, ids_BT: Tensor) -> Tensor:
    return torch.from_numpy(run({"input_ids": ids_BT.cpu().numpy()})[0])


def _stepwise(run: Run, program: Program, ids_BT: Tensor) -> Tensor:
    """Logits of a prompt, and of the last token by a step of its own."""
    ids = ids_BT.cpu().numpy()
    kept = [each.expand(len(ids), -1, -1, -1).cpu().numpy() for each in program.past]
    found: list[Any] = []
    for part in (ids[:, :-1], ids[:, -1:]):
        seen = sum(each.shape[1] for each in found) + part.shape[1]
        mask = np.ones((len(ids), seen), np.int64)
        cache = dict(zip(program.inputs[2:], kept, strict=True))
        logits, *kept = run({"input_ids": part, "attention_mask": mask, **cache})
        found.append(logits)
    return torch.from_numpy(np.concatenate(found, axis=1))


def _session(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: list(session.run(None, given))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself: torchvision is missing, a name was deprecated."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
