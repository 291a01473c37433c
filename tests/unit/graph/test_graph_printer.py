"""The graph as text: every call with its shape, and under a site what is known of it."""

from dataclasses import replace

import pytest

from gacfx.core.sites import AttentionCall, AttentionSite, CopySite, Extent, Layout, MatmulSite
from gacfx.core.tiers import TierPrediction
from gacfx.graph.notes import annotate, refuse
from gacfx.graph.printer import annotated_code, extent_text, site_text
from tests.passes.graphs import annotated, net, site_of

CALL = AttentionCall(mask=False, causal=True, gqa=False)


@pytest.mark.parametrize(
    ("extent", "text"),
    [
        (Extent(4096), "4096"),
        (Extent(1), "1"),
        (Extent(1, "token"), "token"),
        (Extent(2, "token"), "2 token"),
    ],
)
def test_extents_as_text(extent: Extent, text: str) -> None:
    assert extent_text(extent) == text


def test_sites_as_text() -> None:
    sizes = (Extent(1, "token"), Extent(4096), Extent(1107))
    assert site_text(MatmulSite("q", *sizes, "bf16")) == "q  token x 4096 x 1107 bf16"
    experts = MatmulSite("e", *sizes, "bf16", layout=Layout.EXPERTS, experts=8)
    assert site_text(experts) == "e  token x 4096 x 1107 bf16 of 8 experts"
    attention = AttentionSite("a", 32, 8, 128, 64, "bf16", CALL, CALL)
    assert site_text(attention) == "a  32 over 8 heads, d_qk 128, d_v 64, bf16"
    copies = CopySite("c", sizes[0], (4096, 4096), "bf16", ("join", "gather"))
    assert site_text(copies) == "c  token x 4096 bf16"
    assert site_text(replace(copies, elements=(64, 4096))) == "c  token x 64, 4096 bf16"


def test_a_graph_as_text() -> None:
    gm = annotated(net())
    lines = annotated_code(gm).splitlines()
    assert lines[0] == "embedding = embedding(embed.weight, ids)  # [3, 17, 20] fp32"
    at = next(i for i, line in enumerate(lines) if line.startswith("linear_4 = "))
    assert lines[at] == "linear_4 = linear(add_1, head.weight)  # [3, 17, 11] fp32"
    assert lines[at + 1] == (
        "    # head  token x 20 x 11 fp32  | select-targets: outside the repeated layers"
    )
    assert lines[-1] == "return [linear_4]"


def test_lists_and_named_arguments_are_written_out() -> None:
    code = annotated_code(net())
    assert "view = view(linear, [3, 17, 3, 8])  # [3, 17, 3, 8] fp32" in code
    assert "transpose, transpose, transpose, None, 0.0, True)" in code


def test_no_line_ends_in_a_blank() -> None:
    gm = net()
    node = next(n for n in gm.graph.nodes if n.name == "linear_4")
    del node.meta["val"], node.meta["tensor_meta"]
    lines = annotated_code(gm).splitlines()
    assert "linear_4 = linear(add_1, head.weight)" in lines
    assert [line for line in lines if line != line.rstrip()] == []


def test_everything_that_is_known_stands_beside_the_site() -> None:
    gm = annotated(net())
    node, _ = site_of(gm, "layers.0.qkv")
    annotate(node, tier=TierPrediction(3, "align1", "N=1107 %8==3"), latency_us=12.34)
    refuse(node, by="factorize", reason="kept dense")
    wanted = (
        "    # layers.0.qkv  token x 20 x 24 fp32  | tier 3 align1 N=1107 %8==3  | 12.3 us"
        "  | factorize: kept dense\n"
    )
    assert wanted in annotated_code(gm)


def test_a_good_tier_needs_no_reason() -> None:
    gm = annotated(net())
    node, _ = site_of(gm, "layers.0.qkv")
    annotate(node, tier=TierPrediction(1, "native"))
    assert "fp32  | tier 1 native\n" in annotated_code(gm)
