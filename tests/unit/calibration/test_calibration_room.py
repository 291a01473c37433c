"""What a compression needs of disk and memory, against counts by hand and a small run."""

from pathlib import Path

import torch

from gacfx import pipelines
from gacfx.calibration.batches import MOST_TOKENS
from gacfx.calibration.cost import most_at_once
from gacfx.calibration.products import moments_bytes
from gacfx.calibration.room import (
    IMPORTS,
    decomposition_bytes,
    device_bytes,
    disk_of,
    host_bytes,
    sums_bytes,
)
from gacfx.calibration.sizes import LayerSizes, Sizes, Weight, sizes_of
from gacfx.calibration.text import Corpus
from gacfx.core.work_folder import WorkFolder
from gacfx.graph.pipeline import Pipeline
from gacfx.hardware.profile import load_profile
from gacfx.study import Study
from gacfx.tracing.export import export_model
from tests.tiny import llama

LAYER = LayerSizes((Weight(4, 2, 0), Weight(3, 2, 0), Weight(2, 4, 1)), params=24, attention=6)
SMALL = Sizes((LAYER,) * 2, width=2, vocabulary=10, outside=42, itemsize=4)
SLACK = 64_000
"""Bytes of headers and of the journal."""


def test_sums_of_a_layer() -> None:
    assert sums_bytes(LAYER) == 8 * 4 * (1 + 1 + 1 + 2)
    both = LayerSizes((Weight(4, 2, 0, True), Weight(2, 4, 1, True)), 16, 0)
    assert sums_bytes(both) == 8 * (4 * (1 + 1 + 2) + 16 + 16)


def test_disk_by_hand() -> None:
    found = disk_of(SMALL, tokens=100)
    moments = 2 * moments_bytes(LAYER)
    assert found.calibration == most_at_once([moments, moments], 100 * 2 * 4)
    assert found.moments == 2 * moments
    assert found.components == 6 * 2 * 16 * 4
    assert found.factors == int(0.8 * 2 * 22) * 4
    assert found.curves == 7 * 8 * 6 * 3
    assert found.most == found.least == found.calibration  # so much text for such small weights
    short = disk_of(SMALL, tokens=1)
    assert short.most == short.least_after + short.components and short.least == short.least_after


def test_a_decomposition_holds_matrices_of_the_last_one_too() -> None:
    assert decomposition_bytes(Weight(100, 100, 0)) == 8 * (12.5 * 100**2 + 100**2)
    long = Weight(10_000, 100, 0)
    assert decomposition_bytes(long) == 8 * (5.5 * 100**2 + 2 * long.params)


def test_memory_grows_with_what_it_holds() -> None:
    assert IMPORTS < host_bytes(SMALL, device=True) < host_bytes(SMALL)
    wide = Sizes(SMALL.layers, 2000, 10, 42, 4)
    assert device_bytes(wide) - device_bytes(SMALL) > 1998 * 4 * MOST_TOKENS


def test_the_work_folder_of_a_run(tmp_path: Path) -> None:
    model = llama(layers=3)
    graph = export_model(model)
    Pipeline.parse(pipelines.SELECT).bind(skip=()).run(graph)
    found = disk_of(sizes_of(model, graph), tokens=8 * 96)
    random = torch.Generator().manual_seed(0)
    text = Corpus(tuple(torch.randint(2, 258, (96,), generator=random) for _ in range(8)))
    with WorkFolder(tmp_path / "work", {}) as store:
        study = Study.make(model, text, force=True, store=store)
        moments = _size(tmp_path, "moments.*.safetensors")
        assert found.moments <= moments <= found.moments + SLACK
        planned = study.plan("0.2", profile=load_profile("h200"))
        parts = _size(tmp_path, "gfwsvd.*.model.*.safetensors")
        assert found.components <= parts <= found.components + SLACK
        kept = sum(weight.rows * weight.columns for weight in planned.plan.weights.values())
        assert found.factors == int(0.8 * kept) * 4
        assert _size(tmp_path, "factors.*") <= found.factors + SLACK
        assert _size(tmp_path, "*") <= found.most + 3 * SLACK + _size(tmp_path, "journal.json")


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in (folder / "work").glob(pattern))


def test_memory_holds_the_largest_decomposition() -> None:
    square = Weight(8192, 8192, 0)
    sizes = Sizes((LayerSizes((square,), square.params, 0),), 8, 10, 42, 4)
    assert host_bytes(sizes) >= IMPORTS + decomposition_bytes(square)
    assert device_bytes(sizes) >= decomposition_bytes(square)


def test_converted_weights_are_in_memory() -> None:
    sizes = Sizes((LayerSizes((Weight(64, 64, 0),), 10**9, 0),), 8, 10, 42, 4)
    assert host_bytes(sizes, converted=True) == host_bytes(sizes) + sizes.params * 4
