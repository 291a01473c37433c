"""The latency model: arithmetic that can be checked by hand, order that planning relies on.

No figure here is a measurement; the tests compare the model with itself and with its formula.
"""

from dataclasses import replace
from math import inf, isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.sites import (
    AttentionCall,
    AttentionSite,
    Extent,
    Layout,
    MatmulSite,
    Site,
    Workload,
)
from gacfx.core.tiers import TierPrediction
from gacfx.errors import ProfileError
from gacfx.hardware.latency import Latency, estimate_us, flash_pad_bytes, wave_efficiency
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import Profile, Tile, load, names

A100, H200 = load("a100"), load("h200")
PREFILL = Workload(batch=1, seq=2048)
DECODE = Workload(batch=1, seq=4096, mode="decode")
PROFILES = [load(name) for name in names()]
CHECKED = [profile for profile in PROFILES if profile.evidence == "rules"]
"""What holds of all GPUs for certain is in test_hardware_vendor_profiles.py."""


def matmul(m: int, k: int, n: int, dtype: str = "bf16", count: int = 1) -> MatmulSite:
    return MatmulSite(
        name="a.b", m=Extent(m), k=Extent(k), n=Extent(n), dtype=dtype, count=Extent(count)
    )


def attention(
    d: int,
    d_v: int | None = None,
    *,
    heads_kv: int = 32,
    mask: bool = False,
    causal: bool = False,
    gqa: bool = False,
    dtype: str = "bf16",
) -> AttentionSite:
    call = AttentionCall(mask=mask, causal=causal, gqa=gqa)
    return AttentionSite("a.b", 32, heads_kv, d, d if d_v is None else d_v, dtype, call, call)


def estimate(site: Site, profile: Profile = H200, workload: Workload = PREFILL) -> Latency:
    return estimate_us(site, predict(site, profile, workload), profile, workload)


@pytest.mark.parametrize(("n", "efficiency"), [(4096, 0.97), (4224, 0.69)])
def test_waves_on_132_multiprocessors(n: int, efficiency: float) -> None:
    assert wave_efficiency(2048, n, Tile(128, 256, 1.0), H200.sms) == pytest.approx(
        efficiency, abs=0.005
    )


@pytest.mark.parametrize(
    ("n", "count", "share", "waves"),
    [(4096, 1, 1.0, 2), (4224, 1, 1.0, 3), (4096, 3, 1.0, 6), (4096, 1, 0.5, 2)],
)
def test_one_tile_by_hand(n: int, count: int, share: float, waves: int) -> None:
    """128 x 256 tiles on 132 multiprocessors: 256 tiles are 2 waves, 272 are 3, 768 are 6."""
    tiles = (Tile(128, 256, share),)
    one = replace(H200, latency=replace(H200.latency, tiles=tiles, launch_us=1e-9))
    rate = 989e6 / 132 * H200.latency.f_tier["native"] * share
    wanted = waves * 2 * 128 * 256 * 4096 / rate
    assert estimate(matmul(2048, 4096, n, count=count), one).us == pytest.approx(wanted, rel=1e-6)


def test_the_model_takes_the_fastest_tile() -> None:
    both = estimate(matmul(2048, 4096, 4224)).us
    only = [
        estimate(
            matmul(2048, 4096, 4224), replace(H200, latency=replace(H200.latency, tiles=(tile,)))
        ).us
        for tile in H200.latency.tiles
    ]
    assert both == min(only) < max(only)


def test_counts_of_a_matmul() -> None:
    found = estimate(matmul(2048, 4096, 4096, count=3))
    assert found.flops == 2 * 2048 * 4096 * 4096 * 3
    assert found.bytes == (2048 * 4096 + 4096 * 4096 + 2048 * 4096) * 3 * 2
    assert found.floor_us == pytest.approx(found.flops / 989e6)
    assert found.bound == "compute"


def test_a_vector_is_bound_by_the_weight() -> None:
    found = estimate(matmul(1, 8192, 8192))
    assert found.bound == "memory"
    assert found.floor_us == pytest.approx(8192 * 8194 * 2 / 4800e3)
    assert found.us == pytest.approx(found.floor_us / (0.9 * 0.95) + 3.0)
    assert estimate(matmul(1, 8192, 8191)).us > found.us


def test_a_small_matmul_is_bound_by_its_launch() -> None:
    assert estimate(matmul(1, 64, 64)).bound == "launch"


def test_a_thin_matmul_splits_its_long_k() -> None:
    """One 64 x 64 tile would leave 131 multiprocessors idle."""
    found = estimate(matmul(16, 16384, 64))
    operands = (16 * 16384 + 16384 * 64 + 16 * 64) * 2
    partial_sums = found.bytes - operands
    assert partial_sums > 0
    assert partial_sums % (2 * 16 * 64 * 4) == 0


@pytest.mark.parametrize("profile", CHECKED, ids=lambda profile: profile.name)
def test_alignment_pays_in_prefill(profile: Profile) -> None:
    odd, even, good = (estimate(matmul(2048, 4096, n), profile).us for n in (1107, 1108, 1112))
    assert odd > even > good
    low, high = (estimate(matmul(2048, k, 4096), profile).us for k in (107, 112))
    assert low > high


def test_experts_share_the_waves() -> None:
    """64 small products fill the GPU together; one after the other they would not."""
    one = matmul(64, 2048, 1024)
    many = replace(one, layout=Layout.EXPERTS, count=Extent(64))
    assert estimate(many).us < 64 * estimate(one).us / 2


def test_experts_in_a_loop_are_launched_one_by_one() -> None:
    """Eight experts of 128 x 128 fill 8 of 108 multiprocessors together, and one each in a loop."""
    experts = replace(matmul(1024, 2048, 128), layout=Layout.EXPERTS, experts=8)
    one = replace(A100, latency=replace(A100.latency, tiles=(Tile(128, 128, 1.0),), launch_us=50))
    together, looped = (
        estimate_us(experts, TierPrediction(2, kernel), one, PREFILL).us - launches * 50
        for kernel, launches in (("grouped", 1), ("grouped.loop", 8))
    )
    assert looped == pytest.approx(8 * together)


SIZES = st.integers(1, 600).map(lambda i: 8 * i)


@given(st.integers(2, 5000), SIZES, SIZES, st.sampled_from([1, 8, 256]))
def test_more_of_the_same_never_costs_less(m: int, k: int, n: int, more: int) -> None:
    tier = TierPrediction(1, "native")
    us = estimate_us(matmul(m, k, n), tier, H200, PREFILL).us
    for bigger in (matmul(m + more, k, n), matmul(m, k + more, n), matmul(m, k, n + more)):
        assert estimate_us(bigger, tier, H200, PREFILL).us >= us * (1 - 1e-12)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from(["bf16", "fp32", "tf32", "fp64", "int8"]),
    st.sampled_from(PROFILES),
)
def test_no_matmul_beats_its_floor(m: int, k: int, n: int, dtype: str, profile: Profile) -> None:
    found = estimate(matmul(m, k, n, dtype), profile)
    assert found.us >= found.floor_us >= 0


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 3000),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "fp32"]),
    st.sampled_from(["prefill", "decode"]),
)
def test_no_attention_beats_its_floor(
    d: int, d_v: int, seq: int, mask: bool, causal: bool, gqa: bool, dtype: str, mode: str
) -> None:
    site = attention(d, d_v, heads_kv=8, mask=mask, causal=causal and not mask, gqa=gqa)
    workload = Workload(batch=2, seq=seq, mode="decode" if mode == "decode" else "prefill")
    for profile in PROFILES:
        found = estimate(replace(site, dtype=dtype or profile.usual_dtype), profile, workload)
        assert isfinite(found.us)
        assert found.us >= found.floor_us > 0


LONG = Workload(batch=4, seq=2048)


def test_pad_traffic_by_hand() -> None:
    """4 x 2048 x 32 heads x three tensors x (read 129, fill 136, write 136) x 2 bytes."""
    assert flash_pad_bytes(attention(129), LONG) == 630718464
    assert flash_pad_bytes(attention(136), LONG) == 0
    grouped = attention(129, heads_kv=8, gqa=True)
    assert flash_pad_bytes(grouped, LONG) == 630718464 // 3 * (32 + 2 * 8) // 32
    repeated = attention(129, heads_kv=8)
    assert flash_pad_bytes(repeated, LONG) == 630718464


@pytest.mark.parametrize("profile", CHECKED, ids=lambda profile: profile.name)
def test_head_dims_cost_a_tax_with_flash_and_a_cliff_with_a_mask(profile: Profile) -> None:
    best, padded = (estimate(attention(d), profile, LONG) for d in (112, 107))
    assert best.us < padded.us < 4 * best.us
    assert padded.bytes == best.bytes + flash_pad_bytes(attention(107), LONG)
    best, math = (estimate(attention(d, mask=True), profile, LONG) for d in (112, 107))
    assert math.us > 5 * best.us


def test_flash_pays_for_its_template() -> None:
    """Prefill on A100: 104 costs what 128 costs, and 136 what 192 costs, in arithmetic."""
    times = {d: estimate(attention(d), A100, LONG).us for d in (96, 104, 128, 136, 192)}
    assert times[104] == pytest.approx(times[128])
    assert times[136] == pytest.approx(times[192])
    assert times[96] < times[104] < times[136]


def test_math_is_fp32_with_stored_scores() -> None:
    """A100, d 129: two fp32 products of 277 GFLOP at 19.5 TFLOPS need at least 14.2 ms."""
    site, math = attention(129), TierPrediction(3, "math")
    found = estimate_us(site, math, A100, LONG)
    products_us = found.flops / 19.5e6
    assert products_us == pytest.approx(14.2e3, rel=0.01)
    assert found.us > products_us
    assert found.bytes > 4 * (4 * 32 * 2048 * 2048 * 4)
    before_2_5 = A100.with_stack(torch=(2, 3), cudnn=8902)
    assert estimate_us(site, math, before_2_5, LONG).us < products_us


def test_causal_is_half_the_work() -> None:
    full, half = (estimate(attention(128, causal=causal), H200, LONG) for causal in (False, True))
    assert half.flops / full.flops == pytest.approx(0.5, abs=0.001)
    assert half.us < 0.6 * full.us
    assert half.bytes == full.bytes


def test_decode_reads_the_cache() -> None:
    batch = Workload(batch=8, seq=4096, mode="decode")
    found = estimate(attention(128), H200, batch)
    assert found.bound == "memory"
    assert found.bytes == 8 * 32 * (4096 + 1) * 256 * 2
    shared = estimate(attention(128, heads_kv=8, gqa=True), H200, batch)
    assert shared.bytes == 8 * (8 * 4096 + 32) * 256 * 2
    longer = replace(batch, seq=8192)
    assert estimate(attention(128), H200, longer).us > 1.9 * found.us
    padded = estimate(attention(127), H200, batch)
    assert padded.us > 3 * found.us


def test_a_mask_is_read() -> None:
    with_mask, without = (estimate(attention(128, mask=mask), H200, LONG) for mask in (True, False))
    assert with_mask.bytes - without.bytes == 4 * 2048 * 2048 * 2


@pytest.mark.parametrize(
    "site", [matmul(2048, 4096, 4096), matmul(64, 64, 64), matmul(1, 4096, 4096), attention(128)]
)
def test_the_parts_are_the_whole_and_the_longest_is_the_bound(site: Site) -> None:
    found = estimate(site)
    parts = {
        "compute": found.compute_us,
        "memory": found.memory_us,
        "launch": found.launch_us,
    }
    assert sum(parts.values()) == pytest.approx(found.us, rel=1e-12)
    assert max(parts, key=lambda part: parts[part]) == found.bound
    assert found.launch_us >= H200.latency.launch_us


def test_what_is_illegal_takes_for_ever() -> None:
    found = estimate(matmul(2048, 4096, 4088, "fp8"))
    assert found == Latency(inf, "compute", 0.0, 2 * 2048 * 4096 * 4088, 0)
    assert estimate(attention(128, heads_kv=5, gqa=True)).us == inf
    assert estimate(matmul(8, 8, 8, "int4")).us == inf


def test_unknown_dtypes_and_kernels_are_named() -> None:
    with pytest.raises(ProfileError, match="h200: unknown dtype 'int4'"):
        estimate_us(attention(128, dtype="int4"), TierPrediction(1, "cudnn"), H200, DECODE)
    assert estimate(attention(128, dtype="int4")).us == inf
    with pytest.raises(ProfileError, match="no f_tier for kernel 'wizard'"):
        estimate_us(matmul(8, 8, 8), TierPrediction(1, "wizard"), H200, DECODE)
