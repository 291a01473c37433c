"""Rules or measurements: an exact shape that was measured wins, and nothing else does."""

from dataclasses import replace

from gacfx.core.sites import (
    AttentionCall,
    AttentionSite,
    CopySite,
    Extent,
    Layout,
    MatmulSite,
    Workload,
)
from gacfx.core.tiers import TierPrediction
from gacfx.hardware.predict import measured_key, predict
from gacfx.hardware.profile import Measurement, load

H200 = load("h200")
PREFILL = Workload(batch=1, seq=1024)
DECODE = Workload(batch=8, seq=4096, mode="decode")
MATMUL = MatmulSite(
    name="layers.0.self_attn.q_proj.down",
    m=Extent(1, "token"),
    k=Extent(4096),
    n=Extent(1107),
    dtype="bf16",
)
ATTENTION = AttentionSite(
    name="layers.0.self_attn",
    heads_q=32,
    heads_kv=8,
    d_qk=128,
    d_v=112,
    dtype="bf16",
    compiled=AttentionCall(mask=True, causal=False, gqa=False),
    eager=AttentionCall(mask=False, causal=True, gqa=True),
)


def test_rules_by_kind_of_site() -> None:
    assert predict(MATMUL, H200, PREFILL) == TierPrediction(3, "align1", "N=1107 %8==3", "rule")
    assert predict(ATTENTION, H200, PREFILL) == TierPrediction(1, "cudnn", "", "rule")
    copies = CopySite("q", Extent(1, "token"), (4096, 4096), "bf16", ("join", "gather"))
    assert predict(copies, H200, PREFILL) == TierPrediction(1, "copy", "join, gather", "rule")


def test_a_measured_attention_says_nothing_of_another_kernel() -> None:
    key = measured_key(ATTENTION, PREFILL)
    profile = replace(H200, measured={key: Measurement(1, "cudnn", us=40.0)})
    for chosen, source in (("", "measured"), ("cudnn", "measured"), ("efficient", "rule")):
        found = predict(replace(ATTENTION, chosen=chosen), profile, PREFILL)
        assert (found.kernel, found.source) == (chosen or "cudnn", source)


def test_a_measured_shape_wins_over_the_rule() -> None:
    seen = Measurement(2, "align2", us=40.0, reason="as fast as align2")
    profile = replace(H200, measured={measured_key(MATMUL, PREFILL): seen})
    found = predict(MATMUL, profile, PREFILL)
    assert found == TierPrediction(2, "align2", "as fast as align2", "measured")
    assert predict(MATMUL, profile, PREFILL, measured=False).source == "rule"
    twin = replace(MATMUL, name="layers.1.self_attn.q_proj.down")
    assert predict(twin, profile, PREFILL).source == "measured"
    for other in (
        replace(MATMUL, n=Extent(1108)),
        replace(MATMUL, dtype="fp16"),
        replace(MATMUL, bias=True),
        replace(MATMUL, layout=Layout.CONV1D),
        replace(MATMUL, count=Extent(2)),
    ):
        assert predict(other, profile, PREFILL).source == "rule"
    assert predict(MATMUL, profile, replace(PREFILL, seq=1025)).source == "rule"
    assert predict(MATMUL, profile.with_stack(torch=(2, 13)), PREFILL).source == "rule"


def test_keys_can_be_read() -> None:
    assert measured_key(MATMUL, PREFILL) == "matmul bf16 linear 1024x4096x1107"
    experts = replace(MATMUL, bias=True, layout=Layout.EXPERTS, count=Extent(8))
    assert measured_key(experts, DECODE) == "matmul bf16 experts+bias 8x4096x1107 x8"
    assert (
        measured_key(ATTENTION, PREFILL) == "attention bf16 b1 h32/8 s1024/1024 d128/112 causal gqa"
    )
    compiled = replace(PREFILL, execution="compiled")
    assert measured_key(ATTENTION, compiled) == "attention bf16 b1 h32/32 s1024/1024 d128/112 mask"
    assert measured_key(ATTENTION, DECODE) == "attention bf16 b8 h32/8 s1/4096 d128/112 gqa"
    equal = replace(ATTENTION, heads_kv=32)
    assert measured_key(equal, DECODE) == "attention bf16 b8 h32/32 s1/4096 d128/112"


def test_matmuls_measure_the_same_eager_and_compiled() -> None:
    compiled = replace(PREFILL, execution="compiled")
    assert measured_key(MATMUL, compiled) == measured_key(MATMUL, PREFILL)
