"""openvino: the logits of the model in OpenVINO, where it is installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gacfx
from tests.unit.exports.kinds import KINDS, SIZES, ids_of, logits_of, model_of

pytest.importorskip("onnxscript", reason="needs the extra gacfx[openvino]")
openvino: Any = pytest.importorskip("openvino", reason="needs the extra gacfx[openvino]")

CLOSE = 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    made = gacfx.export(model, tmp_path / "out", to="openvino")
    assert made.difference is not None and made.difference < CLOSE
    assert not list(made.folder.glob("*onnx*"))
    graph = openvino.Core().read_model(made.folder / "openvino_model.xml")
    assert [value.get_names() for value in (*graph.inputs, *graph.outputs)] == [
        {"input_ids"},
        {"logits"},
    ]
    run = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES:
        ids = ids_of(*size)
        logits = run({"input_ids": ids.numpy()})[0]
        assert np.abs(logits - logits_of(model, ids).numpy()).max() < CLOSE


@pytest.mark.parametrize("kind", ["narrow", "skipped"])
def test_a_step_with_a_cache(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    made = gacfx.export(model, tmp_path / "out", to="openvino", cache=True)
    assert made.difference is not None and made.difference < CLOSE
    graph = openvino.Core().read_model(made.folder / "openvino_model.xml")
    assert {*graph.input("past_key_values.1.value").get_names()} == {"past_key_values.1.value"}
    assert len(graph.inputs) == 6 and len(graph.outputs) == 5
