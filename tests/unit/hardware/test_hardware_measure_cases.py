from dataclasses import asdict, replace

import pytest
import torch

from gacfx.hardware.kernel_names import Kernel
from gacfx.hardware.measure.cases.attention import Attention
from gacfx.hardware.measure.cases.gemm import OPS, Gemm
from gacfx.hardware.measure.cases.measured import measure_case
from gacfx.hardware.measure.cases.prepared import Prepared
from gacfx.hardware.measure.part import Rates, Setting
from gacfx.hardware.measure.timing import HostTimer

CPU = torch.device("cpu")
DRY = Setting(HostTimer(), Rates(), dry=True)
SMALL = Attention(d=24, s_q=12, batch=2, h_q=4)


@pytest.mark.parametrize("op", OPS)
def test_every_matmul_is_that_of_float64(op: str) -> None:
    prepared = Gemm(32, 16, 48, op=op).prepare(CPU)
    out = prepared.call()
    assert prepared.error(out) < 0.02
    assert prepared.error(out * 1.1) > 0.05


@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        replace(SMALL, causal=True),
        replace(SMALL, mask="bool"),
        replace(SMALL, mask="float"),
        replace(SMALL, d_v=40),
        replace(SMALL, h_kv=2, gqa=True),
        replace(SMALL, s_q=1, s_k=12),
        replace(SMALL, s_q=4, s_k=12, causal=True),
        replace(SMALL, force="math"),
    ],
)
def test_every_attention_is_that_of_float64(case: Attention) -> None:
    prepared = case.prepare(CPU)
    out = prepared.call()
    assert isinstance(prepared.choice, int | str)
    assert prepared.error(out) < 0.02
    assert prepared.error(-out) > 1


def test_a_wrong_mask_would_be_seen() -> None:
    torch.manual_seed(0)
    causal = replace(SMALL, causal=True).prepare(CPU)
    torch.manual_seed(0)
    full = SMALL.prepare(CPU)
    assert causal.error(full.call()) > 0.1


def test_nan_is_an_error() -> None:
    prepared = Gemm(4, 8, 16).prepare(CPU)
    assert not prepared.error(torch.full((4, 8), float("nan"))) < 1


def test_floor_counts_what_must_move() -> None:
    prepared = Gemm(2, 3, 5).prepare(CPU)
    assert (prepared.flops, prepared.bytes) == (60, 2 * (10 + 15 + 6))
    fp8 = Gemm(32, 16, 48, op="fp8").prepare(CPU)
    assert fp8.bytes == 48 * (32 + 16) + 2 * 32 * 16 and fp8.dtype == "fp8"


def test_a_causal_square_needs_half() -> None:
    full = SMALL.prepare(CPU)
    causal = replace(SMALL, causal=True).prepare(CPU)
    assert full.flops == 2 * 2 * 4 * 12 * 12 * 48
    assert causal.flops == full.flops * 13 // 24


def test_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    rates = Rates({"bf16": 100.0}, gbps=1000.0)
    assert rates.floor_us(1e9, 1e6, "bf16") == 10.0
    assert rates.floor_us(1e9, 1e8, "bf16") == 100.0
    assert rates.floor_us(1e9, 1e8, "fp8") is None
    assert Rates({"bf16": 100.0}).floor_us(1e9, 1e8, "bf16") is None


def test_unknown_op_is_refused() -> None:
    with pytest.raises(ValueError, match="known are linear"):
        Gemm(1, 1, 1, op="convolution").prepare(CPU)


@pytest.mark.parametrize("case", [Gemm(2048, 4096, 1107), Gemm(1, 8, 8, op="bmm"), SMALL])
def test_a_small_case_asks_the_same(case: Gemm | Attention) -> None:
    small = case.small()
    assert small.small() == small and small.dtype == case.dtype
    sizes = asdict(small).items() - asdict(case).items()
    assert all(value is None or value <= 64 for _, value in sizes)


def test_data_is_random_and_never_zero() -> None:
    first, second = (Gemm(8, 8, 8).prepare(CPU) for _ in range(2))
    assert isinstance(first, Prepared)
    assert not torch.equal(first.call(), second.call())


def test_a_wrong_result_has_no_time() -> None:
    class Wrong(Gemm):
        __slots__ = ()

        def prepare(self, device: torch.device):  # type: ignore[no-untyped-def]
            prepared = super().prepare(device)
            return replace(prepared, call=lambda: prepared.call() * 2)

    with pytest.raises(ArithmeticError, match="against float64"):
        measure_case(Wrong(8, 8, 8), DRY, kernels=False)


def test_a_rehearsal_measures_the_small_case() -> None:
    assert measure_case(Gemm(2048, 4096, 1107), DRY, kernels=False)["flops"] == 2 * 32 * 64 * 64
    real = Setting(HostTimer(), Rates())
    assert measure_case(Gemm(33, 8, 8), real, kernels=False)["flops"] == 2 * 33 * 8 * 8


def test_kernels_are_recorded_where_they_are_asked_for() -> None:
    class Named(HostTimer):
        def kernels(self, call: object) -> list[Kernel]:
            return [Kernel("gemm_128x64", 2.5)]

    setting = Setting(Named(), Rates(), dry=True)
    assert measure_case(Gemm(8, 8, 8), setting, kernels=True)["kernels"] == [["gemm_128x64", 2.5]]
    assert "kernels" not in measure_case(Gemm(8, 8, 8), setting, kernels=False)
