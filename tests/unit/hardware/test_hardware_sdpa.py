"""Which backend attention gets: the table of known cases, template by template, cause by cause."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from gacfx.core.sites import AttentionCall, AttentionSite, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.profile import Profile, load
from gacfx.hardware.sdpa import backend_order, flash_template, predict_attention

A100_OLD = load("a100", torch=(2, 9), cudnn=91002)
A100 = load("a100")
H200_OLD = load("h200", torch=(2, 9), cudnn=91002)
H200_210 = load("h200", torch=(2, 10), cudnn=91002)
H200 = load("h200")
H200_213 = load("h200", torch=(2, 13), cudnn=92000)
B200 = replace(H200, name="b200", compute_capability=(10, 0))
V100 = replace(A100, name="v100", compute_capability=(7, 0))
PREFILL = Workload(batch=4, seq=2048)
DECODE = Workload(batch=8, seq=4096, mode="decode")


def attention(
    d: int,
    d_v: int | None = None,
    *,
    dtype: str = "bf16",
    heads_kv: int = 32,
    mask: bool = False,
    causal: bool = False,
    gqa: bool = False,
) -> AttentionSite:
    call = AttentionCall(mask=mask, causal=causal, gqa=gqa)
    return AttentionSite(
        name="layers.0.self_attn",
        heads_q=32,
        heads_kv=heads_kv,
        d_qk=d,
        d_v=d if d_v is None else d_v,
        dtype=dtype,
        compiled=call,
        eager=call,
    )


class Case(NamedTuple):
    profile: Profile
    site: AttentionSite
    tier: int
    kernel: str
    reason: str = ""
    workload: Workload = PREFILL


# A compiled graph keeps its causal flag in decode, where one query meets many keys.
CAUSAL_DECODE = replace(DECODE, execution="compiled")

CASES = [
    # A100: flash is best; a head dim that is no multiple of 8 is padded, not sent to math.
    Case(A100_OLD, attention(128), 1, "flash.t128"),
    Case(A100_OLD, attention(107), 2, "flash.t128.pad8", "d=107 %8==3: pads q, k, v"),
    Case(A100_OLD, attention(129), 2, "flash.t160.pad8", "d=129 %8==1: pads q, k, v"),
    Case(
        *(A100_OLD, attention(107, mask=True), 3, "math"),
        "attn_mask: not flash; d=107 %8==3: not efficient",
    ),
    Case(A100_OLD, attention(104, mask=True), 2, "efficient", "attn_mask: not flash"),
    Case(A100_OLD, attention(104, 96), 2, "efficient", "d_qk=104 d_v=96 differ: not flash"),
    Case(
        *(A100_OLD, attention(107, 96), 3, "math"),
        "d_qk=107 d_v=96 differ: not flash; d_qk=107 %8==3: not efficient",
    ),
    Case(A100, attention(128), 1, "flash.t128"),
    Case(A100, attention(129), 2, "flash.t192.pad8", "d=129 %8==1: pads q, k, v"),
    # H200: cuDNN comes first from torch 2.11, with cuDNN above 9.15.
    Case(H200_OLD, attention(128), 1, "flash.t128"),
    Case(H200_OLD, attention(107), 2, "flash.t128.pad8", "d=107 %8==3: pads q, k, v"),
    Case(H200_210, attention(128), 1, "flash.t128"),
    Case(H200, attention(128), 1, "cudnn"),
    Case(H200, attention(107), 2, "flash.t128.pad8", "d=107 %8==3: not cudnn, pads q, k, v"),
    Case(H200, attention(129), 2, "flash.t192.pad8", "d=129 %8==1: not cudnn, pads q, k, v"),
    Case(H200, attention(136), 1, "cudnn"),
    Case(H200, attention(256), 1, "cudnn"),
    Case(H200, attention(264), 2, "efficient", "d=264 >256: not cudnn, not flash"),
    Case(H200, attention(128, mask=True), 1, "cudnn"),
    Case(
        *(H200, attention(107, mask=True), 3, "math"),
        "d=107 %8==3: not cudnn, not efficient; attn_mask: not flash",
    ),
    Case(
        *(H200, attention(107, 112), 3, "math"),
        "d_qk=107 %8==3: not cudnn, not efficient; d_qk=107 d_v=112 differ: not flash",
    ),
    Case(H200, attention(128, 96), 1, "cudnn"),
    Case(
        *(H200, attention(107, causal=True), 3, "math"),
        "d=107 %8==3: not cudnn, not efficient; causal with 1 x 4096: not flash",
        CAUSAL_DECODE,
    ),
    Case(H200, attention(112, causal=True), 1, "cudnn", workload=CAUSAL_DECODE),
    # fp32: only efficient takes it, so efficient is the best that there is.
    Case(H200, attention(108, dtype="fp32"), 1, "efficient"),
    Case(
        *(H200, attention(107, dtype="fp32"), 3, "math"),
        "dtype fp32: not cudnn, not flash; d=107 %4==3: not efficient",
    ),
    # GQA
    Case(H200, attention(128, heads_kv=8, gqa=True), 1, "cudnn"),
    Case(A100, attention(128, heads_kv=8, gqa=True), 1, "flash.t128"),
    Case(H200, attention(128, heads_kv=8, gqa=True, mask=True), 1, "cudnn"),
    Case(
        *(H200, attention(107, heads_kv=8, gqa=True, mask=True), 3, "math"),
        "d=107 %8==3: not cudnn; attn_mask: not flash; enable_gqa: not efficient",
    ),
    Case(
        *(A100, attention(128, heads_kv=8, gqa=True, mask=True), 3, "math"),
        "attn_mask: not flash; enable_gqa: not efficient",
    ),
    # Without the flag the model repeats K and V itself, and efficient may take the call.
    Case(A100, attention(128, heads_kv=8, mask=True), 2, "efficient", "attn_mask: not flash"),
    Case(A100, attention(128, gqa=True, mask=True), 2, "efficient", "attn_mask: not flash"),
    Case(
        *(H200, attention(128, heads_kv=5, gqa=True), 4, "error"),
        "enable_gqa: 32 query heads are no multiple of 5",
    ),
    # Blackwell: cuDNN's limit is 128, but for (192, 128).
    Case(B200, attention(128), 1, "cudnn"),
    Case(B200, attention(160), 2, "flash.t192", "d=160 >128: not cudnn"),
    Case(B200, attention(192, 128), 1, "cudnn"),
    # torch 2.13
    Case(H200_213, attention(128), 1, "cudnn"),
    Case(H200_213, attention(160), 1, "cudnn"),
    Case(H200_213, attention(161), 2, "flash.t192.pad8", "d=161 %8==1: not cudnn, pads q, k, v"),
    Case(
        *(H200_213, attention(264, heads_kv=8, gqa=True), 3, "math"),
        "d=264 >256: not cudnn, not flash; enable_gqa: not efficient",
    ),
    # decode
    Case(H200, attention(128), 1, "cudnn", workload=DECODE),
    Case(
        *(H200, attention(107), 2, "flash.t128.pad8"),
        "d=107 %8==3: not cudnn, pads q and copies the KV cache",
        DECODE,
    ),
    Case(H200, attention(128, mask=True), 1, "cudnn", workload=DECODE),
    Case(A100, attention(128, mask=True, causal=True), 1, "flash.t128", workload=DECODE),
    # Before Ampere there is neither flash nor cuDNN.
    Case(V100, attention(128, dtype="fp16"), 1, "efficient"),
    Case(
        *(V100, attention(107, dtype="fp16"), 3, "math"),
        "sm70: not flash; d=107 %8==3: not efficient",
    ),
    Case(V100, attention(107, dtype="fp32"), 1, "efficient"),
    Case(V100, attention(128), 3, "math", "sm70: not flash; dtype bf16: not efficient"),
    # What no fused backend takes
    Case(
        H200,
        attention(128, dtype="fp64"),
        3,
        "math",
        "dtype fp64: not cudnn, not flash, not efficient",
    ),
]


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=[f"{c.profile.name}-{c.site.d_qk}-{c.kernel}-{i}" for i, c in enumerate(CASES)],
)
def test_known_cases(case: Case) -> None:
    found = predict_attention(case.site, case.profile, case.workload)
    assert found == TierPrediction(case.tier, case.kernel, case.reason)


@pytest.mark.parametrize(
    ("torch", "widths"),
    [
        ((2, 3), [32, 64, 96, 128, 160, 192, 224, 256]),
        ((2, 9), [32, 64, 96, 128, 160, 192, 256]),
        ((2, 10), [32, 64, 96, 128, 160, 192, 256]),
        ((2, 11), [32, 64, 96, 128, 192, 256]),
        ((2, 13), [32, 64, 96, 128, 192, 256]),
    ],
)
def test_templates(torch: tuple[int, int], widths: list[int]) -> None:
    assert sorted({flash_template(d, torch) for d in range(1, 257)}) == widths
    assert [flash_template(width, torch) for width in widths] == widths
    assert flash_template(97, torch) == flash_template(121, torch) == 128
    with pytest.raises(ValueError, match="up to 256, not 257"):
        flash_template(257, torch)


CUDNN_FIRST = ("cudnn", "flash", "efficient", "math")
FLASH_FIRST = ("flash", "efficient", "math", "cudnn")


@pytest.mark.parametrize(
    ("torch", "cudnn", "cc", "order"),
    [
        ((2, 3), 8902, (9, 0), FLASH_FIRST),
        ((2, 9), 91002, (9, 0), FLASH_FIRST),
        ((2, 9), 91900, (9, 0), FLASH_FIRST),
        ((2, 10), 91002, (9, 0), FLASH_FIRST),
        ((2, 11), 91900, (8, 0), FLASH_FIRST),
        ((2, 11), 91900, (8, 9), FLASH_FIRST),
        ((2, 11), 91500, (9, 0), FLASH_FIRST),
        ((2, 11), 91501, (9, 0), CUDNN_FIRST),
        ((2, 11), 91900, (10, 0), CUDNN_FIRST),
        ((2, 11), 91900, (10, 3), CUDNN_FIRST),
        ((2, 11), 91900, (10, 1), FLASH_FIRST),
        ((2, 13), 92000, (10, 1), CUDNN_FIRST),
        ((2, 13), 92000, (12, 0), FLASH_FIRST),
        ((2, 11), 0, (9, 0), FLASH_FIRST),
    ],
)
def test_order(
    torch: tuple[int, int], cudnn: int, cc: tuple[int, int], order: tuple[str, ...]
) -> None:
    profile = replace(H200.with_stack(torch=torch, cudnn=cudnn), compute_capability=cc)
    assert backend_order(profile) == order


def test_cudnn_takes_wide_heads_on_hopper_only_from_9_10() -> None:
    site, wide = attention(128), attention(136)
    old = H200.with_stack(cudnn=91501)
    assert predict_attention(wide, old, PREFILL).kernel == "cudnn"
    ada = replace(H200, compute_capability=(10, 3))
    assert predict_attention(site, ada, PREFILL).kernel == "cudnn"
    assert predict_attention(wide, ada, PREFILL).reason == "d=136 >128: not cudnn"


def test_one_key_is_too_few_for_cudnn() -> None:
    """And no dim could change that, so flash counts as the best."""
    found = predict_attention(attention(128), H200, Workload(batch=1, seq=1))
    assert found == TierPrediction(1, "flash.t128")


def test_execution_decides_which_call_counts() -> None:
    site = replace(attention(128), compiled=AttentionCall(mask=True, causal=False, gqa=False))
    assert predict_attention(site, A100, PREFILL).kernel == "flash.t128"
    compiled = replace(PREFILL, execution="compiled")
    assert predict_attention(site, A100, compiled).kernel == "efficient"


@pytest.mark.parametrize(
    ("profile", "chosen", "tier", "kernel", "reason"),
    [
        (H200, "cudnn", 1, "cudnn", ""),
        (A100, "flash", 1, "flash.t128", ""),
        (H200, "flash", 2, "flash.t128", "compiled so; the rules expect cudnn"),
        (A100, "efficient", 2, "efficient", "compiled so; the rules expect flash"),
    ],
)
def test_a_kernel_that_the_graph_calls_by_name_is_that_one(
    profile: Profile, chosen: str, tier: int, kernel: str, reason: str
) -> None:
    site = replace(attention(128, causal=True), chosen=chosen)
    assert predict_attention(site, profile, PREFILL) == TierPrediction(tier, kernel, reason)


@pytest.mark.parametrize("profile", [A100_OLD, A100, H200_OLD, H200, H200_213, B200])
@pytest.mark.parametrize("workload", [PREFILL, DECODE])
def test_a_reason_is_given_exactly_below_tier_1(profile: Profile, workload: Workload) -> None:
    for d in range(1, 300):
        found = predict_attention(attention(d), profile, workload)
        assert (found.tier == 1) == (found.reason == "")
        # A plain call of a head dim up to 256 never reaches math, whatever its remainder.
        assert found.kernel != "math" or d > 256
        assert found.kernel.endswith(".pad8") == (d % 8 != 0 and d <= 256)
