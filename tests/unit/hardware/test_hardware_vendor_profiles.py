"""All profiles that ship, whatever they rest on: a small Llama is forecast on each of them.

Nothing here was measured; the tests hold the figures against each other and against the rules.
"""

from dataclasses import replace
from math import isfinite

import pytest

from gacfx.core.sites import AttentionCall, AttentionSite, Extent, MatmulSite, Site, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.errors import ProfileError
from gacfx.hardware.constants import constants
from gacfx.hardware.latency import estimate_us
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import DTYPE_BYTES, Profile, load, names
from gacfx.hardware.sdpa import backend_order, flash_template, predict_attention

PROFILES = [load(name) for name in names()]
VENDOR = {"a10", "b200", "gb10", "l4", "l40s", "orin", "rtx4090", "rtx5090", "t4"}
HIDDEN, WIDTH, HEADS, HEADS_KV = 2048, 8192, 32, 8
PREFILL = Workload(batch=1, seq=1024)
DECODE = Workload(batch=1, seq=1024, mode="decode")
WORKLOADS = pytest.mark.parametrize("workload", [PREFILL, DECODE], ids=["prefill", "decode"])
EACH = pytest.mark.parametrize("profile", PROFILES, ids=names())


def linear(k: int, n: int, dtype: str) -> MatmulSite:
    return MatmulSite("a.b", m=Extent(1, "token"), k=Extent(k), n=Extent(n), dtype=dtype)


def attention(d: int = 64, dtype: str = "fp16", *, gqa: bool = True) -> AttentionSite:
    call = AttentionCall(mask=False, causal=True, gqa=gqa)
    return AttentionSite("a", HEADS, HEADS_KV if gqa else HEADS, d, d, dtype, call, call)


def layer(dtype: str) -> list[Site]:
    """The sites of one layer of Llama-3.2-1B."""
    sizes = [(HIDDEN, HIDDEN), (HIDDEN, 512), (HIDDEN, WIDTH), (WIDTH, HIDDEN)]
    return [*(linear(k, n, dtype) for k, n in sizes), attention(dtype=dtype)]


def us(profile: Profile, site: Site, workload: Workload) -> float:
    return estimate_us(site, predict(site, profile, workload), profile, workload).us


def test_vendor_figures_say_so() -> None:
    assert {p.name for p in PROFILES if p.evidence == "vendor"} == VENDOR
    for profile in PROFILES:
        vendor = profile.name in VENDOR
        assert profile.known == ("vendor figures only" if vendor else "rules + vendor figures")
        assert profile.forecast == ("vendor figures only" if vendor else "rule-based")


def test_measured_entries_are_counted() -> None:
    seen = replace(load("h200"), measured={"a": TierPrediction(1, "native")})  # type: ignore[dict-item]
    assert seen.known == "measured entries: 1" and seen.forecast == "rule-based"


@EACH
@WORKLOADS
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_site_of_a_small_llama_has_a_tier_and_a_time(
    profile: Profile, workload: Workload, dtype: str
) -> None:
    for site in layer(dtype):
        found = predict(site, profile, workload)
        if dtype not in profile.peak_tflops:
            assert found == TierPrediction(4, "error", f"{profile.name} has no {dtype} matmul")
            continue
        spent = estimate_us(site, found, profile, workload)
        assert found.tier in (1, 2, 3) and isfinite(spent.us)
        assert spent.us >= spent.floor_us > 0


@pytest.mark.parametrize(
    ("faster", "slower"),
    [
        ("b200", "h100"),
        ("h200", "h100"),
        ("h100", "a100"),
        ("a100", "t4"),
        ("a100", "a10"),
        ("l40s", "l4"),
        ("rtx5090", "rtx4090"),
        ("rtx4090", "l4"),
        ("l40s", "orin"),
    ],
)
@WORKLOADS
def test_the_better_gpu_is_not_forecast_slower(
    faster: str, slower: str, workload: Workload
) -> None:
    """As a whole and with many tokens: one size may fill the waves of the slower one better."""
    workload = replace(workload, batch=16)
    fast, slow = (
        sum(us(load(name), site, workload) for site in layer("fp16")) for name in (faster, slower)
    )
    assert fast <= 1.001 * slow  # H100 and H200 differ in the last digit of their peaks


@EACH
def test_peaks_are_dense_and_fit_the_architecture(profile: Profile) -> None:
    """A sparse figure would be twice what one SM does in a cycle, at any clock that exists."""
    half = profile.peak_for(profile.usual_dtype)
    per_sm = {7: 1024, 8: 2048, 9: 4096, 10: 8192, 12: 1024}[profile.compute_capability[0]]
    if profile.compute_capability in ((8, 6), (8, 9)):
        per_sm = 1024
    ghz = half * 1e3 / (profile.sms * per_sm)
    assert 1.2 < ghz < 2.6 or (profile.name.startswith("rtx") and 1.2 < 2 * ghz < 2.6)
    assert profile.peak_for("int8") in (
        pytest.approx(2 * half, rel=0.02),
        pytest.approx(4 * half, rel=0.02),  # GeForce: half precision at half rate
    )


@pytest.mark.parametrize("name", ["rtx4090", "rtx5090"])
def test_geforce_has_half_the_throughput_with_fp32_accumulation(name: str) -> None:
    profile = load(name)
    assert profile.peak_for("bf16") == pytest.approx(2 * profile.peak_for("fp32"), rel=0.01)
    assert profile.peak_for("int8") == pytest.approx(4 * profile.peak_for("bf16"), rel=0.01)


@EACH
def test_dtypes_are_those_of_the_compute_capability(profile: Profile) -> None:
    cc = profile.compute_capability
    assert ("bf16" in profile.peak_tflops) == ("tf32" in profile.peak_tflops) == (cc >= (8, 0))
    assert ("fp8" in profile.peak_tflops) == (cc >= (8, 9))
    assert {"fp64", "fp32", "fp16", "int8"} <= profile.peak_tflops.keys()
    assert {d: 16 // DTYPE_BYTES[d] for d in profile.peak_tflops} == profile.align


@EACH
def test_shared_memory_is_that_of_the_compute_capability(profile: Profile) -> None:
    """And every tile fits with two stages: A and B of depth ``tile_k_bytes``."""
    known = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 120: 99, 121: 99}
    major, minor = profile.compute_capability
    assert profile.smem_kb_per_block == known[10 * major + minor]
    for tile in profile.latency.tiles:
        stage = (tile.m + tile.n) * profile.latency.tile_k_bytes
        assert 2 * stage <= profile.smem_kb_per_block * 1024


@EACH
def test_every_constant_has_its_own_source(profile: Profile) -> None:
    shown = [name for found in constants(profile) for name in found.values]
    assert len(shown) == len(set(shown))
    assert {"device", "sms", "stack.torch", "latency.f_tier.native", "latency.tiles"} < set(shown)
    assert {f"peak_tflops.{d}" for d in profile.peak_tflops} < set(shown)


@pytest.mark.parametrize("name", sorted(VENDOR))
def test_coefficients_of_vendor_profiles_are_analogies(name: str) -> None:
    for found in constants(load(name)):
        if found.what.startswith("latency"):
            assert found.evidence == "estimate"
            assert found.source.startswith("estimate by analogy with ")


# -- rules by compute capability ------------------------------------------------------------------


def test_the_special_source_owns_its_constant() -> None:
    found = {one.what: one for one in constants(load("orin"))}
    assert found["peak_tflops.int8"].values == {"peak_tflops.int8": 85}
    assert "peak_tflops.int8" not in found["peak_tflops"].values


@EACH
def test_cudnn_comes_first_on_sm90_and_sm10x_alone(profile: Profile) -> None:
    first = backend_order(profile)[0]
    assert first == ("cudnn" if profile.compute_capability[0] in (9, 10) else "flash")


@pytest.mark.parametrize("name", ["a10", "orin", "l4", "l40s", "rtx4090", "rtx5090", "gb10"])
@pytest.mark.parametrize("d", [64, 192, 224, 256])
def test_flash_forward_takes_256_also_on_gpus_with_99_kb(name: str, d: int) -> None:
    """What is refused above 192 there is the backward."""
    profile = load(name)
    width = flash_template(d, profile.stack.torch)
    found = predict_attention(attention(d), profile, PREFILL)
    assert found == TierPrediction(1, f"flash.t{width}")


def test_a_t4_has_neither_flash_nor_cudnn_and_math_for_fewer_key_heads() -> None:
    t4 = load("t4")
    assert predict_attention(attention(gqa=False), t4, PREFILL) == TierPrediction(1, "efficient")
    found = predict_attention(attention(), t4, PREFILL)
    assert found == TierPrediction(3, "math", "sm75: not flash; enable_gqa: not efficient")
    odd = predict_attention(attention(107, gqa=False), t4, PREFILL)
    assert (odd.tier, odd.kernel) == (3, "math") and "d=107 %8==3: not efficient" in odd.reason
    free = predict_attention(attention(107, "fp32", gqa=False), t4, PREFILL)
    assert free == TierPrediction(1, "efficient")


def test_b200_hands_cudnn_head_dims_up_to_128() -> None:
    b200 = load("b200")
    assert predict_attention(attention(128), b200, PREFILL) == TierPrediction(1, "cudnn")
    assert predict_attention(attention(136), b200, PREFILL).kernel == "flash.t192"


def test_a_dtype_that_the_gpu_lacks_is_one_line_with_a_remedy() -> None:
    load("t4").check_dtype("fp16")
    with pytest.raises(ProfileError, match=r"t4 cannot multiply bf16, only fp64, .*--dtype fp16\)"):
        load("t4").check_dtype("bf16")
    with pytest.raises(ProfileError, match=r"a10 cannot multiply fp8.*--dtype bf16\)"):
        load("a10").check_dtype("fp8")
