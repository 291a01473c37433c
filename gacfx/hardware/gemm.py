"""Which class of kernel a matmul gets: (site, profile, workload) -> TierPrediction.

    kernel          when                                                       tier
    native          K, N and row strides are multiples of 16 bytes               1
    gemv            the same with M == 1 or N == 1 (one vector: bandwidth)       1
    grouped         experts, the same, in bf16 on sm90 and sm10x                 1
    grouped.loop    experts elsewhere: one matmul for each                       2
    any of these    but below the multiple that the profile prefers              2
    align2          half precision, multiples of 4 bytes only                    2
    align4          int8, K and N multiples of 8 bytes only                      2
    simt            fp32 and fp64, below 16 bytes: narrow loads on CUDA cores    2
    gemv.unaligned  M == 1 or N == 1, below 16 bytes: narrow loads               2
    align1          half precision with an odd K or N; tf32 below 16 bytes       3
    error           the call is illegal                                          4

``F.linear``, X[M, K] and W[N, K], is cuBLAS TN with leading dimensions K, K and N, so **K and N
count and M is free** (cuBLAS documentation 2.1.11, tensor core usage). The Conv1D of GPT-2 stores
W as [K, N]; its leading dimensions are K, N and N, and the rule is the same. Kernel names are those
of cuBLASLt 13.1 on sm80 (``ldg8``, ``align2``, ``align1``); which family serves misaligned halves
elsewhere is not published, so there the classes are a guess by analogy: sm75, sm86 to sm89 and
sm12x have the tensor core instructions of sm80's kind, sm90 and sm10x others.
"""

from math import gcd

from gacfx.core.sites import Layout, MatmulSite, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.profile import DTYPE_BYTES, Profile

VECTOR_BYTES = 16
"""Widest load of a thread; cuBLAS documentation 2.1.11."""
INT_MM_MULTIPLE = 8
"""``torch._int_mm`` refuses other K and N; source of pytorch."""
INT_MM_ROWS = 16
"""``torch._int_mm`` wants more rows than this; source of pytorch."""
GROUPED_MAJORS = (9, 10)
"""Compute capabilities for which ``_grouped_mm`` has a kernel; source of pytorch."""
HALF = ("bf16", "fp16")
TIERS = {
    "native": 1,
    "gemv": 1,
    "grouped": 1,
    "grouped.loop": 2,
    "align2": 2,
    "align4": 2,
    "simt": 2,
    "gemv.unaligned": 2,
    "align1": 3,
}


def predict_matmul(site: MatmulSite, profile: Profile, workload: Workload) -> TierPrediction:
    """Kernel class of a matmul whose operands are contiguous.

    The reason names each size that is in the way: ``N=1107 %8==3``.
    """
    m, k, n = site.sizes(workload)
    return matmul_tier(m, k, n, site.dtype, profile, layout=site.layout)


def matmul_tier(
    m: int,
    k: int,
    n: int,
    dtype: str,
    profile: Profile,
    *,
    layout: Layout = Layout.LINEAR,
    strides: tuple[int, ...] = (),
) -> TierPrediction:
    """Kernel class of Y[M, N] = X[M, K] W.

    Args:
        m: rows, free.
        k: inner size, in elements.
        n: columns, in elements.
        dtype: fp32, bf16, ...
        profile: the GPU.
        layout: how W lies in memory; only experts differ.
        strides: row strides of operands that are slices of wider buffers, in elements.
    """
    if illegal := _illegal(m, k, n, dtype, profile, layout):
        return TierPrediction(4, "error", illegal)
    extents = [("K", k), ("N", n), *(("stride", s) for s in strides)]
    if n == 1:  # the output is a vector: nothing is stored in rows of N
        extents.remove(("N", n))
    vector = VECTOR_BYTES // DTYPE_BYTES[dtype]
    align = gcd(vector, *(size for _, size in extents)) * DTYPE_BYTES[dtype]
    if layout is Layout.EXPERTS:
        kernel, looped = _experts(dtype, profile)
    else:
        kernel, looped = _kernel(dtype, align, min(m, n) == 1), ""
    if reason := misfits(extents, vector):
        return TierPrediction(TIERS[kernel], kernel, reason)
    reason = ", ".join(filter(None, (misfits(extents, profile.align_for(dtype)), looped)))
    return TierPrediction(2 if reason else TIERS[kernel], kernel, reason)


def aligned(size: int, dtype: str, profile: Profile) -> bool:
    """Is a size (in elements) a multiple that the profile prefers for this dtype?"""
    return size % profile.align_for(dtype) == 0


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below ``size``."""
    return -(-size // multiple) * multiple


def misfits(extents: list[tuple[str, int]], multiple: int) -> str:
    """The sizes that are no such multiple: ``K=107 %8==3, N=1107 %8==3``; empty if all are."""
    wrong = [(label, size) for label, size in extents if size % multiple]
    return ", ".join(f"{label}={size} %{multiple}=={size % multiple}" for label, size in wrong)


def _kernel(dtype: str, align_bytes: int, vector: bool) -> str:
    if vector:
        return "gemv" if align_bytes == VECTOR_BYTES else "gemv.unaligned"
    if align_bytes == VECTOR_BYTES:
        return "native"
    if dtype in HALF:
        # cuBLASLt has no half kernels for 8 bytes: align8, align2 and align1 only.
        return "align2" if align_bytes >= 4 else "align1"
    return {"int8": "align4", "tf32": "align1"}.get(dtype, "simt")


def _experts(dtype: str, profile: Profile) -> tuple[str, str]:
    """(kernel, why no better one) of ``_grouped_mm``; source of pytorch 2.10, GroupedBlas.cpp.

    Its one kernel is for bf16 on sm90 and sm10x; else it calls a matmul for each expert.
    """
    major, minor = profile.compute_capability
    if major not in GROUPED_MAJORS:
        return "grouped.loop", f"sm{major}{minor}: one matmul for each expert"
    if dtype != "bf16":
        return "grouped.loop", f"{dtype}: one matmul for each expert"
    return "grouped", ""


def _illegal(m: int, k: int, n: int, dtype: str, profile: Profile, layout: Layout) -> str:
    """Why the call raises instead of running; empty if it is legal.

    Sources: meta registrations of torch 2.13 (``_scaled_mm``), pytorch's ``_int_mm``, and
    ``_grouped_mm``, whose non-unit strides must be multiples of 16 bytes. W of experts may be
    stored either way round, so both K and N are held to that.
    """
    if dtype not in profile.peak_tflops:
        return f"{profile.name} has no {dtype} matmul"
    sizes = [("K", k), ("N", n)]
    if layout is Layout.EXPERTS or dtype == "fp8":
        reason = misfits(sizes, VECTOR_BYTES // DTYPE_BYTES[dtype])
        return reason and f"{reason}: {'_grouped_mm' if layout is Layout.EXPERTS else '_scaled_mm'}"
    if dtype == "int8":
        few = f"M={m} <={INT_MM_ROWS}" if m <= INT_MM_ROWS else ""
        reason = ", ".join(filter(None, (few, misfits(sizes, INT_MM_MULTIPLE))))
        return reason and f"{reason}: _int_mm"
    return ""
