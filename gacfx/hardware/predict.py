"""Predict the kernel of any site: from the profile's measured table if it has the exact shape,
else from the rules."""

from gacfx.core.sites import AttentionSite, CopySite, Extent, MatmulSite, Site, Workload
from gacfx.core.tiers import COPY, TierPrediction
from gacfx.hardware.gemm import predict_matmul
from gacfx.hardware.profile import Profile
from gacfx.hardware.sdpa import predict_attention


def predict(
    site: Site, profile: Profile, workload: Workload, *, measured: bool = True
) -> TierPrediction:
    """Kernel class of a site under a workload; ``measured=False`` asks the rules alone."""
    if isinstance(site, CopySite):
        return TierPrediction(1, COPY, ", ".join(site.what))
    seen = profile.measured.get(measured_key(site, workload)) if measured else None
    chosen = site.chosen if isinstance(site, AttentionSite) else ""
    if seen is not None and (not chosen or seen.kernel.split(".")[0] == chosen):
        return TierPrediction(seen.tier, seen.kernel, seen.reason, source="measured")
    if isinstance(site, MatmulSite):
        return predict_matmul(site, profile, workload)
    return predict_attention(site, profile, workload)


def measured_key(site: MatmulSite | AttentionSite, workload: Workload) -> str:
    """Everything that decides the kernel, as one line of text; sites of equal shape share it.

    ``matmul bf16 linear 1024x4096x1107`` (M x K x N; ``+bias`` and ``x8``, the count, where they
    apply) or ``attention bf16 b4 h32/8 s2048/2048 d128/128 causal gqa`` (heads and lengths of
    queries / of keys, head dims of keys / of values).
    """
    if isinstance(site, MatmulSite):
        return _matmul_key(site, workload)
    return _attention_key(site, workload)


def _matmul_key(site: MatmulSite, workload: Workload) -> str:
    size = "x".join(str(extent) for extent in site.sizes(workload))
    count = site.count.at(workload)
    layout = f"{site.layout}+bias" if site.bias else str(site.layout)
    words = ["matmul", site.dtype, layout, size]
    words += [f"x{count}"] * (count > 1) + [f"experts{site.experts}"] * (site.experts > 1)
    return " ".join(words)


def _attention_key(site: AttentionSite, workload: Workload) -> str:
    call = site.call(workload)
    heads_kv = site.heads_kv if call.gqa else site.heads_q
    s_q, s_k = Extent(1, "query").at(workload), Extent(1, "key").at(workload)
    words = ["attention", site.dtype, f"b{workload.batch}", f"h{site.heads_q}/{heads_kv}"]
    words += [f"s{s_q}/{s_k}", f"d{site.d_qk}/{site.d_v}"]
    # Equal heads make enable_gqa a no-op, so it is no part of the key then.
    flags = {"mask": call.mask, "causal": call.causal, "gqa": heads_kv != site.heads_q}
    return " ".join(words + [name for name, given in flags.items() if given])
