import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.cases.attention import Attention
from benchmarks.gpu.cases.gemm import Gemm
from benchmarks.gpu.part import Part, Rates, Setting
from benchmarks.gpu.parts.calls import measure_case
from benchmarks.gpu.parts.ceilings import Ceilings
from benchmarks.gpu.parts.decompose import SECONDS, Decompose
from benchmarks.gpu.parts.dispatch import Dispatch, read_extra
from benchmarks.gpu.parts.figures import Figures
from gacfx.hardware.measure.timing import HostTimer, Kernel, Times, make_timer, summary


def dry(extra: Path | None = None) -> Setting:
    return Setting(HostTimer(), Rates(), dry=True, extra=extra)


PARTS = (Ceilings, Dispatch, Figures, Decompose)


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


def test_ceilings_make_the_floors() -> None:
    setting = dry()
    part = Ceilings(setting)
    for item in part.items():
        part.measure(item)
    assert setting.rates.gbps > 0
    assert {"bf16", "fp16", "fp32", "fp64"} <= setting.rates.tflops.keys()
    assert setting.rates.floor_us(1e6, 1e6, "bf16")


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


def test_a_wrong_result_has_no_time() -> None:
    class Wrong(Gemm):
        __slots__ = ()

        def prepare(self, device: torch.device):  # type: ignore[no-untyped-def]
            prepared = super().prepare(device)
            return type(prepared)(lambda: prepared.call() * 2, 1, 1, "bf16", prepared.error)

    with pytest.raises(ArithmeticError, match="against float64"):
        measure_case(Wrong(8, 8, 8), dry(), kernels=False)


def test_kernels_are_recorded_where_they_are_asked_for() -> None:
    class Named(HostTimer):
        def kernels(self, call: object) -> list[Kernel]:
            return [Kernel("gemm_128x64", 2.5)]

    setting = Setting(Named(), Rates(), dry=True)
    assert measure_case(Gemm(8, 8, 8), setting, kernels=True)["kernels"] == [["gemm_128x64", 2.5]]
    assert "kernels" not in measure_case(Gemm(8, 8, 8), setting, kernels=False)


def test_every_decomposition_has_a_guess_of_its_time() -> None:
    assert {(i.what, i.size) for i in Decompose(dry()).items()} == SECONDS.keys()


def test_private_shapes_are_added_and_repeats_dropped(tmp_path: Path) -> None:
    path = tmp_path / "extra.json"
    path.write_text(
        json.dumps(
            [
                {"op": "gemm", "rule": "V", "m": 3, "n": 5, "k": 7, "call": "mm_nn"},
                {"op": "gemm", "m": 2048, "n": 4096, "k": 4096},
                {"op": "attention", "d": 72, "batch": 3},
            ]
        )
    )
    own, more = len(Dispatch(dry()).items()), Dispatch(dry(path)).items()
    assert len(more) == own + 2
    assert more[-2].case == Gemm(3, 5, 7, op="mm_nn") and more[-2].rule == "V"
    assert more[-1].case == Attention(72, batch=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected a list"),
        ('[{"m": 1}]', r"\[0\]: expected an object"),
        ('[{"op": "gemm", "m": 1, "n": 2}]', "missing"),
        ('[{"op": "gemm", "m": 1, "n": 2, "k": 3, "heads": 4}]', "unknown heads"),
        ("nonsense", "Expecting value"),
    ],
)
def test_bad_private_shapes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "extra.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_extra(path)


def test_summary_is_median_and_tenths() -> None:
    times = summary([float(n) for n in range(100, 0, -1)], "cold")
    assert times == Times(median_us=50.5, p10_us=11.0, p90_us=90.0, runs=100, how="cold")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_only_a_rehearsal_runs() -> None:
    with pytest.raises(RuntimeError, match="--dry"):
        make_timer(dry=False)
