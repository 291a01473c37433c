"""What a compression costs by arithmetic, against counts by hand and a small run."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.llama.random_checkpoint import SHAPES, read_sizes
from gacfx import pipelines
from gacfx.calibration.gather import gather_texts
from gacfx.calibration.products import Rates, Work, moments_bytes, stages, triangle
from gacfx.calibration.sizes import LayerSizes, Sizes, Weight, sizes_of
from gacfx.calibration.text import Corpus
from gacfx.core.store import MemoryStore
from gacfx.errors import UnsupportedModel
from gacfx.graph.pipeline import Pipeline
from gacfx.tracing.export import export_model
from tests.tiny import llama

LAYER = LayerSizes((Weight(4, 2, 0), Weight(3, 2, 0), Weight(2, 4, 1)), params=24, attention=6)
SMALL = Sizes((LAYER,) * 2, width=2, vocabulary=10, outside=42, itemsize=4)
NONE = Work()


def sizes_of_tiny(model: Any, **more: Any) -> Sizes:
    graph = export_model(model)
    Pipeline.parse(pipelines.SELECT).bind(skip=()).run(graph)
    return sizes_of(model, graph, **more)


def test_sizes_are_those_of_the_model() -> None:
    model = llama(layers=3)
    found = sizes_of_tiny(model, both_sides={"model.layers.1.mlp.up_proj"})
    q, k, _, o, gate, up, down = found.layers[1].weights
    assert (q.fed, k.fed, o.fed, gate.fed, up.fed, down.fed) == (0, 0, 1, 2, 2, 3)
    assert (k.rows, k.columns, down.rows, down.columns) == (32, 64, 64, 176)
    assert up.both_sides and not gate.both_sides
    assert found.layers[0].attention == 4 * (16 + 16)
    assert (found.width, found.vocabulary, found.itemsize) == (64, 258, 4)
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.outside == 2 * 258 * 64 + 64


def test_all_layers_are_like_two_of_them() -> None:
    assert read_sizes({**SHAPES["tiny"]}, torch.float32) == sizes_of_tiny(llama(layers=3))


def test_a_target_outside_the_layers_is_refused() -> None:
    model = llama()
    graph = export_model(model)
    Pipeline.parse(pipelines.SELECT).bind(skip=()).run(graph)
    other = llama()
    other.model.layers = torch.nn.Sequential(*other.model.layers)
    with pytest.raises(UnsupportedModel):
        sizes_of(other, graph)


def test_a_triangle_is_formed_in_blocks() -> None:
    assert triangle(100) == 2 * 100 * 100
    assert triangle(192 * 2) == 2 * 192 * (384 + 192)
    assert triangle(2048) == 2 * 256 * sum(2048 - 256 * i for i in range(8))


def test_products_by_hand() -> None:
    found = stages(SMALL, tokens=100, window=8)
    each, pairs = 2 * (8 + 6 + 8), 2 * 6 * 4
    assert found["forward"].own == 100 * 2 * (each + pairs)
    assert found["head"].own == 100 * 4 * 20
    first = 2 * (8 + 6)  # the input of the lowest layer
    again = 100 * (2 * (each + pairs) + 2 * (each + 2.5 * pairs) - first)
    assert found["backward"].own == again
    # One input, two gradients and a projection; in the lowest layer both wide weights project
    # their gradients, and elsewhere the backward does.
    assert found["moments"].own == 100 * 2 * (8 + 6)
    assert found["moments"].fp64 == 100 * 2 * (1 + 2 + 2) * triangle(2)
    evaluation = found["forward"].own + found["head"].own / 2
    quarters = {"sample": 1, "trials": 3, "evaluation": 1}  # under 2,048 tokens all is read
    for name, times in quarters.items():
        assert found[name].own == pytest.approx(times * evaluation / 4)
    more = stages(SMALL, tokens=100_000, window=8)
    assert more["trials"].own == pytest.approx(
        more["evaluation"].own * (25_000 + 2 * 2048) / 25_000
    )


def test_half_precision_multiplies_in_float32() -> None:
    found = stages(replace(SMALL, itemsize=2), tokens=100, window=8)["moments"]
    assert found.fp64 == 0 and found.fp32 == 100 * 2 * 5 * triangle(2)


def test_decompositions_that_are_not_kept_are_made_again() -> None:
    kept, made = (stages(SMALL, 100, 8, kept=each)["decompositions"] for each in (True, False))
    assert kept.eigh == 2 * 6 * 2**3 and made.eigh == 3 * kept.eigh
    assert kept.written == 2 * 6 * 16 * 2**2 and made.written == 0


def test_moments_of_one_input_are_stored_once() -> None:
    half = 8 * 3  # of a 2 x 2 matrix
    channels = 3 * 8 * (2 + 2 + 4)
    assert moments_bytes(LAYER) == 5 * half + channels


def test_work_adds_up_and_is_spread() -> None:
    one = Work(own=8, eigh=2, written=4)
    assert one + one == one * 2 and one + NONE == one
    assert one.on(4) == Work(own=2, eigh=0.5, written=4)


def test_seconds() -> None:
    rates = Rates(own=2, fp32=4, fp64=8, eigh=1, touched=5, hashed=16, disk=32)
    work = Work(own=2, fp32=4, fp64=8, eigh=1, touched=5, hashed=16, written=32, read=32)
    assert rates.seconds(work) == 1 + 1 + 1 + 1 + 1 + 3 + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_a_run(dtype: torch.dtype) -> None:
    model = llama(layers=3, hidden=64, width=400).to(dtype)
    names = [name for name, _ in model.named_modules() if name.endswith("_proj")]
    assert _counted(model, names, 96) - _counted(model, names, 48) == _told(
        sizes_of_tiny(model), 96
    ) - _told(sizes_of_tiny(model), 48)


def _counted(model: Any, names: list[str], window: int) -> int:
    """FLOPs of products on two texts; what does not grow with them is that of probes."""
    random = torch.Generator().manual_seed(0)
    one = torch.randint(2, 258, (window,), generator=random)
    texts = (Corpus((one, one, one)), Corpus((one,)))
    with FlopCounterMode(display=False) as counter:
        gather_texts(model, texts, names, store=MemoryStore())
    counts = counter.get_flop_counts()["Global"]
    # torch counts attention on a CPU from 2.15 on.
    products = {op: flops for op, flops in counts.items() if "attention" not in str(op)}
    assert all("mm" in str(op) for op in products)
    return int(sum(products.values()))


def _told(sizes: Sizes, window: int) -> float:
    layers = tuple(replace(layer, attention=0) for layer in sizes.layers)  # it counts none on a CPU
    found = stages(replace(sizes, layers=layers), 4 * window, window)
    works = [found[name] for name in ("forward", "head", "backward", "moments")]
    return sum(work.own + work.fp32 + work.fp64 for work in works)
