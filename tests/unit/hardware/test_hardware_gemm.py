"""Which class of kernel a matmul gets, with the reason in exactly the form that reports print."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.sites import Extent, Layout, MatmulSite, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.gemm import TIERS, aligned, matmul_tier, misfits, predict_matmul, round_up
from gacfx.hardware.profile import KERNELS, load

A100, H200 = load("a100"), load("h200")
PREFILL = Workload(batch=1, seq=2048)
DECODE = Workload(batch=1, seq=2048, mode="decode")


def matmul(
    k: int, n: int, dtype: str = "bf16", layout: Layout = Layout.LINEAR, tokens: int = 1
) -> MatmulSite:
    return MatmulSite(
        name="layers.0.mlp.up_proj",
        m=Extent(tokens, "token"),
        k=Extent(k),
        n=Extent(n),
        dtype=dtype,
        layout=layout,
    )


@pytest.mark.parametrize(
    ("k", "n", "dtype", "tier", "kernel", "reason"),
    [
        (4096, 4096, "bf16", 1, "native", ""),
        (4096, 1112, "bf16", 1, "native", ""),
        (4096, 1107, "bf16", 3, "align1", "N=1107 %8==3"),
        (107, 4096, "bf16", 3, "align1", "K=107 %8==3"),
        (108, 4096, "bf16", 2, "align2", "K=108 %8==4"),
        (112, 4096, "bf16", 1, "native", ""),
        (4096, 4094, "fp16", 2, "align2", "N=4094 %8==6"),
        (4096, 4095, "fp16", 3, "align1", "N=4095 %8==7"),
        (106, 107, "bf16", 3, "align1", "K=106 %8==2, N=107 %8==3"),
        (4092, 4096, "fp32", 1, "native", ""),
        (4090, 4096, "fp32", 2, "simt", "K=4090 %4==2"),
        (4095, 4096, "fp32", 2, "simt", "K=4095 %4==3"),
        (4096, 4094, "tf32", 3, "align1", "N=4094 %4==2"),
        (4096, 4095, "fp64", 2, "simt", "N=4095 %2==1"),
        (4096, 4080, "int8", 1, "native", ""),
        (4096, 4088, "int8", 2, "align4", "N=4088 %16==8"),
        (4096, 4092, "int8", 4, "error", "N=4092 %8==4: _int_mm"),
        (4096, 4080, "fp8", 1, "native", ""),
        (4096, 4088, "fp8", 4, "error", "N=4088 %16==8: _scaled_mm"),
        (4096, 4096, "int4", 4, "error", "h200 has no int4 matmul"),
        (4096, 1, "bf16", 1, "gemv", ""),
        (4095, 1, "bf16", 2, "gemv.unaligned", "K=4095 %8==7"),
    ],
)
def test_prefill(k: int, n: int, dtype: str, tier: int, kernel: str, reason: str) -> None:
    found = predict_matmul(matmul(k, n, dtype), H200, PREFILL)
    assert found == TierPrediction(tier, kernel, reason)


@pytest.mark.parametrize("layout", [Layout.LINEAR, Layout.CONV1D, Layout.ACTIVATION])
def test_the_way_the_weight_lies_does_not_matter(layout: Layout) -> None:
    found = predict_matmul(matmul(4096, 1107, layout=layout), H200, PREFILL)
    assert found == TierPrediction(3, "align1", "N=1107 %8==3")


@pytest.mark.parametrize("seq", [2, 3, 2047, 2048])
def test_rows_are_free(seq: int) -> None:
    found = predict_matmul(matmul(4096, 4096), H200, Workload(seq=seq))
    assert found == TierPrediction(1, "native")


@pytest.mark.parametrize(
    ("k", "n", "tier", "kernel", "reason"),
    [
        (4096, 4096, 1, "gemv", ""),
        (107, 4096, 2, "gemv.unaligned", "K=107 %8==3"),
        (4096, 1108, 2, "gemv.unaligned", "N=1108 %8==4"),
    ],
)
def test_one_token(k: int, n: int, tier: int, kernel: str, reason: str) -> None:
    found = predict_matmul(matmul(k, n), H200, DECODE)
    assert found == TierPrediction(tier, kernel, reason)


def test_several_sequences_in_decode_are_a_matmul() -> None:
    found = predict_matmul(matmul(4096, 4096), H200, replace(DECODE, batch=2))
    assert found.kernel == "native"


def test_grouped_matmuls_are_legal_or_not() -> None:
    experts = matmul(4096, 1112, layout=Layout.EXPERTS)
    assert predict_matmul(experts, H200, PREFILL) == TierPrediction(1, "grouped")
    assert predict_matmul(experts, H200, DECODE) == TierPrediction(1, "grouped")
    found = predict_matmul(replace(experts, n=Extent(1108)), H200, PREFILL)
    assert found == TierPrediction(4, "error", "N=1108 %8==4: _grouped_mm")
    found = predict_matmul(replace(experts, k=Extent(4094)), H200, PREFILL)
    assert found == TierPrediction(4, "error", "K=4094 %8==6: _grouped_mm")
    narrow = replace(experts, n=Extent(1108), dtype="fp32")
    assert predict_matmul(narrow, H200, PREFILL).tier == 2


@pytest.mark.parametrize(
    ("gpu", "dtype", "reason"),
    [
        ("a100", "bf16", "sm80: one matmul for each expert"),
        ("rtx4090", "bf16", "sm89: one matmul for each expert"),
        ("gb10", "bf16", "sm121: one matmul for each expert"),
        ("h200", "fp16", "fp16: one matmul for each expert"),
        ("b200", "fp32", "fp32: one matmul for each expert"),
    ],
)
def test_experts_run_in_a_loop_but_for_bf16_on_hopper_and_b200(
    gpu: str, dtype: str, reason: str
) -> None:
    experts = matmul(4096, 1112, dtype, layout=Layout.EXPERTS)
    found = predict_matmul(experts, load(gpu), PREFILL)
    assert found == TierPrediction(2, "grouped.loop", reason)
    assert predict_matmul(replace(experts, dtype="bf16"), load("b200"), PREFILL).tier == 1


def test_int_mm_wants_more_than_16_rows() -> None:
    site = matmul(4096, 4092, "int8")
    found = predict_matmul(site, H200, replace(DECODE, batch=16))
    assert found == TierPrediction(4, "error", "M=16 <=16, N=4092 %8==4: _int_mm")
    legal = matmul(4096, 4096, "int8")
    assert predict_matmul(legal, H200, replace(DECODE, batch=17)).tier == 1


def test_fp8_needs_a_gpu_that_has_it() -> None:
    found = predict_matmul(matmul(4096, 4096, "fp8"), A100, PREFILL)
    assert found == TierPrediction(4, "error", "a100 has no fp8 matmul")


def test_strides_count_like_sizes() -> None:
    wide = matmul_tier(2048, 4088, 4096, "bf16", H200, strides=(4096,))
    assert wide == TierPrediction(1, "native")
    odd = matmul_tier(2048, 4088, 4096, "bf16", H200, strides=(4095, 4095))
    assert (odd.tier, odd.kernel) == (3, "align1")
    assert odd.reason.startswith("stride=4095 %8==7")


def test_a_profile_may_prefer_a_wider_multiple() -> None:
    picky = replace(H200, align={**H200.align, "bf16": 64})
    found = predict_matmul(matmul(4096, 1112), picky, PREFILL)
    assert found == TierPrediction(2, "native", "N=1112 %64==24")
    assert predict_matmul(matmul(4096, 1088), picky, PREFILL).tier == 1
    assert aligned(1112, "bf16", H200)
    assert not aligned(1112, "bf16", picky)


@pytest.mark.parametrize(
    ("size", "dtype", "answer"),
    [(1112, "bf16", True), (1108, "bf16", False), (1108, "fp32", True), (1112, "fp8", False)],
)
def test_aligned(size: int, dtype: str, answer: bool) -> None:
    assert aligned(size, dtype, H200) is answer


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(["bf16", "fp16", "fp32", "tf32"])
)
def test_tier_1_is_exactly_alignment(k: int, n: int, dtype: str) -> None:
    found = matmul_tier(512, k, n, dtype, H200)
    both = aligned(k, dtype, H200) and (n == 1 or aligned(n, dtype, H200))
    assert (found.tier == 1) == both == (found.reason == "")


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_round_up(size: int, multiple: int) -> None:
    found = round_up(size, multiple)
    assert found % multiple == 0
    assert 0 <= found - size < multiple
    assert (misfits([("N", size)], multiple) == "") == (found == size)


def test_every_kernel_is_known_to_profiles() -> None:
    assert {kernel for kernel in TIERS if kernel != "grouped.loop"} <= set(KERNELS)
    assert load("a100").share_of("grouped.loop") == load("a100").share_of("grouped")
