"""Rules, one small graph for each. Texts read as in the docs: d0[6!] is a frozen dim of size 6."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.nn import functional as F  # noqa: N812

from gacfx.core.dims import Dims
from gacfx.coupling.analyse import couple
from gacfx.coupling.rules import RULES, Call, rule
from gacfx.coupling.terms import Axes
from gacfx.errors import CaptureError

Body = Callable[[dict[str, Tensor], Tensor], Tensor]


class Toy(nn.Module):
    """A function of some parameters and one input."""

    def __init__(self, body: Body, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.body = body
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    def forward(self, x: Tensor) -> Tensor:
        # A sum: otherwise everything that reaches the output would be frozen by it.
        return self.body(dict(self.named_parameters()), x).sum()


def export(module: nn.Module, x: Tensor, **options: Any) -> GraphModule:
    with torch.no_grad():
        exported = torch.export.export(module, (x,), strict=False, **options)
    graph = exported.module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return graph


def analyse(body: Body, **shapes: tuple[int, ...]) -> Dims:
    """Dims of ``body(weights, x)`` with x [3, 5], of integers that are valid positions."""
    return couple(export(Toy(body, shapes), torch.zeros(3, 5, dtype=torch.long)))


def told(dims: Dims) -> str:
    """``name: axis | axis`` for every parameter."""
    known = {dim.name: f"{dim.name}[{dim.size}{'!' * bool(dim.frozen)}]" for dim in dims.dims}
    return ", ".join(
        f"{weight.rpartition('.')[2]}: "
        + re.sub(r"d\d+", lambda match: known[match[0]], " | ".join(texts))
        for weight, texts in dims.axes.items()
    )


def reasons(dims: Dims) -> list[str]:
    return [dim.frozen for dim in dims.dims]


def split_heads(x: Tensor, *sizes: int) -> Tensor:
    return x.view(3, 5, *sizes).transpose(1, 2)


def test_attention_written_out() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        table = F.embedding(x, w["table"])
        q, k = split_heads(table @ w["q"], 2, 7), split_heads(table @ w["k"], 2, 7)
        v = split_heads(table @ w["v"], 2, 9)
        scores = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / 2.0, dim=-1)
        return torch.matmul(scores, v)

    dims = analyse(body, table=(11, 4), q=(4, 14), k=(4, 14), v=(4, 18))
    assert told(dims) == (
        "table: d0[11!] | d1[4], q: d1[4] | d2[2]*d3[7], k: d1[4] | d2[2]*d3[7], "
        "v: d1[4] | d2[2]*d4[9]"
    )


def test_grouped_query_attention_by_flag() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        table = F.embedding(x, w["table"])
        q, k = split_heads(table @ w["q"], 6, 7), split_heads(table @ w["k"], 2, 7)
        v = split_heads(table @ w["v"], 2, 7)
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    dims = analyse(body, table=(11, 4), q=(4, 42), k=(4, 14), v=(4, 14))
    assert told(dims).partition(", ")[2] == (
        "q: d1[4] | (d2[2]*d3[3])*d4[7], k: d1[4] | d2[2]*d4[7], v: d1[4] | d2[2]*d5[7]"
    )


def test_multi_query_attention_has_no_kv_head_dim() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        table = F.embedding(x, w["table"])
        q, k = split_heads(table @ w["q"], 6, 7), split_heads(table @ w["k"], 1, 7)
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    dims = analyse(body, table=(11, 4), q=(4, 42), k=(4, 7))
    assert told(dims).partition(", ")[2] == "q: d1[4] | d2[6]*d3[7], k: d1[4] | d3[7]"


def test_a_position_bias_shares_the_heads() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        q = split_heads(F.embedding(x, w["q"]), 6, 7)
        bias = w["bias"][:, None, None].expand(-1, 5, 5)
        return F.scaled_dot_product_attention(q, q, q, attn_mask=bias)

    assert told(analyse(body, q=(11, 42), bias=(6,))) == "q: d0[11!] | d1[6]*d2[7], bias: d1[6]"


def test_interleaved_rotary_pairs_stay_together() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        q = F.embedding(x, w["q"])
        turned = torch.stack((-q[..., 1::2], q[..., ::2]), dim=-1).flatten(-2)
        return q + turned * w["angle"].repeat_interleave(2, dim=0)

    dims = analyse(body, q=(11, 14), angle=(7,))
    assert told(dims) == "q: d0[11!] | d1[7]*d2[2!], angle: d1[7]"
    assert dims.notes == ()


def test_other_strides_freeze() -> None:
    dims = analyse(lambda w, x: w["a"][1:7:4] * x[0, 0], a=(14,))
    assert reasons(dims) == ["strided slice"]


@pytest.mark.parametrize(
    ("pick", "word"),
    [
        (lambda qkv: qkv.unbind(2), "unbind"),
        (lambda qkv: (qkv.select(2, 0), qkv.select(2, 1), qkv[:, :, 2]), "select"),
    ],
)
def test_fused_qkv_as_an_axis_of_three(pick: Callable[[Tensor], Any], word: str) -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        q, k, v = pick(F.embedding(x, w["qkv"]).view(3, 5, 3, 2, 7))
        return torch.add(q * k, v)

    dims = analyse(body, qkv=(11, 42))
    assert told(dims) == "qkv: d0[11!] | d1[3!]*(d2[2]*d3[7])"
    assert reasons(dims)[1] == f"indexed by {word}"


def test_slices_that_are_written_to_make_a_concatenation() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        whole = w["whole"].new_empty(12)
        whole[:8].copy_(w["left"])
        whole[8:].copy_(w["right"])
        return whole * w["whole"]

    dims = analyse(body, whole=(12,), left=(8,), right=(4,))
    assert told(dims) == "whole: d0[8]+d1[4], left: d0[8], right: d1[4]"


def test_concatenation_skips_an_empty_cache() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        joined = torch.cat([torch.zeros(0), w["a"], w["b"]], dim=-1)
        return joined * w["c"]

    dims = analyse(body, a=(2, 8), b=(2, 4), c=(2, 12))
    assert told(dims) == "a: d0[2] | d1[8], b: d0[2] | d2[4], c: d0[2] | d1[8]+d2[4]"


def test_shapes_that_only_move() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        a = w["a"].permute(2, 0, 1).unsqueeze(-1).squeeze(-1).flatten(1)
        return a @ w["b"].t() + w["c"].T

    dims = analyse(body, a=(2, 3, 4), b=(5, 6), c=(5, 4))
    assert told(dims) == "a: d0[2] | d1[3] | d2[4], b: d3[5] | d0[2]*d1[3], c: d3[5] | d2[4]"


def test_products_of_matrices() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        y = torch.baddbmm(w["bias"], w["a"], w["b"])
        return torch.matmul(y, w["v"]) + torch.bmm(w["a"], w["b"]).mean(-1) + y.amax([-1])

    dims = analyse(body, a=(2, 3, 4), b=(2, 4, 5), bias=(5,), v=(5,))
    assert told(dims) == "a: d0[2] | d1[3] | d2[4], b: d0[2] | d2[4] | d3[5], bias: d3[5], v: d3[5]"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda w, x: w["a"][x], ["indexed", ""]),
        (lambda w, x: w["a"][x[0], x[1]], ["indexed", "indexed"]),
        (lambda w, x: w["a"].gather(0, x[:, :1].expand(3, 4)), ["indexed by gather", ""]),
        (lambda w, x: w["a"].index_select(0, x[0]), ["indexed by index_select", ""]),
        (lambda w, x: w["a"].index_select(-1, x[0, :4]), ["", "indexed by index_select"]),
        (lambda w, x: w["a"].gather(0, x[:, 1:4]), ["indexed by gather", "indexed in part"]),
        (lambda w, x: torch.topk(w["a"], 2, dim=0)[0], ["topk", ""]),
        (lambda w, x: torch.sort(w["a"], dim=0)[0], ["sorted", ""]),
        (lambda w, x: torch.sort(w["a"], stable=True)[0], ["", "sorted"]),
        (lambda w, x: torch.diff(w["a"]), ["", "differences"]),
        (lambda w, x: torch.histc(w["a"], 4), ["counted by histc", "counted by histc"]),
        (lambda w, x: w["a"][1::2] * x[0, 0], ["", "strided slice", ""]),
        (lambda w, x: w["a"] * torch.arange(4), ["", "counted by arange"]),
        (lambda w, x: w["a"] * x[0, 0] + torch.ones(6, 1), ["", ""]),
        (lambda w, x: w["a"].cumsum(0).contiguous().to(torch.float64), ["", ""]),
    ],
)
def test_reasons(body: Body, expected: list[str]) -> None:
    dims = analyse(body, a=(6, 4))
    assert (reasons(dims), dims.notes) == (expected, ())


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        # Keys and values of multi-query attention: the query heads before them are free.
        (lambda w, x: w["a"][[-2]], "a: (d0[4]+1+1) | d1[4]"),
        (lambda w, x: w["a"][[-3, -2]], "a: (d0[3]+d1[2!]+1) | d2[4]"),
        (lambda w, x: w["a"][[-3]], "a: (d0[3]+1+d1[2!]) | d2[4]"),
        # Those counted from the front stay where they are.
        (lambda w, x: w["a"][[2]], "a: (d0[2!]+1+d1[3]) | d2[4]"),
        (lambda w, x: w["a"][:, [-1]], "a: d0[6] | (d1[3]+1)"),
        # In another order, or around the end, they are no slice.
        (lambda w, x: w["a"][[2, 1]], "a: d0[6!] | d1[4]"),
        (lambda w, x: w["a"][[-1, 0]], "a: d0[6!] | d1[4]"),
        (lambda w, x: w["a"][[1, 1]], "a: d0[6!] | d1[4]"),
        (lambda w, x: w["a"][[1], [2]], "a: d0[6!] | d1[4!]"),
    ],
)
def test_an_index_of_constants_in_a_row_is_a_slice(body: Body, shown: str) -> None:
    assert told(analyse(body, a=(6, 4))).replace("(", "").replace(")", "") == shown.replace(
        "(", ""
    ).replace(")", "")


def test_scatter_and_index_put() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        at = x[0, :2, None].expand(2, 4)
        scattered = torch.zeros(6, 4).scatter(0, at, w["source"])
        placed = torch.zeros(6, 4).index_put((x[0, :2],), w["placed"])
        return scattered + placed + w["a"]

    dims = analyse(body, source=(2, 4), placed=(2, 4), a=(6, 4))
    shown = "source: d0[2!] | d1[4], placed: d0[2!] | d1[4], a: d2[6!] | d1[4]"
    assert told(dims) == shown


def test_convolution_keeps_its_window() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        patches = F.conv1d(F.embedding(x, w["table"]).transpose(1, 2), w["conv"], w["bias"])
        return patches.transpose(1, 2) @ w["out"]

    dims = analyse(body, table=(11, 4), conv=(8, 4, 3), bias=(8,), out=(8, 2))
    assert told(dims) == (
        "table: d0[11!] | d1[4], conv: d2[8] | d1[4] | d3[3!], bias: d2[8], out: d2[8] | d4[2]"
    )


@pytest.mark.parametrize(
    ("body", "b", "note"),
    [
        (
            lambda w, x: F.conv1d(w["a"][None], w["b"], groups=2),
            (4, 2, 3),
            "not followed (convolution in groups or without batch axis): aten.conv1d.default, "
            "at conv1d",
        ),
        (
            lambda w, x: w["a"].repeat_interleave(2) * w["b"],
            (48,),
            "not followed (missing a required argument: 'dim'): "
            "aten.repeat_interleave.self_int, at repeat_interleave",
        ),
        (
            lambda w, x: w["a"].repeat_interleave(x[0, :4], dim=0, output_size=9)[:, :3] * w["b"],
            (3,),
            "not followed (numbers of repeats that are computed): "
            "aten.repeat_interleave.self_Tensor, at repeat_interleave",
        ),
        (
            lambda w, x: w["a"][..., None][x[0], :, x[1]] * w["b"],
            (1,),
            "not followed (indexed axes that are not neighbours): aten.index.Tensor, at index",
        ),
        (
            lambda w, x: torch.cat([w["a"].view(24)[:5], w["a"].view(24)[5:]]) * w["b"],
            (24,),
            "product seen as concatenation: [24] -> [5, 19], at slice_1 and 1 more",
        ),
        (
            lambda w, x: w["a"].flip(0) * w["b"],
            (6,),
            "unknown operator: aten.flip.default, at flip",
        ),
    ],
)
def test_what_is_not_followed_freezes_and_is_told(
    body: Body, b: tuple[int, ...], note: str
) -> None:
    dims = analyse(body, a=(4, 6), b=b)
    assert dims.notes == (note,)
    assert all(dim.frozen for dim in dims.dims)


def test_control_flow_is_not_followed() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        chosen = torch.cond(x.sum() > 0, lambda a: a * 2, lambda a: a + 1, [w["a"]])
        assert isinstance(chosen, Tensor)
        return chosen

    dims = analyse(body, a=(4, 6))
    assert dims.notes == ("unknown operator: cond, at cond",)
    assert reasons(dims) == ["opaque cond", "opaque cond"]


def test_equal_problems_are_told_once() -> None:
    dims = analyse(lambda w, x: w["a"].flip(0) * w["a"].flip(1), a=(4, 6))
    assert dims.notes == ("unknown operator: aten.flip.default, at flip and 1 more",)


def test_a_rule_that_says_another_shape_than_torch_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RULES, "aten.flip", lambda call, x, dims: x[::-1])
    dims = analyse(lambda w, x: w["a"].flip(0) * w["b"], a=(4, 6), b=(6,))
    assert dims.notes == ("not followed (other shape): aten.flip.default, at flip",)
    assert all(dim.frozen for dim in dims.dims)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
        self.outward.weight = self.inward.weight
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.outward(self.inward(x) * self.scale)
        return y


def test_tied_weights_share_axes_and_buffers_freeze() -> None:
    dims = couple(export(Tied(), torch.zeros(3, 5, dtype=torch.long)))
    assert dims.axes == {"inward.weight": ("d0", "d1"), "outward.weight": ("d0", "d1")}
    assert reasons(dims) == ["indexed by embedding", "buffer scale"]


def test_inputs_and_outputs_freeze() -> None:
    dims = couple(export(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 8)), torch.zeros(3, 4)))
    assert told(dims) == (
        "weight: d0[6] | d1[4!], bias: d0[6], weight: d2[8!] | d0[6], bias: d2[8!]"
    )
    assert reasons(dims) == ["", "input input", "output"]


def test_open_sizes_couple_as_fixed_ones_do() -> None:
    batch = torch.export.Dim("batch", min=2)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8))
    opened = export(model, torch.zeros(3, 4), dynamic_shapes={"input": {0: batch}})
    assert told(couple(opened)) == told(couple(export(model, torch.zeros(3, 4))))
    sizes = [str(n.meta["val"].shape[0]) for n in opened.graph.nodes if n.op == "placeholder"]
    assert not sizes[-1].isdigit(), "the analysis has fixed the size"


def test_sizes_that_depend_on_data_freeze_what_they_meet() -> None:
    dims = analyse(lambda w, x: w["a"][x[0] > 0] @ w["b"], a=(5, 6), b=(6, 7))
    assert all(dim.frozen for dim in dims.dims)
    first, *_ = dims.notes
    assert first == "sizes that depend on data: aten.index.Tensor, at index"


def test_a_rule_that_fails_freezes_its_node_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: Call, x: Axes, dims: list[int]) -> Axes:
        raise ZeroDivisionError("by zero")

    monkeypatch.setitem(RULES, "aten.flip", broken)
    dims = analyse(lambda w, x: w["a"].flip(0).sum() + w["b"].sum(), a=(4, 6), b=(7,))
    assert dims.notes == ("not followed (ZeroDivisionError: by zero): aten.flip.default, at flip",)
    assert reasons(dims) == 2 * ["opaque aten.flip.default"] + [""]


def test_arguments_that_come_by_name_are_put_where_the_schema_has_them() -> None:
    gm = export(
        Toy(lambda w, x: w["a"].transpose(0, 1) @ w["b"], {"a": (4, 6), "b": (4, 7)}),
        torch.zeros(3, 5),
    )
    turn = next(node for node in gm.graph.nodes if "transpose" in str(node.target))
    product = next(node for node in gm.graph.nodes if "matmul" in str(node.target))
    turn.args, turn.kwargs = (), dict(zip(("self", "dim0", "dim1"), turn.args, strict=True))
    product.args, product.kwargs = product.args[:1], {"other": product.args[1]}
    dims = couple(gm)
    assert told(dims) == "a: d0[4] | d1[6], b: d0[4] | d2[7]"
    assert dims.notes == ()


def test_a_graph_without_fake_values_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"no fake value; capture the model with torch\.export"):
        couple(symbolic_trace(nn.Linear(4, 6)))


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(ValueError, match=r"aten\.linear has a rule already: linear"):
        rule("linear")(lambda call: None)
