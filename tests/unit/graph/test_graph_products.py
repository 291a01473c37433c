"""Every product of two tensors: its sizes, its weight, and as many FLOPs as torch counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from gacfx.core.sites import AttentionSite, Extent, Layout, MatmulSite, Workload
from gacfx.graph import ops
from gacfx.graph.notes import matmuls, note, sites
from gacfx.graph.ops import Op
from gacfx.graph.products import NotUnderstood, parameter_behind, product_of
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.tracing.export import export_model

aten = torch.ops.aten
Body = Callable[..., Tensor]
BATCH, SEQ = 3, 17


class Toy(nn.Module):
    """A function of the embedding of a text, [3, 17, 20], and of parameters."""

    def __init__(self, body: Body, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.embed = nn.Embedding(11, 20)
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(shape)) for shape in shapes])

    def forward(self, ids: Tensor) -> Tensor:
        """Any shape."""
        return self.body(self.embed(ids), *self.weights)


def toy(body: Body, *shapes: tuple[int, ...]) -> tuple[GraphModule, int]:
    """The annotated graph, and the FLOPs that torch counts."""
    model, ids = Toy(body, *shapes).eval(), torch.zeros(BATCH, SEQ, dtype=torch.long)
    for weight in model.weights:
        nn.init.normal_(weight)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(ids)
    gm = export_model(model, {"ids": ids})
    AnnotateSites().run(gm)
    return gm, counter.get_total_flops()


def only_site(gm: GraphModule) -> MatmulSite:
    ((_, site),) = matmuls(gm)
    return site


ACTIVATIONS: dict[str, Body] = {
    "matmul": lambda x: x @ x.mT,
    "matmul of more axes": lambda x: x[:, None].expand(3, 2, 17, 20) @ x[:, None].mT,
    "bmm": lambda x: torch.bmm(x, x.mT),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :1], x, x.mT, beta=0.5),
    "addbmm": lambda x: torch.addbmm(x[0, :, :1], x, x.mT),
    "mm": lambda x: x[0] @ x[1].T,
    "addmm": lambda x: torch.addmm(x[0, :, :1], x[0], x[1].T),
    "mv": lambda x: torch.mv(x[0], x[0, 0]),
    "addmv": lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0]),
    "dot": lambda x: torch.dot(x[0, 0], x[0, 1]),
    "matrix and vector": lambda x: x @ x[0, 0],
    "vector and matrix": lambda x: x[0, :, 0] @ x,
    "inner": lambda x: torch.inner(x[0], x[1]),
    "tensordot": lambda x: torch.tensordot(x, x, dims=([0, 2], [0, 2])),
    "tensordot of the last axes": lambda x: torch.tensordot(x[0], x[1].T, dims=1),
    "einsum": lambda x: torch.einsum("bqd,bkd->bqk", x, x),
    "einsum in another order": lambda x: torch.einsum("bqd, bkd -> kbq", x, x),
    "einsum with dots": lambda x: torch.einsum("...qd,...kd->...qk", x, x),
    "einsum with dots on one side": lambda x: torch.einsum("...qd,kd->...qk", x, x[0]),
    "einsum without a result": lambda x: torch.einsum("ij,jk", x[0], x[1].T),
    "linear with a computed weight": lambda x: F.linear(x, x[0].exp()),
}


UNCOUNTED = {
    "addbmm": 2 * 3 * 17 * 20 * 17,
    "mv": 2 * 17 * 20,
    "addmv": 2 * 17 * 20,
    "dot": 2 * 20,
    "matrix and vector": 2 * 3 * 17 * 20,
}
"""Those that torch has no formula for."""


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_product_of_activations_has_the_flops_that_torch_counts(name: str) -> None:
    gm, flops = toy(ACTIVATIONS[name])
    site = only_site(gm)
    assert site.flops(Workload(BATCH, SEQ)) == (flops or UNCOUNTED[name])
    assert (site.layout, site.weight) == (Layout.ACTIVATION, None)


W = "weights.0"
WEIGHTED: dict[str, tuple[Body, tuple[int, ...], Layout]] = {
    "linear": (lambda x, w: F.linear(x, w), (24, 20), Layout.LINEAR),
    "right": (lambda x, w: x @ w, (20, 24), Layout.CONV1D),
    "right, transposed": (lambda x, w: x @ w.T, (24, 20), Layout.LINEAR),
    "left": (lambda x, w: w @ x.transpose(1, 2), (24, 20), Layout.RESHAPED),
    "left, of a matrix": (lambda x, w: w @ x[0].T, (24, 20), Layout.RESHAPED),
    "einsum": (lambda x, w: torch.einsum("bsd,ed->bse", x, w), (24, 20), Layout.RESHAPED),
    "einsum, left": (lambda x, w: torch.einsum("ed,bsd->bse", w, x), (24, 20), Layout.RESHAPED),
    "einsum by heads": (
        lambda x, w: torch.einsum("bsd,dhe->bshe", x, w),
        (20, 4, 6),
        Layout.RESHAPED,
    ),
    "view": (lambda x, w: F.linear(x, w.view(24, 20)), (4, 6, 20), Layout.RESHAPED),
    "cast and view": (
        lambda x, w: x @ w.to(torch.float32).reshape(20, 24),
        (480,),
        Layout.RESHAPED,
    ),
    "part": (lambda x, w: F.linear(x, w[:24]), (40, 20), Layout.RESHAPED),
    "groups": (
        lambda x, w: (x.view(51, 4, 5).transpose(0, 1) @ w.view(4, 6, 5).mT).sum(0),
        (24, 5),
        Layout.RESHAPED,
    ),
    "experts one by one": (
        lambda x, w: torch.bmm(x.view(1, 51, 20).expand(4, 51, 20), w),
        (4, 20, 24),
        Layout.RESHAPED,
    ),
    "patches": (
        lambda x, w: F.conv2d(x[:, None, :16], w, stride=(8, 5)),
        (24, 1, 8, 5),
        Layout.CONVOLUTION,
    ),
    "frames": (
        lambda x, w: F.conv1d(x.transpose(1, 2), w, padding=1),
        (24, 20, 3),
        Layout.CONVOLUTION,
    ),
    "volumes": (
        lambda x, w: F.conv3d(x[:, None, :16, :18].view(3, 1, 4, 4, 18), w, stride=(2, 2, 3)),
        (24, 1, 2, 2, 3),
        Layout.CONVOLUTION,
    ),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_is_named_however_it_is_multiplied_with(name: str) -> None:
    body, shape, layout = WEIGHTED[name]
    gm, flops = toy(body, shape)
    site = only_site(gm)
    assert (site.weight, site.layout) == (W, layout)
    assert site.flops(Workload(BATCH, SEQ)) == flops > 0
    assert [node for node in gm.graph.nodes if note(node).refusals] == []


@pytest.mark.parametrize("name", ["linear", "left", "einsum", "groups", "frames"])
def test_rows_grow_with_the_tokens_and_the_sizes_of_a_weight_do_not(name: str) -> None:
    gm, flops = toy(WEIGHTED[name][0], WEIGHTED[name][1])
    site, most = only_site(gm), Workload(BATCH * 5, SEQ * 7)
    assert site.m == Extent(1, "token") and site.k.of == site.n.of == site.count.of == "one"
    assert site.flops(most) == 35 * flops


def test_a_convolution_that_lengthens_a_text_by_its_window_counts_the_tokens() -> None:
    body: Body = lambda x, w: F.conv1d(x.transpose(1, 2), w, padding=2)  # noqa: E731
    site = only_site(toy(body, (24, 20, 3))[0])
    assert site.m == Extent(1, "token") and site.sizes(Workload(1, 100))[0] == 100


def test_reshaped_weights_and_convolutions_are_no_targets_and_say_why() -> None:
    reasons = {}
    for name in ("left", "patches", "einsum"):
        gm, _ = toy(WEIGHTED[name][0], WEIGHTED[name][1])
        SelectTargets()(gm)
        ((node, _),) = matmuls(gm)
        (reasons[name],) = [each.reason for each in note(node).refusals]
    assert reasons == {
        "left": "Toy multiplies with it in another shape",
        "patches": "convolutions are not factorized",
        "einsum": "Toy multiplies with it in another shape",
    }


NOTHING: dict[str, Body] = {
    "outer": lambda x: torch.outer(x[0, 0], x[0, 1]),
    "product of one": lambda x: x[..., :1] @ x[:, :1],
    "einsum of an outer product": lambda x: torch.einsum("i,j->ij", x[0, 0], x[0, 1]),
    "number by number": lambda x: torch.einsum("bsd,bsd->bsd", x, x),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_sums_nothing_up_is_no_site_and_no_remark(name: str) -> None:
    gm, _ = toy(NOTHING[name])
    assert not list(sites(gm)) and not [n for n in gm.graph.nodes if note(n).refusals]


TOLD: dict[str, tuple[Body, tuple[tuple[int, ...], ...], str]] = {
    "groups": (
        lambda x, w: F.conv1d(x.transpose(1, 2), w, groups=20),
        ((20, 1, 3),),
        "a convolution in 20 groups",
    ),
    "three": (
        lambda x, w: torch.einsum("bsd,de,ef->bsf", x, w, w.T),
        ((20, 24),),
        "a product of more or less than two tensors",
    ),
    "diagonal": (
        lambda x, w: torch.einsum("iij,jk->ik", x[:, :3], w),
        ((20, 24),),
        "a product along a diagonal",
    ),
    "sum": (
        lambda x, w: torch.einsum("bsd,de->be", x, w),
        ((20, 24),),
        "a product of a sum",
    ),
    "bilinear": (lambda x, w: F.bilinear(x, x, w), ((5, 20, 20),), "its products are not modelled"),
    "transposed": (
        lambda x, w: F.conv_transpose1d(x.transpose(1, 2), w),
        ((20, 24, 2),),
        "its products are not modelled",
    ),
    "chain": (
        lambda x, w: torch.linalg.multi_dot([x[0], w, w.T]),
        ((20, 24),),
        "its products are not modelled",
    ),
    "distances": (lambda x, w: torch.cdist(x[0], w), ((24, 20),), "its products are not modelled"),
    "solved": (
        lambda x, w: torch.linalg.solve(w, x[0].T),
        ((20, 20),),
        "its products are not modelled",
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_gets_no_site_says_why(name: str) -> None:
    body, shapes, reason = TOLD[name]
    gm, _ = toy(body, *shapes)
    assert not list(sites(gm))
    (told,) = [each for node in gm.graph.nodes for each in note(node).refusals]
    assert (told.by, told.reason) == ("annotate-sites", reason)


# -- operators, whatever they are called -----------------------------------------------------------


@pytest.mark.parametrize("operator", flop_registry, ids=str)
def test_every_operator_whose_flops_torch_counts_gets_a_site_or_a_remark(operator: Any) -> None:
    packet = hasattr(operator, "overloads")
    targets = [getattr(operator, name) for name in operator.overloads()] if packet else [operator]
    for target in targets:
        node = Graph().call_function(target, ())
        assert (ops.op_of(node) is not None) != ops.without_site(node)


@pytest.mark.parametrize(
    ("target", "op"),
    [
        (aten.baddbmm.default, Op.BADDBMM),
        (aten.baddbmm_.default, Op.BADDBMM),
        (torch.baddbmm, Op.BADDBMM),
        (torch.Tensor.baddbmm, Op.BADDBMM),
        (torch.einsum, Op.CONTRACTION),
        (torch.linalg.matmul, Op.MATMUL),
        (torch.conv2d, Op.CONV),
        (F.conv2d, Op.CONV),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, Op.ATTENTION),
        (aten._scaled_mm.default, Op.MATMUL),
        (aten._grouped_mm.default, Op.GROUPED_MM),
    ],
)
def test_spellings(target: Callable[..., Any], op: Op) -> None:
    assert ops.op_of(Graph().call_function(target, ())) is op


@pytest.mark.parametrize(
    "target", [aten.lstm.input, torch.lstm, torch.cdist, aten._sparse_mm.default]
)
def test_spellings_of_what_gets_a_remark(target: Callable[..., Any]) -> None:
    assert ops.without_site(Graph().call_function(target, ()))


def test_methods_are_operators_too() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.ones(3, 17, 20)
    turned = graph.call_method("transpose", (x, 1, 2))
    turned.meta["val"] = torch.ones(3, 20, 17)
    node = graph.call_method("matmul", (x, turned))
    node.meta["val"] = torch.ones(3, 17, 17)
    assert ops.op_of(node) is Op.MATMUL and ops.op_of(turned) is None
    found = product_of(node, Op.MATMUL)
    assert (found.count, found.m, found.k, found.n) == ((3,), (17,), (20,), (17,))


def test_an_operator_of_another_package_that_is_given_matrices_gets_a_remark() -> None:
    library = torch.library.Library("gacfx_toy", "DEF")
    library.define("mix(Tensor a, Tensor b) -> Tensor")
    target = torch.ops.gacfx_toy.mix.default
    graph = Graph()
    nodes = [graph.placeholder(name) for name in "abc"]
    for node, shape in zip(nodes, ((3, 4), (4, 5), (4,)), strict=True):
        node.meta["val"] = torch.ones(shape)
    a, b, vector = nodes
    assert ops.without_site(graph.call_function(target, (a, b)))
    assert not ops.without_site(graph.call_function(target, (a, vector)))


def _call(target: Any, *shapes: tuple[int, ...], **kwargs: Any) -> Node:
    graph = Graph()
    args = [graph.placeholder(f"x{at}") for at in range(len(shapes))]
    for node, shape in zip(args, shapes, strict=True):
        node.meta["val"] = torch.ones(shape)
    made = graph.call_function(target, tuple(args), kwargs)
    made.meta["val"] = torch.ones(1)
    return made


@pytest.mark.parametrize(
    ("node", "op", "reason"),
    [
        (_call(aten._grouped_mm.default, (8, 4), (4, 6)), Op.GROUPED_MM, "of other ranks"),
        (_call(aten.dot.default, (), ()), Op.CONTRACTION, "a product with a number"),
        (_call(aten.mm.default, (3, 4)), Op.MATMUL, "more or less than two tensors"),
    ],
)
def test_products_that_are_not_understood(node: Node, op: Op, reason: str) -> None:
    with pytest.raises(NotUnderstood, match=reason):
        product_of(node, op)


def test_a_computed_weight_is_no_parameter() -> None:
    gm, _ = toy(lambda x, w: F.linear(x, w * 2), (24, 20))
    assert only_site(gm).weight is None
    assert parameter_behind(3.0) is None


class Flash(nn.Module):
    """Attention by the operator of one backend, and by heads that are part of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """[3, 17, 20] -> [..]."""
        heads = x.view(3, 17, 4, 5).transpose(1, 2)
        one = aten._scaled_dot_product_flash_attention_for_cpu(heads, heads, heads)[0]
        flat = heads.reshape(12, 17, 5)
        other = F.scaled_dot_product_attention(flat, flat, flat).view(3, 4, 17, 5)
        out: Tensor = one + other
        return out


def test_attention_of_any_backend_and_with_heads_in_the_batch() -> None:
    gm = export_model(Flash(), {"x": torch.ones(3, 17, 20)})
    AnnotateSites()(gm)
    found = [site for _, site in sites(gm)]
    assert len(found) == 2
    for site in found:
        assert isinstance(site, AttentionSite)
        assert (site.heads_q, site.heads_kv, site.d_qk, site.dtype) == (4, 4, 5, "fp32")
