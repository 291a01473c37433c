"""Structures of planted blocks: what is refused, and why, and which blocks cannot be taken out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gacfx.core.structures import Structure
from gacfx.coupling.attentions import attentions
from gacfx.coupling.structures import coupled_structures
from gacfx.graph import ops
from gacfx.tracing.export import export_model
from tests.families.slicing import difference, prune_structure

D, W, HEADS = 12, 20, 2


class Block(nn.Module):
    """An MLP with something in the middle."""

    def __init__(self, middle: "Middle") -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(D, W), nn.Linear(D, W, bias=False)
        self.down, self.other = nn.Linear(W, D), nn.Linear(W, D)
        self.norm, self.scale = nn.LayerNorm(W), nn.Parameter(torch.ones(W))
        self.register_buffer("table", torch.ones(W))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return self.middle(self, x)


Middle = Callable[[Block, Tensor], Tensor]


class Layer(nn.Module):
    """A block on the residual stream."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(D), block

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        out: Tensor = x + self.mlp(self.norm(x))
        return out


class Net(nn.Module):
    """Two layers."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([make(), make()])
        self.head = nn.Linear(D, 7)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, 7]."""
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x)
        return out


def net_of(middle: Middle, change: Callable[[Net], None] = lambda _: None) -> Net:
    torch.manual_seed(0)
    net = Net(lambda: Layer(Block(middle))).eval()
    change(net)
    return net


def structures(net: nn.Module) -> tuple[Structure, ...]:
    return coupled_structures(export_model(net, {"x": torch.randn(3, 17, D)}))


def first(net: nn.Module) -> Structure:
    return structures(net)[0]


FINE: dict[str, Middle] = {
    "no activation": lambda net, x: net.down(net.up(x)),
    "gated": lambda net, x: net.down(functional.silu(net.gate(x)) * net.up(x)),
    "not zero at zero": lambda net, x: net.down(torch.sigmoid(net.up(x)) + 1.0),
    "dropout": lambda net, x: net.down(functional.dropout(net.up(x), 0.5, training=False)),
    "tokens as rows": lambda net, x: net.down(net.up(x.flatten(0, 1)).tanh()).reshape(x.shape),
    "cast": lambda net, x: net.down(net.up(x).double().tanh().float()),
}
"""Biases of the opening layers are there in each but the one of gate."""


@pytest.mark.parametrize("name", FINE)
def test_channels_on_their_own_may_be_pruned(name: str) -> None:
    net = net_of(FINE[name])
    found = structures(net)
    assert [(each.name, each.units, each.refused) for each in found] == [
        ("layers.0.mlp", W, ""),
        ("layers.1.mlp", W, ""),
    ]
    sliced, masked = prune_structure(net, found[0], range(0, W, 2))
    kwargs = {"x": torch.randn(3, 17, D)}
    assert difference(sliced, masked, kwargs) < 1e-6
    assert difference(masked, net, kwargs) > 1e-4


def _mean(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def plain_norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, (W,))


REFUSED: dict[str, tuple[Middle, str]] = {
    "a norm": (
        lambda net, x: net.down(plain_norm(net.up(x))),
        "its channels are averaged over by layer_norm",
    ),
    "a norm with a scale": (
        lambda net, x: net.down(net.norm(net.up(x))),
        "its channels are also those of norm.weight, which is no Linear",
    ),
    "a norm in pieces": (
        lambda net, x: net.down(_mean(net.up(x))),
        "its channels are averaged over by mean",
    ),
    "softmax": (
        lambda net, x: net.down(net.up(x).softmax(-1)),
        "its channels are summed over by softmax",
    ),
    "a sum beside": (
        lambda net, x: net.down(net.up(x)) * net.up(x).sum(-1, keepdim=True),
        "up: its weight is used 2 times",
    ),
    "a sum": (
        lambda net, x: net.down((h := net.up(x)) * h.sum(-1, keepdim=True)),
        "its channels are summed over by sum",
    ),
    "the largest": (
        lambda net, x: net.down((h := net.up(x)) - h.amax(-1, keepdim=True)),
        "its channels are summed over by amax",
    ),
    "a product with each other": (
        lambda net, x: net.down((h := net.up(x)) @ h.transpose(1, 2) @ h),
        "its channels are summed over by a product of activations",
    ),
    "a scale": (
        lambda net, x: net.down(net.up(x) * net.scale),
        "its channels are also those of mlp.scale, which is no Linear",
    ),
    "a table": (
        lambda net, x: net.down(net.up(x) * net.table),
        "the number of channels is fixed: buffer layers.0.mlp.table",
    ),
    "two readers": (
        lambda net, x: net.down(h := net.up(x)) + net.other(h),
        "several layers read its channels: down, other",
    ),
    "random slopes": (
        lambda net, x: net.down(functional.rrelu(net.up(x), training=False)),
        "the number of channels is fixed: opaque aten.rrelu.default",
    ),
    "unknown": (
        lambda net, x: net.down(net.up(x).flip(-1)),
        "the number of channels is fixed: opaque aten.flip.default",
    ),
    "groups": (
        lambda net, x: net.down(net.up(x).view(3, 17, 4, 5).tanh().flatten(2)),
        "its channels are no single axis",
    ),
    "one channel picked": (
        lambda net, x: net.down((h := net.up(x)) * h[..., 3:4]),
        "its channels are no single axis",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_reason(name: str) -> None:
    middle, reason = REFUSED[name]
    found = first(net_of(middle))
    assert (found.name, found.refused, found.keeps_block) == ("layers.0.mlp", reason, reason)


def test_dropout_in_training_draws_for_every_channel() -> None:
    def middle(net: Block, x: Tensor) -> Tensor:
        out: Tensor = net.down(functional.dropout(net.up(x), 0.5, training=True))
        return out

    assert first(net_of(middle)).refused == "its channels are drawn for by dropout"


def _tie(net: Net) -> None:
    one, other = (layer.get_submodule("mlp.up") for layer in net.layers)
    other.weight = one.weight


def test_a_weight_of_two_layers_is_not_pruned() -> None:
    found = structures(net_of(FINE["no activation"], _tie))
    assert found == ()  # its channels are then those of both layers, like the residual stream


def _tie_inside(net: Net) -> None:
    for layer in net.layers:
        layer.get_submodule("mlp.gate").weight = layer.get_submodule("mlp.up").weight


def test_a_weight_of_two_modules_is_not_pruned() -> None:
    found = first(net_of(FINE["gated"], _tie_inside))
    assert found.refused == "gate: its weight is shared with layers.0.mlp.up.weight"


class Mine(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        """Twice the product."""
        return 2 * super().forward(input)


def _unknown(net: Net) -> None:
    for layer in net.layers:
        layer.get_submodule("mlp").up = Mine(D, W)


def test_only_linear_layers_are_sliced() -> None:
    found = first(net_of(FINE["gated"], _unknown))
    assert found.refused == "up: owned by Mine, which is no Linear"


def test_outside_the_repeated_layers() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = Block(FINE["gated"])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.mlp(x)
            return out

    found = first(Outside().eval())
    assert (found.name, found.refused) == ("mlp", "gate: outside the repeated layers")


# -- blocks ---------------------------------------------------------------------------------------


class Flat(nn.Module):
    """A layer that holds the weights of its MLP itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, W), nn.Linear(W, D)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return x + functional.layer_norm(self.down(self.up(x).relu()), (D,)).to(x.dtype)


def test_without_a_module_of_its_own() -> None:
    found = first(Net(Flat).eval())
    assert (found.name, found.refused) == ("layers.0.up+down", "")
    assert found.keeps_block == "it has no module of its own"


KEPT: dict[str, tuple[Middle, str]] = {
    "adds itself": (
        lambda net, x: x + net.down(net.up(x)),
        "its module adds to the residual stream itself",
    ),
    "adds one": (lambda net, x: net.down(net.up(x)) + 1.0, "its outputs also go into add"),
    "is not zero at zero": (
        lambda net, x: torch.sigmoid(net.down(net.up(x))),
        "its outputs also go into sigmoid",
    ),
    "has other weights": (
        lambda net, x: net.down(net.up(x)) * torch.sigmoid(net.other(x.repeat(1, 1, 2)[..., :W])),
        "its module also holds other",
    ),
    "goes elsewhere": (
        lambda net, x: (h := net.down(net.up(x))) * torch.sigmoid(h),
        "its outputs also go into sigmoid",
    ),
    "scales": (lambda net, x: 0.5 * net.down(net.up(x)), ""),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_block_that_cannot_be_taken_out(name: str) -> None:
    middle, reason = KEPT[name]
    found = next(each for each in structures(net_of(middle, _lean)) if not each.refused)
    assert (found.name, found.keeps_block) == ("layers.0.mlp", reason)


def _lean(net: Net) -> None:
    """Leave out of the blocks what no example reads; what nobody reads is in no graph."""
    for layer in net.layers:
        layer.get_submodule("mlp").gate = nn.Identity()


# -- attention ------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Attention, of the stream on itself or on something else."""

    def __init__(self, kv: int = HEADS, twice: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.kv, self.twice = kv, twice
        self.q, self.o = nn.Linear(D, D), nn.Linear(D, D)
        self.k, self.v = (nn.Linear(D, kv * D // HEADS) for _ in range(2))
        self.norm = nn.LayerNorm(D, elementwise_affine=False) if norm else nn.Identity()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        other = x if other is None else other
        q = self.norm(self.q(x)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        k, v = (f(other).unflatten(-1, (self.kv, -1)).transpose(1, 2) for f in (self.k, self.v))
        if self.kv < HEADS:
            k, v = (t.expand(-1, HEADS, -1, -1) for t in (k, v))
        out = functional.scaled_dot_product_attention(q, k, v)
        if self.twice:
            out = functional.scaled_dot_product_attention(out, k, v)
        y: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return y


def test_heads_of_an_attention() -> None:
    found = first(Net(lambda: Layer(Attention())).eval())
    assert (found.kind, found.units, found.heads, found.refused) == ("heads", HEADS, 1, "")
    assert [member.module[-1] for member in found.members] == ["q", "k", "v", "o"]
    assert found.closing.module == "layers.0.mlp.o" and found.keeps_block == ""


def test_multi_query_attention_has_one_unit() -> None:
    found = first(Net(lambda: Layer(Attention(kv=1))).eval())
    assert (found.units, found.heads, found.refused) == (1, HEADS, "")
    q, k, v, o = found.members
    for member in (k, v):
        assert member.outputs is not None
        assert member.outputs.kept((0,), ((1,),)).tolist() == list(range(D // HEADS))
    assert q.outputs is not None and o.inputs is not None
    for along in (q.outputs, o.inputs):
        assert along.kept((0,), ((1,),)).tolist() == list(range(D // HEADS, D))


def test_a_norm_over_all_heads() -> None:
    found = first(Net(lambda: Layer(Attention(norm=True))).eval())
    assert found.refused == "its heads are averaged over by layer_norm"


def test_several_attentions_in_one_module() -> None:
    found = first(Net(lambda: Layer(Attention(twice=True))).eval())
    assert (found.refused, found.keeps_block) == ("", "its module has several attentions")


def test_cross_attention() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Attention(), Attention()])

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x, other)
            return x

    inputs = {"x": torch.randn(3, 17, D), "other": torch.randn(3, 13, D)}
    found = coupled_structures(export_model(Cross().eval(), inputs))
    assert [each.refused for each in found] == ["cross attention"] * 2


def test_one_tensor_may_be_query_key_and_value() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(query=x, key=x, value=x)

    assert coupled_structures(export_model(Same(), {"x": torch.randn(3, 2, 17, 4)})) == ()


def test_attention_whose_kernel_is_chosen_has_several_results_and_no_structure() -> None:
    gm = export_model(Twice(), {"x": torch.randn(3, 2, 17, 4)})
    assert [node.name for node in gm.graph.nodes if ops.chosen_kernel(node) is not None]
    assert attentions(gm.graph.nodes) == ()


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)[0]
        return found
