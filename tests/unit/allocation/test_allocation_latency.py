"""Times of candidates: the sum of all kernels, each as it is forecast alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.allocation.latency import Clock, bare, latency_limit
from gacfx.core.decision import DENSE, Decision, Gemm, LowRank, Pivot
from gacfx.core.offered import Offered
from gacfx.core.sites import (
    AttentionCall,
    AttentionSite,
    CopySite,
    Extent,
    Layout,
    MatmulSite,
    Workload,
)
from gacfx.core.tiers import COPY
from gacfx.errors import PassError
from gacfx.hardware.latency import copy_us, estimate_us
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import DTYPE_BYTES
from tests.unit import made_curves
from tests.unit.allocation.small import H200, ns_of

RUNS = (
    Workload(1, 1024),
    Workload(64, 2048),
    Workload(1, 512, "decode"),
    Workload(256, 1, "decode"),
    Workload(2, 1024, execution="compiled"),
    Workload(64, 512, "decode", "compiled"),
)
SITES = st.builds(
    lambda rows, columns, bias, layout, dtype: MatmulSite(
        name="layers.0.a",
        m=Extent(1, "token"),
        k=Extent(columns),
        n=Extent(rows),
        dtype=dtype,
        weight="layers.0.a.weight",
        layout=layout,
        bias=bias,
    ),
    st.integers(2, 5000),
    st.integers(2, 5000),
    st.booleans(),
    st.sampled_from([Layout.LINEAR, Layout.CONV1D]),
    st.sampled_from(["bf16", "fp16", "fp32"]),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[MatmulSite, Decision]:
    site = draw(SITES)
    rank = draw(st.integers(1, min(site.n.times, site.k.times) - 1))
    return site, draw(st.sampled_from([DENSE, LowRank(rank), Pivot(rank)]))


@settings(max_examples=60)
@given(cases(), st.sampled_from(RUNS))
def test_a_decision_takes_the_time_of_its_products_and_copies(
    case: tuple[MatmulSite, Decision], run: Workload
) -> None:
    site, decision = case
    # A factor is stored as a linear, whatever the dense weight was.
    stored = site if decision.is_dense else replace(site, layout=Layout.LINEAR)
    assert Clock(H200, run).ns(site, decision) == ns_of(decision, stored, run)


@settings(max_examples=30)
@given(cases(), st.sampled_from(RUNS))
def test_a_product_stands_at_the_tier_of_its_own_site(
    case: tuple[MatmulSite, Decision], run: Workload
) -> None:
    site, decision = case
    rows, columns = site.n.times, site.k.times
    steps = [s for s in decision.work(rows, columns, site.bias) if isinstance(s, Gemm)]
    launches = Clock(H200, run).launches(site, decision)
    products = [launch for launch in launches if launch.tier.kernel != COPY]
    for step, launch in zip(steps, products, strict=True):
        layout = site.layout if decision.is_dense else Layout.LINEAR
        alone = replace(
            site, k=Extent(step.k), n=Extent(step.n), bias=step.bias, layout=layout, weight=None
        )
        assert launch.tier == predict(alone, H200, run)
        assert launch.latency == estimate_us(alone, predict(alone, H200, run), H200, run)


@settings(max_examples=30)
@given(cases(), st.sampled_from(RUNS))
def test_copies_in_a_row_are_kernels_of_their_own_until_they_are_compiled(
    case: tuple[MatmulSite, Decision], run: Workload
) -> None:
    site, decision = case
    launches = Clock(H200, run).launches(site, decision)
    copied = [launch.latency for launch in launches if launch.tier.kernel == COPY]
    runs: list[tuple[int, ...]] = []
    if isinstance(decision, Pivot):
        long = site.n.times > site.k.times
        runs = [(site.k.times,), (decision.rank,)] if long else [(site.n.times,) * (2 + site.bias)]
    size = 2 * run.new_tokens * DTYPE_BYTES[site.dtype]
    for each, found in zip(runs, copied, strict=True):
        kernels = len(each) if run.execution == "eager" else 1
        assert found.bytes == size * max(each) * kernels
        assert found.launch_us == pytest.approx(kernels * H200.latency.launch_us)
        assert found.compute_us == found.flops == 0


def test_a_copy_reads_and_writes_every_number_once() -> None:
    for dtype in ("bf16", "fp32", "int8"):
        found = copy_us([10**7], dtype, H200)
        assert (found.bytes, found.flops, found.compute_us) == (
            2 * 10**7 * DTYPE_BYTES[dtype],
            0,
            0,
        )
        assert found.us == found.memory_us + found.launch_us
        usual = H200.bandwidth_gbps * 1e3 * H200.latency.f_mem
        assert found.memory_us == pytest.approx(found.bytes / usual)
        assert found.launch_us == H200.latency.launch_us
        assert found.floor_us < found.memory_us and found.bound == "memory"
    assert copy_us([1], "bf16", H200).bound == "launch"


def test_copies_take_the_sum_of_their_times() -> None:
    one, other = (copy_us([n], "bf16", H200) for n in (10**7, 10**5))
    both = copy_us([10**7, 10**5], "bf16", H200)
    assert both.us == pytest.approx(one.us + other.us)
    assert both.floor_us == pytest.approx(one.floor_us + other.floor_us)
    assert both.bytes == one.bytes + other.bytes


def test_copies_are_done_as_often_as_the_product() -> None:
    site = replace(
        made_curves.weight("layers.0.a", count=Extent(4)).site, n=Extent(64), k=Extent(64)
    )
    run = Workload(2, 64)
    copies = [
        launch.latency.bytes
        for launch in Clock(H200, run).launches(site, Pivot(32))
        if launch.tier.kernel == COPY
    ]
    assert copies == [2 * (2 * 2 * (4 * 2 * 64) * 64)]


def test_times_are_computed_once_and_cannot_be_changed() -> None:
    clock, site = Clock(H200, Workload()), made_curves.weight("layers.0.a").site
    offered = (LowRank(1), Pivot(4), DENSE)
    found = clock.times(site, offered)
    assert found.tolist() == [clock.ns(site, each) for each in offered]
    assert clock.times(replace(site, name="layers.1.a", weight="other"), offered) is found
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_attention_and_copies_run_as_they_are_whatever_is_decided() -> None:
    call = AttentionCall(mask=False, causal=True, gqa=True)
    site = AttentionSite("layers.0", 32, 8, 128, 128, "bf16", compiled=call, eager=call)
    clock = Clock(H200, Workload())
    (launch,) = clock.launches(site, Pivot(8))
    assert launch == clock.forecast(replace(site, name=""))
    copied = CopySite("layers.0.a", Extent(1, "token"), (64,), "bf16", ("gather",))
    assert clock.launches(copied, Pivot(8)) == (clock.forecast(replace(copied, name="")),)


def test_the_limit_is_an_exact_share_in_whole_nanoseconds() -> None:
    sites = {weight.module: weight.site for weight in made_curves.facts().weights}
    offered = Offered()
    offered.offer(dict.fromkeys(sites, (LowRank(1), Pivot(4), DENSE)))
    clock = Clock(H200, Workload())
    dense = sum(clock.ns(site, DENSE) for site in sites.values())
    whole = latency_limit(sites, offered, H200, Workload())
    assert (whole.most, whole.dense, whole.name) == (dense, dense, "prefill latency")
    assert latency_limit(sites, offered, H200, Workload(), share=0.7).most == dense * 7 // 10
    assert latency_limit(sites, offered, H200, Workload(), us=12.3456).most == 12345
    for module, site in sites.items():
        np.testing.assert_array_equal(
            whole.costs[module], [clock.ns(site, each) for each in (LowRank(1), Pivot(4), DENSE)]
        )


@pytest.mark.parametrize("decision", [DENSE, LowRank(2), Pivot(2)], ids=str)
def test_what_the_gpu_cannot_run_has_no_time(decision: Decision) -> None:
    without = {d: f for d, f in H200.peak_tflops.items() if d != "fp32"}
    profile = replace(H200, peak_tflops=without)
    site = made_curves.weight("layers.0.a", dtype="fp32").site
    with pytest.raises(
        PassError, match="^limit-latency: layers.0.a: h200 has no fp32 matmul; no t"
    ):
        Clock(profile, Workload()).ns(site, decision)


def test_equal_shapes_are_equal_without_their_names() -> None:
    first, second = (made_curves.weight(f"layers.{i}.a").site for i in range(2))
    assert first != second and bare(first) == bare(second)
    assert bare(first) != bare(replace(second, bias=True))
