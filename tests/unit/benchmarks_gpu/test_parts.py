import json
from collections import Counter
from dataclasses import asdict

import pytest
import torch

from benchmarks.gpu.parts.decompose import SECONDS, Decompose
from benchmarks.gpu.parts.figures import Figures
from benchmarks.gpu.parts.routing import Routing
from benchmarks.gpu.parts.stride import StridedRead
from gacfx.hardware.measure.cases.attention import Attention
from gacfx.hardware.measure.cases.gemm import Gemm
from gacfx.hardware.measure.part import Part, Rates, Setting
from gacfx.hardware.measure.parts.ceilings import Ceilings
from gacfx.hardware.measure.parts.dispatch import Dispatch
from gacfx.hardware.measure.timing import HostTimer


def dry() -> Setting:
    return Setting(HostTimer(), Rates(), dry=True)


PARTS = (Ceilings, Routing, Dispatch, Figures, Decompose)


@pytest.mark.parametrize("make", PARTS)
def test_items_are_json_and_each_comes_once(make: type[Part]) -> None:
    items = make(dry()).items()  # type: ignore[call-arg]
    texts = Counter(json.dumps(asdict(item), sort_keys=True) for item in items)
    assert items and texts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("make", PARTS)
def test_every_item_can_be_rehearsed(make: type[Part]) -> None:
    torch.manual_seed(0)
    part = make(dry())  # type: ignore[call-arg]
    # One of each kind: all of them are rehearsed with the command.
    kinds = {_kind(item): item for item in part.items()}
    for item in kinds.values():
        with torch.no_grad():
            result = part.measure(item)
        json.dumps(result, allow_nan=False)
        part.headline(item, result)
        assert part.seconds(item) > 0


def _kind(item: object) -> str:
    """Part of the fields that another code path hangs on."""
    fields = asdict(item)  # type: ignore[call-overload]
    case = fields.get("case", {})
    kind = [fields.get(name) for name in ("what", "op", "rule", "figure")]
    return str([*kind, case.get("op"), case.get("mask"), case.get("causal"), fields.get("dtype")])


def test_the_papers_cliff_and_both_sides_of_it_are_there() -> None:
    figures = Figures(dry()).items()
    ms = [p.case.m for p in figures if p.figure == "gemm-m" and isinstance(p.case, Gemm)]
    assert {1024, 1728, 1729, 2048} <= set(ms)
    dims = [p.case.d for p in figures if isinstance(p.case, Attention)]
    assert sorted(dims) == list(range(64, 257))


def test_a_cut_run_has_something_of_every_figure() -> None:
    figures = Figures(dry()).items()
    half = {point.figure for point in figures[: len(figures) // 2]}
    assert half == {point.figure for point in figures}


def test_every_decomposition_has_a_guess_of_its_time() -> None:
    assert {(i.what, i.size) for i in Decompose(dry()).items()} == SECONDS.keys()


def test_the_kernel_of_picks_is_held_against_float64() -> None:
    part = Routing(dry())
    fused = [item for item in part.items() if item.what == "fused"]
    assert {item.dtype for item in fused} == {"bf16", "fp32"}
    for item in fused:
        found = part.measure(item)
        limit = 1e-2 if item.dtype == "bf16" else 1e-5
        assert 0 < found["relative_error"] < limit and 0 < found["plain_error"] < limit


def test_a_strided_read_counts_what_is_useful() -> None:
    read = StridedRead(8, 16, 40).prepare(torch.device("cpu"))
    assert (read.flops, read.bytes, read.error(read.call())) == (0, 2 * 8 * 16 * 2, 0)
