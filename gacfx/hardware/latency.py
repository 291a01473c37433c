"""About how long a site takes: (site, tier, profile, workload) -> Latency.

A roofline with tile and wave quantization (the form of NeuSight, arXiv 2407.13853):

    waves    = ceil(ceil(M / Tm) * ceil(N / Tn) * count * split / SMs)
    compute  = waves * Tm * Tn * 2 * ceil(K / split / Tk) * Tk / (peak / SMs * tile share * f_tier)
    us       = max(compute, bytes / (bandwidth * f_mem)) + launches * launch_us

with the fastest of the profile's tiles and of the ways to split K. Padding, adding up a split K and
softmax in the math backend are stages of their own, whose times add up. For one class of kernel
the estimate never falls when M, K or N grows, so it can rank the sizes of a dim.

It is **rule-based until calibrated**: no figure here or in the shipped profiles was measured, the
coefficients are estimates (see the profile's ``sources``), caches are left out. Compare candidates
with it, do not quote it. Measured times in a profile are not mixed in: the two do not compare.
"""

# B batch, H heads, S sequence, D head dim

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Literal

from gacfx.core.sites import AttentionSite, CopySite, Extent, MatmulSite, Site, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.gemm import HALF, round_up
from gacfx.hardware.profile import DTYPE_BYTES, Profile, Tile
from gacfx.hardware.sdpa import FLASH_MULTIPLE, flash_template

Bound = Literal["compute", "memory", "launch"]
Product = MatmulSite | AttentionSite

SPLITS = (1, 2, 4, 8, 16)
"""Ways to split K over thread blocks; estimate of what cuBLAS considers."""
PAD_LAUNCHES = 3
"""Kernels that pad q, k and v: 3 to 6, one or two each; the lower end."""
MATH_LAUNCHES = 8
"""Estimate: three upcasts, scale, product, softmax, product, downcast."""
MATH_PRODUCT_PASSES = 2
"""The first product writes the scores, the second reads them."""
MATH_SOFTMAX_PASSES = 2
"""Softmax reads and writes the scores."""
MATH_UPCAST_SINCE = (2, 5)
"""torch from which the math backend computes half precision in fp32; source of pytorch."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Estimated time of one site."""

    us: float
    """Estimate; infinite for an illegal call."""
    bound: Bound
    """What takes the most time."""
    floor_us: float
    """At full peak and full bandwidth, each operand moved once: no kernel is faster."""
    flops: int
    """What the operation needs: no padding, causality used."""
    bytes: int
    """What the predicted kernel moves: padding, partial sums and stored scores included."""
    compute_us: float = 0.0
    """Of ``us``: stages that arithmetic bounds. The three parts of an illegal call are 0."""
    memory_us: float = 0.0
    """Of ``us``: stages that memory bounds."""
    launch_us: float = 0.0
    """Of ``us``: starting the kernels."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """Kernels that overlap arithmetic with memory; stages run one after the other."""

    compute_us: float
    bytes: int
    launches: int = 1
    f_mem: float = 1.0
    """Share of the usual bandwidth."""


def _parts(stages: Sequence[_Stage], profile: Profile) -> dict[Bound, float]:
    """Microseconds by what bounds them; their sum is the time of all stages."""
    parts: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "launch": 0.0}
    usual = profile.bandwidth_gbps * profile.latency.f_mem * 1e3
    for stage in stages:
        memory_us = stage.bytes / (usual * stage.f_mem)
        longer: Bound = "compute" if stage.compute_us > memory_us else "memory"
        parts[longer] += max(stage.compute_us, memory_us)
        parts["launch"] += stage.launches * profile.latency.launch_us
    return parts


def _us(stages: tuple[_Stage, ...], profile: Profile) -> float:
    return sum(_parts(stages, profile).values())


def estimate_us(site: Site, tier: TierPrediction, profile: Profile, workload: Workload) -> Latency:
    """Estimated time of a site that runs in the predicted class of kernel.

    Raises:
        ProfileError: the profile has no peak for the dtype or no f_tier for the kernel.
    """
    if isinstance(site, CopySite):
        return copy_us(site.kernels(workload), site.dtype, profile)
    flops = _flops(site, workload)
    if tier.tier == 4:
        return Latency(us=inf, bound="compute", floor_us=0.0, flops=flops, bytes=0)
    compute_us = flops / (profile.peak_for(site.dtype) * 1e6)
    floor_us = max(compute_us, _bytes(site, workload) / (profile.bandwidth_gbps * 1e3))
    if isinstance(site, MatmulSite):
        stages = _matmul(site, tier.kernel, profile, workload)
    else:
        stages = _attention(site, tier.kernel, profile, workload)
    return _latency(stages, floor_us, flops, profile)


def copy_us(kernels: Sequence[int], dtype: str, profile: Profile) -> Latency:
    """Estimated time of kernels that read and write so many numbers: a gather, a join, a sum.

    Args:
        kernels: numbers that each of them writes.
        dtype: of the numbers.
        profile: whose bandwidth and launch cost count.
    """
    stages = tuple(_Stage(0.0, 2 * elements * DTYPE_BYTES[dtype]) for elements in kernels)
    floor_us = sum(stage.bytes for stage in stages) / (profile.bandwidth_gbps * 1e3)
    return _latency(stages, floor_us, 0, profile)


def _latency(stages: Sequence[_Stage], floor_us: float, flops: int, profile: Profile) -> Latency:
    parts = _parts(stages, profile)
    return Latency(
        us=sum(parts.values()),
        bound=max(parts, key=lambda cause: parts[cause]),
        floor_us=floor_us,
        flops=flops,
        bytes=sum(stage.bytes for stage in stages),
        compute_us=parts["compute"],
        memory_us=parts["memory"],
        launch_us=parts["launch"],
    )


def wave_efficiency(m: int, n: int, tile: Tile, sms: int) -> float:
    """Share of the streaming multiprocessors that work, over all waves of an M x N output.

    On 132 of them, with tiles of 128 x 256 and M 2048: N 4096 gives 0.97, N 4224 gives 0.69.
    """
    waves = ceil(m / tile.m) * ceil(n / tile.n) / sms
    return waves / ceil(waves)


def flash_pad_bytes(site: AttentionSite, workload: Workload) -> int:
    """Traffic of padding q, k and v before flash: read d, fill and write d rounded up to 8."""
    padded = round_up(site.d_qk, FLASH_MULTIPLE)
    if padded == site.d_qk:
        return 0
    queries, keys = _rows(site, workload)
    return (queries + 2 * keys) * (site.d_qk + 2 * padded) * DTYPE_BYTES[site.dtype]


def _flops(site: Product, workload: Workload) -> int:
    """What the operation needs: about half of the products of a causal square."""
    flops = site.flops(workload)
    if isinstance(site, MatmulSite) or not site.call(workload).causal:
        return flops
    s_q, s_k = _lengths(workload)
    return flops * (s_k + 1) // (2 * s_k) if s_q == s_k else flops


def _bytes(site: Product, workload: Workload, multiple: int = 1) -> int:
    """Operands and result, each once; head dims are rounded up to ``multiple``."""
    size = DTYPE_BYTES[site.dtype]
    if isinstance(site, MatmulSite):
        m, k, n = site.sizes(workload)
        used = min(site.experts, m)  # rows that all go to different experts read one weight each
        return (m * k + used * k * n + m * n) * site.count.at(workload) * size
    s_q, s_k = _lengths(workload)
    width = round_up(site.d_qk, multiple) + round_up(site.d_v, multiple)
    mask = workload.batch * s_q * s_k if site.call(workload).mask else 0
    return (sum(_rows(site, workload)) * width + mask) * size


def _lengths(workload: Workload) -> tuple[int, int]:
    """(S_q, S_k): in decode one query and the whole KV cache."""
    return Extent(1, "query").at(workload), Extent(1, "key").at(workload)


def _rows(site: AttentionSite, workload: Workload) -> tuple[int, int]:
    """(B H_q S_q, B H_kv S_k), with the heads of K and V as the call passes them."""
    s_q, s_k = _lengths(workload)
    heads_kv = site.heads_kv if site.call(workload).gqa else site.heads_q
    return workload.batch * site.heads_q * s_q, workload.batch * heads_kv * s_k


def _matmul(
    site: MatmulSite, kernel: str, profile: Profile, workload: Workload
) -> tuple[_Stage, ...]:
    if kernel.startswith("gemv"):
        # One vector: CUDA cores do it, and narrow loads cost bandwidth rather than arithmetic.
        peak = min(profile.peak_for("fp32"), profile.peak_for(site.dtype))
        compute_us = site.flops(workload) / (peak * 1e6)
        share = profile.share_of(kernel)
        return (_Stage(compute_us, _bytes(site, workload), f_mem=share),)
    options = (
        _tiled(site, tile, split, kernel, profile, workload)
        for tile in profile.latency.tiles
        for split in SPLITS
    )
    return min(options, key=lambda stages: _us(stages, profile))


def _tiled(
    site: MatmulSite, tile: Tile, split: int, kernel: str, profile: Profile, workload: Workload
) -> tuple[_Stage, ...]:
    """A matmul with one tile; ``split`` blocks share a K, a second kernel adds their fp32 sums."""
    m, k, n = site.sizes(workload)
    count = site.count.at(workload)
    used = min(site.experts, m)  # rows spread evenly; a tile never spans two experts
    blocks = ceil(m / (used * tile.m)) * ceil(n / tile.n) * count * split
    launches = used if kernel.endswith(".loop") else 1  # in a loop experts share no wave
    waves = launches * ceil(blocks * used / launches / profile.sms)
    depth = profile.latency.tile_k_bytes // DTYPE_BYTES[site.dtype]
    flops = 2 * tile.m * tile.n * round_up(ceil(k / split), depth)
    peak_per_sm = profile.peak_for(site.dtype) * 1e6 / profile.sms
    rate = peak_per_sm * tile.share * profile.share_of(kernel)
    product = _Stage(waves * flops / rate, _bytes(site, workload), launches)
    if split == 1:
        return (product,)
    partial = split * m * n * count * DTYPE_BYTES["fp32"]
    return product, _Stage(0.0, 2 * partial, launches)


def _attention(
    site: AttentionSite, kernel: str, profile: Profile, workload: Workload
) -> tuple[_Stage, ...]:
    if kernel == "math":
        return _math(site, profile, workload)
    rate = profile.peak_for(site.dtype) * profile.share_of(kernel) * 1e6
    flops = _flops(site, workload)
    if not kernel.startswith("flash"):
        return (_Stage(flops / rate, _bytes(site, workload)),)
    # Flash computes with the width of its template, whatever the head dim.
    compute_us = flops / rate * flash_template(site.d_qk, profile.stack.torch) / site.d_qk
    kernels = (_Stage(compute_us, _bytes(site, workload, FLASH_MULTIPLE)),)
    if pad := flash_pad_bytes(site, workload):
        return _Stage(0.0, pad, PAD_LAUNCHES), *kernels
    return kernels


def _math(site: AttentionSite, profile: Profile, workload: Workload) -> tuple[_Stage, ...]:
    """The math backend: copies in fp32, K and V repeated, all scores written to memory."""
    upcast = site.dtype in HALF and profile.stack.torch >= MATH_UPCAST_SINCE
    dtype = "fp32" if upcast else site.dtype
    size = DTYPE_BYTES[dtype]
    compute_us = site.flops(workload) / (profile.peak_for(dtype) * profile.share_of("math") * 1e6)
    queries, keys = _rows(site, workload)
    s_k = _lengths(workload)[1]
    repeated = workload.batch * site.heads_q * s_k
    operands = (queries + repeated) * (site.d_qk + site.d_v) * size
    scores = queries * s_k * size
    copies = operands + _bytes(site, workload) if upcast or repeated != keys else 0
    products = _Stage(compute_us, operands + MATH_PRODUCT_PASSES * scores, 2)
    return products, _Stage(0.0, copies + MATH_SOFTMAX_PASSES * scores, MATH_LAUNCHES - 2)
