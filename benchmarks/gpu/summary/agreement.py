"""Do the rules of ``gacfx.hardware`` say what the machine does? Call by call.

backend   predicted SDPA backend == what torch says it takes == class of the kernels that ran
template  width of the FlashAttention kernel that ran == the table of templates
gemm      predicted class of matmul == class of the kernel that took longest
legal     predicted error == the call raised

A call whose records do not tell (no kernels, an unknown name, too little memory) is not judged, and
is counted so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.gpu.summary.calls import Call
from gacfx.core.sites import AttentionCall, AttentionSite, Extent, Layout, MatmulSite, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.gemm import matmul_tier
from gacfx.hardware.kernel_names import attended, multiplied
from gacfx.hardware.profile import DTYPE_BYTES, Profile
from gacfx.hardware.sdpa import FLASH_LIMIT, flash_template, predict_attention

Quantity = Literal["backend", "template", "gemm", "legal"]
SLICE_STRIDE = 4096
"""Row stride of ``slice_ld4096``; gacfx/hardware/measure/cases/gemm.py."""
NOT_RULED = ("slice_off1",)
"""Ways of calling that the rules do not speak of: they do not know pointers."""
CUDA_CORES = "fp32"
"""Names of fp32 matmuls say nothing of alignment, so their class is not judged."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One call under one quantity."""

    quantity: Quantity
    call: Call
    predicted: str
    seen: str
    agrees: bool
    reason: str = ""
    """Why the rules predict this."""


@dataclass(frozen=True, slots=True)
class Chunk(Workload):
    """A workload with any number of new tokens beside its cached ones."""

    queries: int = 1

    @property
    def new_tokens(self) -> int:
        """Tokens that pass through the linears in one step."""
        return self.batch * self.queries


def attention_site(case: Mapping[str, Any]) -> tuple[AttentionSite, Chunk]:
    """The site and the workload of a measured attention call."""
    call = AttentionCall(mask=case["mask"] is not None, causal=case["causal"], gqa=case["gqa"])
    site = AttentionSite(
        name="",
        heads_q=case["h_q"],
        heads_kv=case["h_kv"] or case["h_q"],
        d_qk=case["d"],
        d_v=case["d_v"] or case["d"],
        dtype=case["dtype"],
        compiled=call,
        eager=call,
    )
    s_k = case["s_k"] or case["s_q"]
    return site, Chunk(case["batch"], s_k, queries=case["s_q"])


def matmul_site(call: Call) -> MatmulSite:
    """The site of a measured matmul; its sizes are constants."""
    case = call.case
    count, rows = (4, case["m"] // 4) if case["op"] == "bmm" else (1, case["m"])
    return MatmulSite(
        name="",
        m=Extent(rows),
        k=Extent(case["k"]),
        n=Extent(case["n"]),
        dtype=call.dtype,
        layout=_layout(case["op"]),
        bias=case["op"] == "linear_bias",
        count=Extent(count),
    )


def predicted(call: Call, profile: Profile) -> TierPrediction | None:
    """What the rules say of a call; None where they do not speak of it."""
    if call.op == "attention":
        asked, workload = attention_site(call.case)
        return predict_attention(asked, profile, workload)
    if call.op != "gemm" or call.case["op"] in NOT_RULED:
        return None
    site = matmul_site(call)
    m, k, n = site.sizes(Workload())
    strides = (SLICE_STRIDE,) if call.case["op"] == "slice_ld4096" else ()
    return matmul_tier(m, k, n, site.dtype, profile, layout=site.layout, strides=strides)


def judge(found: Iterable[Call], profile: Profile) -> list[Verdict]:
    """Every verdict that the records allow, in the order of the calls."""
    return [verdict for call in found for verdict in _judge(call, profile)]


def _judge(call: Call, profile: Profile) -> list[Verdict]:
    tier = predicted(call, profile)
    if tier is None or "out of memory" in call.entry.error.lower():
        return []
    if call.entry.result is None or tier.kernel == "error":
        return _legal(call, tier)
    if call.op == "gemm":
        return _gemm(call, tier)
    return [*_backend(call, tier), *_template(call, profile)]


def _legal(call: Call, tier: TierPrediction) -> list[Verdict]:
    """A call that raised, or that should have."""
    if call.case.get("force") is not None:
        return []  # a backend that may refuse was asked for: an answer, not a mistake of the rules
    raised = call.entry.result is None
    seen = f"raised `{call.entry.error[:80]}`" if raised else "ran"
    agrees = raised == (tier.kernel == "error")
    return [Verdict("legal", call, tier.kernel, seen, agrees, tier.reason)]


def _backend(call: Call, tier: TierPrediction) -> list[Verdict]:
    """The backend three times: by rule (or by force), by torch's own answer, by kernel names."""
    expected = call.case.get("force") or tier.kernel.split(".")[0]
    ran = attended(call.kernels)
    told = {
        "torch": call.choice,
        "kernels": None if ran is None else ran.backend,
    }
    known = {who: backend for who, backend in told.items() if backend is not None}
    if not known:
        return []
    seen = ", ".join(f"{who} {backend}" for who, backend in known.items())
    agrees = all(backend == expected for backend in known.values())
    reason = "forced" if call.case.get("force") else tier.reason
    return [Verdict("backend", call, expected, seen, agrees, reason)]


def _template(call: Call, profile: Profile) -> list[Verdict]:
    ran = attended(call.kernels)
    if ran is None or ran.template is None or call.case["d"] > FLASH_LIMIT:
        return []
    width = flash_template(call.case["d"], profile.stack.torch)
    return [Verdict("template", call, f"t{width}", f"t{ran.template}", width == ran.template)]


def _gemm(call: Call, tier: TierPrediction) -> list[Verdict]:
    if call.dtype == CUDA_CORES:
        return []
    ran = multiplied(call.kernels, DTYPE_BYTES[call.dtype])
    if ran is None:
        return []
    expected = tier.kernel.removesuffix(".unaligned")  # the name of a gemv hides its loads
    return [Verdict("gemm", call, expected, ran, expected == ran, tier.reason)]


def _layout(op: str) -> Layout:
    return {"mm_nn": Layout.CONV1D, "bmm": Layout.ACTIVATION}.get(op, Layout.LINEAR)
