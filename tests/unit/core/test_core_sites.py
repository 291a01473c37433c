"""Sites: sizes that grow with the input, under prefill and decode, eager and compiled."""

from dataclasses import replace

import pytest

from gacfx.core.sites import (
    AttentionCall,
    AttentionSite,
    CopySite,
    Extent,
    Layout,
    MatmulSite,
    Workload,
)

PREFILL = Workload(batch=4, seq=1000)
DECODE = Workload(batch=4, seq=1000, mode="decode")
EAGER = AttentionCall(mask=False, causal=True, gqa=True)
GRAPH = AttentionCall(mask=True, causal=False, gqa=False)


def attention() -> AttentionSite:
    return AttentionSite("attn", 32, 8, 128, 64, "bf16", compiled=GRAPH, eager=EAGER)


@pytest.mark.parametrize(
    ("of", "prefill", "decode"),
    [
        ("token", 4000, 4),
        ("query", 1000, 1),
        ("key", 1000, 1000),
        ("sequence", 4, 4),
        ("one", 1, 1),
    ],
)
def test_an_extent_grows_with_its_unit(of: str, prefill: int, decode: int) -> None:
    extent = Extent(3, of)  # type: ignore[arg-type]
    assert extent.at(PREFILL) == 3 * prefill
    assert extent.at(DECODE) == 3 * decode


@pytest.mark.parametrize(("batch", "seq"), [(0, 1), (1, 0), (-1, 5)])
def test_an_empty_workload_is_refused(batch: int, seq: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {batch} and {seq}"):
        Workload(batch=batch, seq=seq)


def test_one_token_of_each_sequence_is_new_in_decode() -> None:
    assert (PREFILL.new_tokens, DECODE.new_tokens) == (4000, 4)


def test_sizes_and_work_of_a_matmul() -> None:
    site = MatmulSite("up", Extent(1, "token"), Extent(64), Extent(100), "bf16")
    assert site.sizes(PREFILL) == (4000, 64, 100)
    assert site.flops(PREFILL) == 2 * 4000 * 64 * 100
    assert site.flops(DECODE) == 2 * 4 * 64 * 100


def test_repetitions_count_in_the_work() -> None:
    scores = MatmulSite(
        "scores",
        Extent(1, "query"),
        Extent(64),
        Extent(1, "key"),
        "bf16",
        layout=Layout.ACTIVATION,
        count=Extent(32, "sequence"),
    )
    assert scores.sizes(PREFILL) == (1000, 64, 1000)
    assert scores.flops(PREFILL) == 2 * 1000 * 64 * 1000 * 32 * 4


def test_work_of_attention_in_prefill_and_decode() -> None:
    assert attention().flops(PREFILL) == 2 * 4 * 32 * 1000 * 1000 * (128 + 64)
    assert attention().flops(DECODE) == 2 * 4 * 32 * 1 * 1000 * (128 + 64)


def test_the_execution_decides_which_attention_call_is_meant() -> None:
    site = attention()
    assert site.call(Workload()) == EAGER
    assert site.call(Workload(execution="compiled")) == GRAPH


def test_one_new_token_needs_neither_mask_nor_causality_in_eager_mode() -> None:
    site = attention()
    assert site.call(DECODE) == AttentionCall(mask=False, causal=False, gqa=True)
    compiled = Workload(batch=4, seq=1000, mode="decode", execution="compiled")
    assert site.call(compiled) == GRAPH


def test_copies_are_one_kernel_each_until_they_are_compiled() -> None:
    site = CopySite("q", Extent(1, "token"), (64, 100, 64), "bf16", ("join", "gather", "sum"))
    assert site.kernels(PREFILL) == (4000 * 64, 4000 * 100, 4000 * 64)
    assert site.kernels(DECODE) == (4 * 64, 4 * 100, 4 * 64)
    assert site.kernels(replace(DECODE, execution="compiled")) == (4 * 100,)
    assert site.flops(PREFILL) == 0
