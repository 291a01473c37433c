"""Which backend an SDPA call gets: (site, profile, workload) -> TierPrediction.

The first backend of the order that refuses nothing wins, unless a compiled graph calls one by name.
"Best" is the one that the same dtype and lengths would get on this device in a plain call with an
aligned head dim.

    kernel              when                                                          tier
    best, not padded    cudnn on sm90 and sm10x from torch 2.11, else flash;            1
                        efficient where neither takes the dtype (fp32)
    flash.tT            behind cudnn, which refuses the head dim                        2
    flash.tT.pad8       d is no multiple of 8: q, k and v are padded on every call      2
    efficient           because of a mask, unequal or wide head dims, ...               2
    math                all others refuse: upcast to fp32, scores in memory             3
    error               query heads are no multiple of key heads, or no such dtype here 4

T is the template of FlashAttention 2, the width that the kernel computes with. Read from the
official Linux wheels of torch 2.3, 2.9.1, 2.10, 2.11 and 2.13 and from pytorch's ``sdp_utils``;
versions between are taken as the nearest older one. Inference: no gradient, no dropout; what flash
refuses above d 192 on sm86, sm89 and sm12x it refuses for gradients only. On sm75 (T4) flash and
cuDNN never run, and ``enable_gqa``, which models pass whenever they have fewer key heads, leaves
math alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gacfx.core.sites import AttentionSite, Extent, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.gemm import HALF, misfits, round_up
from gacfx.hardware.profile import Profile

FLASH_MULTIPLE = 8
"""Flash pads head dims to this; efficient and cuDNN refuse others in half precision."""
FLASH_LIMIT = 256
TEMPLATES: tuple[tuple[tuple[int, int], tuple[int, ...]], ...] = (
    ((2, 11), (32, 64, 96, 128, 192, 256)),
    ((2, 9), (32, 64, 96, 128, 160, 192, 256)),
    ((0, 0), (32, 64, 96, 128, 160, 192, 224, 256)),
)
"""(torch version from which it holds, head-dim templates of FlashAttention 2 in the wheel)."""


Rows = list[tuple[bool, str]]
"""(does it apply, cause)."""
Refusals = tuple[Rows, Rows]
"""(what no size can change, what the head dims decide); the second counts only without the first,
so that no reason promises what an aligned head dim would not bring."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call, as the backends see it."""

    dtype: str
    d_qk: int
    d_v: int
    s_q: int
    s_k: int
    mask: bool
    causal: bool
    gqa: bool
    """K and V have fewer heads, and ``enable_gqa=True`` says so."""

    def misfits(self, multiple: int) -> Rows:
        """(is no multiple, which) for the head dims; one row if they are equal."""
        both = [("d_qk", self.d_qk), ("d_v", self.d_v)]
        dims = both if self.d_qk != self.d_v else [("d", self.d_qk)]
        texts = [misfits([dim], multiple) for dim in dims]
        return [(bool(text), text) for text in texts]

    def wider(self, limit: int) -> tuple[bool, str]:
        """(is a head dim above the limit, by what)."""
        d = max(self.d_qk, self.d_v)
        return d > limit, f"d={d} >{limit}"


def predict_attention(site: AttentionSite, profile: Profile, workload: Workload) -> TierPrediction:
    """Backend of an attention call.

    The reason says what each better backend refuses: ``d=107 %8==3: not cudnn, pads q, k, v``; or
    what the rules expect where a compiled graph calls another one.
    """
    if site.dtype not in profile.peak_tflops:
        return TierPrediction(4, "error", f"{profile.name} has no {site.dtype} matmul")
    how = site.call(workload)
    if how.gqa and site.heads_q % site.heads_kv:
        reason = f"enable_gqa: {site.heads_q} query heads are no multiple of {site.heads_kv}"
        return TierPrediction(4, "error", reason)
    call = _Call(
        dtype=site.dtype,
        d_qk=site.d_qk,
        d_v=site.d_v,
        s_q=Extent(1, "query").at(workload),
        s_k=Extent(1, "key").at(workload),
        mask=how.mask,
        causal=how.causal,
        gqa=how.gqa and site.heads_q != site.heads_kv,
    )
    plain = replace(call, d_qk=64, d_v=64, mask=False, causal=False, gqa=False)
    best, _ = _choose(plain, profile)
    expected, refused = _choose(call, profile)
    found = site.chosen or expected
    pads = found == "flash" and bool(site.d_qk % FLASH_MULTIPLE)
    tier = 3 if found == "math" else 1 if found == best and not pads else 2
    kernel = found
    if found == "flash":
        kernel += f".t{flash_template(site.d_qk, profile.stack.torch)}" + ".pad8" * pads
    if tier == 1:
        return TierPrediction(tier, kernel)
    if found != expected:
        return TierPrediction(tier, kernel, f"compiled so; the rules expect {expected}")
    return TierPrediction(tier, kernel, _reason(call, refused, pads))


def backend_order(profile: Profile) -> tuple[str, ...]:
    """Backends in the order in which torch tries them.

    torch 2.10 and later put cuDNN first on Hopper and data-centre Blackwell if cuDNN is newer than
    9.15; the wheel of 2.10 pins 9.10, so that in effect it begins with 2.11. 2.13 dropped the test
    of the minor version. Behind math, cuDNN is never reached.
    """
    torch, cudnn = profile.stack.torch, profile.stack.cudnn
    major, minor = profile.compute_capability
    suits = major in (9, 10) and (minor in (0, 3) or torch >= (2, 13))
    if torch >= (2, 10) and cudnn > 91500 and suits:
        return "cudnn", "flash", "efficient", "math"
    return "flash", "efficient", "math", "cudnn"


def flash_template(d: int, torch: tuple[int, int]) -> int:
    """Width that FlashAttention 2 computes a head dim of at most 256 with.

    Raises:
        ValueError: the head dim is above 256.
    """
    padded = round_up(d, FLASH_MULTIPLE)
    if padded > FLASH_LIMIT:
        raise ValueError(f"flash takes head dims up to {FLASH_LIMIT}, not {d}")
    templates = next(widths for since, widths in TEMPLATES if torch >= since)
    return next(width for width in templates if width >= padded)


def _choose(call: _Call, profile: Profile) -> tuple[str, dict[str, list[str]]]:
    """The backend that wins, and the causes for which each one before it refuses."""
    refused: dict[str, list[str]] = {}
    for backend in backend_order(profile):
        fixed, sized = _REFUSALS[backend](call, profile)
        refused[backend] = _applying(fixed) or _applying(sized)
        if not refused[backend]:
            break
    return backend, {name: causes for name, causes in refused.items() if causes}


def _applying(rows: Rows) -> list[str]:
    return [cause for applies, cause in rows if applies]


def _reason(call: _Call, refused: Mapping[str, list[str]], pads: bool) -> str:
    """Causes with their effects: ``d=107 %8==3: not cudnn; attn_mask: not flash``."""
    effects: dict[str, list[str]] = {}
    for backend, causes in refused.items():
        for cause in causes:
            effects.setdefault(cause, []).append(f"not {backend}")
    for applies, cause in call.misfits(FLASH_MULTIPLE):
        if pads and applies:
            copies = "pads q, k, v" if call.s_q > 1 else "pads q and copies the KV cache"
            effects.setdefault(cause, []).append(copies)
    return "; ".join(f"{cause}: {', '.join(what)}" for cause, what in effects.items())


def _flash(call: _Call, profile: Profile) -> Refusals:
    fixed = [
        *_half_on_sm80(call, profile),
        (call.mask, "attn_mask"),
        (call.causal and call.s_q != call.s_k, f"causal with {call.s_q} x {call.s_k}"),
    ]
    differ = (call.d_qk != call.d_v, f"d_qk={call.d_qk} d_v={call.d_v} differ")
    return fixed, [differ, call.wider(FLASH_LIMIT)]


def _efficient(call: _Call, profile: Profile) -> Refusals:
    cc, torch = profile.compute_capability, profile.stack.torch
    full = ("fp32", "tf32")
    types = (*HALF, *full) if cc >= (8, 0) else ("fp16", *full)
    fixed = [
        (call.dtype not in types, f"dtype {call.dtype}"),
        (call.gqa and torch <= (2, 13), "enable_gqa"),
    ]
    # Below sm80 only fp16 uses tensor cores (from sm70), and nothing else needs wide loads.
    tensor = cc >= (8, 0) or (call.dtype == "fp16" and cc >= (7, 0))
    unit = (FLASH_MULTIPLE if call.dtype in HALF else 4) if tensor else 1
    return fixed, call.misfits(unit)


def _cudnn(call: _Call, profile: Profile) -> Refusals:
    fixed = [
        *_half_on_sm80(call, profile),
        (profile.stack.cudnn < 90000, "no cuDNN 9"),
        (call.s_k == 1, "one key"),
    ]
    return fixed, [*call.misfits(FLASH_MULTIPLE), call.wider(_cudnn_limit(call, profile))]


def _math(call: _Call, profile: Profile) -> Refusals:
    return [], []


_REFUSALS: Mapping[str, Callable[[_Call, Profile], Refusals]] = {
    "flash": _flash,
    "efficient": _efficient,
    "cudnn": _cudnn,
    "math": _math,
}


def _half_on_sm80(call: _Call, profile: Profile) -> Rows:
    """What flash and cuDNN share: fp16 or bf16, sm80 to sm121."""
    major, minor = profile.compute_capability
    return [
        (call.dtype not in HALF, f"dtype {call.dtype}"),
        (not (8, 0) <= (major, minor) <= (12, 1), f"sm{major}{minor}"),
    ]


def _cudnn_limit(call: _Call, profile: Profile) -> int:
    """Largest head dim that torch hands to cuDNN; strings of the 2.9.1 to 2.13 wheels."""
    cc, cudnn = profile.compute_capability, profile.stack.cudnn
    if cc == (9, 0) and cudnn >= 91000:
        return 256
    if cc[0] == 10 and cudnn >= 91100 and (call.d_qk, call.d_v) == (192, 128):
        return 192
    return 128
