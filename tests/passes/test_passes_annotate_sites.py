"""annotate-sites: every matmul and attention node as an operation, sizes that grow told apart."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, symbolic_trace
from torch.nn.functional import scaled_dot_product_attention

from gacfx.core.sites import AttentionCall, AttentionSite, Extent, Layout, MatmulSite
from gacfx.errors import PassError
from gacfx.graph import ops
from gacfx.graph.frame import Frame
from gacfx.graph.notes import Fact, Note, Refusal, facts, note, sites
from gacfx.graph.ops import Op
from gacfx.graph.printer import annotated_code
from gacfx.passes.analysis import annotate_sites
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.tracing.export import export_model
from tests.passes.graphs import DOWN0, PREFILL, graph_of, ids, llama, net, run, site_of, snapshot

TOKEN = Extent(1, "token")


def test_a_linear_is_annotated_with_its_sizes() -> None:
    gm = run(llama(), AnnotateSites())
    _, site = site_of(gm, DOWN0)
    assert site == MatmulSite(
        DOWN0, TOKEN, Extent(88), Extent(48), "fp32", weight=f"{DOWN0}.weight"
    )


def test_every_linear_and_every_attention_gets_a_site_and_nothing_else_does() -> None:
    gm = run(llama(), AnnotateSites())
    layer = ["q_proj", "k_proj", "v_proj", "self_attn", "o_proj", "gate_proj", "up_proj"]
    names = [site.name.rpartition(".")[2] for _, site in sites(gm)]
    assert names == 2 * [*layer, "down_proj"] + ["lm_head"]
    others = [n for n in gm.graph.nodes if n not in dict(sites(gm))]
    assert all(note(n) == Note() for n in others)


def test_the_graph_itself_is_left_alone() -> None:
    gm = llama()
    before = str(gm.graph)
    assert not AnnotateSites()(gm).modified
    assert str(gm.graph) == before
    assert facts(gm) == {Fact.SITES}


def test_twice_is_once() -> None:
    gm = run(llama(), AnnotateSites())
    before = snapshot(gm)
    assert snapshot(run(gm, AnnotateSites())) == before


def test_conv1d_lies_the_other_way_round_and_has_a_bias() -> None:
    gm = run(graph_of("gpt2"), AnnotateSites())
    _, site = site_of(gm, "transformer.h.0.attn.c_attn")
    assert isinstance(site, MatmulSite)
    assert (site.k, site.n) == (Extent(48), Extent(144))
    assert (site.layout, site.bias) == (Layout.CONV1D, True)


class Decomposed(nn.Module):
    """A linear as decompositions write it, beside a weight that lies the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(20, 24, bias=False), nn.Parameter(torch.zeros(24, 20))

    def forward(self, x: Tensor) -> Tensor:
        """[M, 20] -> [M, 20]."""
        return (x @ self.up.weight.t().contiguous()) @ self.down


def test_a_transposed_weight_is_that_of_a_linear() -> None:
    gm = run(export_model(Decomposed(), {"x": torch.zeros(3, 20)}), AnnotateSites())
    found = {site.weight: site.layout for _, site in sites(gm) if isinstance(site, MatmulSite)}
    assert found == {"up.weight": Layout.LINEAR, "down": Layout.CONV1D}


def test_a_linear_with_bias_says_so() -> None:
    gm = run(net(), AnnotateSites())
    biases = {s.name: s.bias for _, s in sites(gm) if isinstance(s, MatmulSite)}
    assert biases["layers.0.qkv"] and not biases["layers.0.out"] and not biases["head"]


def test_experts_are_one_site_of_many_matrices() -> None:
    gm = run(graph_of("mixtral"), AnnotateSites())
    _, site = site_of(gm, "model.layers.1.mlp.experts.down_proj")
    assert isinstance(site, MatmulSite)
    assert (site.layout, site.experts) == (Layout.EXPERTS, 4)
    # Every token goes to two experts.
    assert (site.m, site.k, site.n) == (Extent(2, "token"), Extent(88), Extent(48))


def test_repeated_heads_are_counted_as_the_model_stores_them() -> None:
    gm = run(llama(), AnnotateSites())
    _, site = site_of(gm, "model.layers.0.self_attn")
    assert isinstance(site, AttentionSite)
    assert (site.heads_q, site.heads_kv, site.d_qk, site.d_v) == (6, 2, 8, 8)


def test_eager_and_compiled_attention_are_told_apart() -> None:
    gm = run(llama(), AnnotateSites())
    node, site = site_of(gm, "model.layers.0.self_attn")
    assert isinstance(site, AttentionSite)
    assert site.eager == AttentionCall(mask=False, causal=True, gqa=True)
    assert site.compiled == AttentionCall(mask=True, causal=False, gqa=False)
    assert note(node).refusals == ()


class Direct(nn.Module):
    """Calls attention by a name that no recorder can replace."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, S, D] -> [B, H, S, D]."""
        return scaled_dot_product_attention(x, x, x, is_causal=True)


def test_an_eager_call_that_could_not_be_recorded_is_said_so_once() -> None:
    gm = export_model(Direct(), {"x": torch.zeros(3, 2, 17, 8)})
    run(gm, AnnotateSites(), AnnotateSites())
    ((node, site),) = sites(gm)
    assert isinstance(site, AttentionSite)
    assert site.eager == site.compiled == AttentionCall(mask=False, causal=True, gqa=False)
    (refusal,) = note(node).refusals
    assert refusal.by == "annotate-sites"
    assert refusal.reason.startswith("the eager call could not be recorded")


@pytest.mark.parametrize(
    ("kernel", "more", "chosen", "call"),
    [
        ("flash_attention", (0.0, True), "flash", AttentionCall(False, True, True)),
        (
            "efficient_attention",
            ("mask", False, 0.0),
            "efficient",
            AttentionCall(True, False, True),
        ),
        ("cudnn_attention", (None, False, 0.0, True), "cudnn", AttentionCall(False, True, True)),
        ("flash_attention_for_cpu", (0.0, False), "", AttentionCall(False, False, True)),
    ],
)
def test_attention_whose_kernel_is_chosen(
    kernel: str, more: tuple[object, ...], chosen: str, call: AttentionCall
) -> None:
    graph = Graph()
    inputs = [graph.placeholder(name) for name in ("q", "k", "v", "mask")]
    for node, heads in zip(inputs, (6, 2, 2, 1), strict=True):
        node.meta["val"] = torch.empty(3, heads, 17, 8, dtype=torch.bfloat16)
    q, k, v, mask = inputs
    operator = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}").default
    args: list[Any] = [mask if one == "mask" else one for one in more]
    node = graph.call_function(operator, (q, k, v, *args))
    node.meta["val"] = (torch.empty(3, 6, 17, 8), torch.empty(3, 6, 17))
    graph.output(node)
    gm = run(GraphModule(nn.Module(), graph), AnnotateSites())
    ((_, site),) = sites(gm)
    assert isinstance(site, AttentionSite)
    assert (site.heads_q, site.heads_kv, site.d_qk, site.d_v) == (6, 2, 8, 8)
    assert (site.dtype, site.chosen, site.compiled) == ("bf16", chosen, call)
    (refusal,) = note(node).refusals
    assert refusal.reason == f"torch chose _scaled_dot_product_{kernel} when it compiled"


class Scores(nn.Module):
    """Attention written out, after an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 20)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] -> [B, S, 20]."""
        x = self.embed(ids)
        out: Tensor = torch.softmax(x @ x.transpose(1, 2), dim=-1) @ x
        return out


def test_products_of_activations_grow_with_queries_keys_and_sequences() -> None:
    gm = run(export_model(Scores(), {"ids": ids()}), AnnotateSites())
    scores, mixed = (site for _, site in sites(gm))
    assert isinstance(scores, MatmulSite) and isinstance(mixed, MatmulSite)
    query, key, width = Extent(1, "query"), Extent(1, "key"), Extent(20)
    assert (scores.m, scores.k, scores.n) == (query, width, key)
    assert (mixed.m, mixed.k, mixed.n) == (query, key, width)
    for site in (scores, mixed):
        assert (site.layout, site.weight) == (Layout.ACTIVATION, None)
        assert site.count == Extent(1, "sequence")
    assert scores.sizes(PREFILL) == (1024, 20, 1024)


def test_the_head_of_an_image_model_grows_with_images_only() -> None:
    gm = run(graph_of("vit"), AnnotateSites())
    _, site = site_of(gm, "classifier")
    assert isinstance(site, MatmulSite) and site.m == Extent(1, "sequence")
    patches = [s.m for _, s in sites(gm) if s.name.endswith("fc1") and isinstance(s, MatmulSite)]
    assert set(patches) == {Extent(17, "sequence")}


class Rotary(nn.Module):
    """An outer product, as rotary embeddings have, before a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(20, 24)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] -> [B, S, 24]."""
        angles = ids.float()[:, :, None] @ torch.ones(3, 1, 20)
        out: Tensor = self.up(angles)
        return out


def test_an_outer_product_is_no_site() -> None:
    gm = run(export_model(Rotary(), {"ids": ids()}), AnnotateSites())
    assert any(ops.op_of(n) is Op.MATMUL for n in gm.graph.nodes)
    assert [site.name for _, site in sites(gm)] == ["up"]


def test_a_graph_without_matmuls_has_no_sites_and_says_so() -> None:
    gm = symbolic_trace(nn.Sequential(nn.ReLU()))
    with pytest.raises(PassError, match="^annotate-sites: ran, but did not give sites$"):
        AnnotateSites()(gm)


class Chosen(nn.Module):
    """A linear of chosen rows, whose number only the values tell, and one of all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.all = nn.Linear(20, 24), nn.Linear(20, 28)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 20] -> []."""
        chosen = x[x[:, 0] > 0]
        return self.few(chosen).sum() + self.all(x).sum()  # type: ignore[no-any-return]


def test_sizes_that_depend_on_data_cost_one_site_and_its_reason_is_told() -> None:
    gm = run(export_model(Chosen(), {"x": torch.zeros(3, 20)}), AnnotateSites(), AnnotateSites())
    assert [site.name for _, site in sites(gm)] == ["all"]
    (refusal,) = [reason for node in gm.graph.nodes for reason in note(node).refusals]
    assert (refusal.by, refusal.reason) == (
        "annotate-sites",
        "its sizes depend on data",
    )
    assert "    # no site  | annotate-sites: its sizes depend on data" in annotated_code(gm)


def test_a_node_that_is_not_understood_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = net()
    broken = next(node for node in gm.graph.nodes if ops.op_of(node) is Op.LINEAR)
    real = annotate_sites.matmul_site

    def fails(node: Node, op: Op, frame: Frame) -> MatmulSite | None:
        if node is broken:
            raise IndexError("no such axis")
        return real(node, op, frame)

    monkeypatch.setattr(annotate_sites, "matmul_site", fails)
    run(gm, AnnotateSites())
    assert len(list(sites(gm))) == 6
    assert note(broken).refusals == (
        Refusal("annotate-sites", "not understood (IndexError: no such axis)"),
    )
