"""Feeders: known where channels may come in any order, and never said where that is not so."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gacfx.coupling.feeders import feeders
from gacfx.graph.notes import state
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.couple_dims import CoupleDims
from gacfx.tracing.export import export_model
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few
from tests.passes.graphs import graph_of, run

DENSE = ("bert", "gemma3", "gpt2", "gptneox", "llama", "mistral", "opt", "qwen2", "qwen3", "vit")
Middle = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """An up and a down projection with something in between."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 20), nn.Linear(12, 20, bias=False)
        self.last, self.other = nn.Linear(20, 12), nn.Linear(20, 12)
        self.scale, self.one = nn.Parameter(torch.ones(20)), nn.Parameter(torch.ones(1))
        self.norm = nn.LayerNorm(20, elementwise_affine=False)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, 12] -> [B, S, 12]."""
        out: Tensor = self.last(self.middle(self, x)) + self.other(x.repeat(1, 1, 2)[..., :20])
        return out


def found(middle: Middle, change: Callable[[Net], None] = lambda _: None) -> tuple[str, ...]:
    """What makes the inputs of the last layer."""
    net = Net(middle).eval()
    change(net)
    gm = export_model(net, {"x": torch.randn(3, 17, 12)})
    return feeders(run(gm, AnnotateSites())).get("last", ())


KNOWN: dict[str, tuple[Middle, tuple[str, ...]]] = {
    "nothing": (lambda net, x: net.a(x), ("a",)),
    "gelu": (lambda net, x: functional.gelu(net.a(x)), ("a",)),
    "gated": (lambda net, x: functional.silu(net.a(x)) * net.b(x), ("a", "b")),
    "one twice": (lambda net, x: net.a(x) * torch.sigmoid(net.a(x)), ()),
    "used twice": (lambda net, x: (h := net.a(x)) * torch.sigmoid(h), ("a",)),
    "numbers": (lambda net, x: 2.0 * net.a(x).square() + 1.0, ("a",)),
    "one number": (lambda net, x: net.a(x) * net.one, ("a",)),
    "a number of each token": (lambda net, x: net.a(x) * x.sum(-1, keepdim=True), ("a",)),
    "batch as tokens": (lambda net, x: net.a(x).reshape(51, 20).tanh().reshape(3, 17, 20), ("a",)),
    "other precision": (lambda net, x: net.a(x).double().tanh().float(), ("a",)),
}
"""Channels may be reordered, but where a weight is used twice."""

REFUSED: dict[str, Middle] = {
    "a scale of each channel": lambda net, x: net.a(x) * net.scale,
    "a constant of each channel": lambda net, x: net.a(x) + torch.arange(20.0),
    "a norm": lambda net, x: net.norm(net.a(x)),
    "softmax": lambda net, x: net.a(x).softmax(-1),
    "running sums": lambda net, x: net.a(x).cumsum(-1),
    "neighbours": lambda net, x: net.a(x) + net.a(x).roll(1, -1),
    "the other way round": lambda net, x: net.a(x).flip(-1),
    "groups": lambda net, x: net.a(x).reshape(3, 17, 4, 5).transpose(2, 3).reshape(3, 17, 20),
    "two halves": lambda net, x: torch.cat([net.a(x)[..., 10:], net.a(x)[..., :10]], -1),
    "every second one": lambda net, x: net.a(x)[..., ::2].repeat_interleave(2, -1),
    "half a rest": lambda net, x: torch.cat([net.a(x)[..., :8], x], -1),
    "the input": lambda net, x: net.a(x) + torch.cat([x, x], -1)[..., :20],
    "another layer": lambda net, x: (h := net.a(x)) + net.last(h).mean(),
    "the largest channel": lambda net, x: (h := net.a(x)) * (h.argmax(-1, keepdim=True) > 3),
    "its first channel": lambda net, x: (h := net.a(x)) * h[..., :1],
    "tokens as channels": lambda net, x: net.a(x[:, :1].expand(3, 20, 12)).transpose(1, 2)[:, :17],
    "half its channels": lambda net, x: functional.glu(torch.cat([net.a(x), net.b(x)], -1), -1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_layers_in_front_are_known(name: str) -> None:
    middle, wanted = KNOWN[name]
    assert found(middle) == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_tells_channels_apart_is_refused(name: str) -> None:
    assert found(REFUSED[name]) == ()


def test_a_tensor_of_unknown_shape_is_no_number() -> None:
    net = Net(REFUSED["a scale of each channel"]).eval()
    gm = run(export_model(net, {"x": torch.randn(3, 17, 12)}), AnnotateSites())
    [scale] = [node for node in gm.graph.nodes if node.target == "scale"]
    scale.meta.clear()
    assert "last" not in feeders(gm)


def _tie_weights(net: Net) -> None:
    net.b.weight = net.a.weight


def _tie_biases(net: Net) -> None:
    net.b.bias = net.a.bias


def _tie_last(net: Net) -> None:
    net.other.weight = net.last.weight


@pytest.mark.parametrize("tie", [_tie_weights, _tie_biases, _tie_last])
def test_shared_parameters_are_refused(tie: Callable[[Net], None]) -> None:
    def gated(net: Net, x: Tensor) -> Tensor:
        out: Tensor = net.a(x) * net.b(x)
        return out

    assert found(gated) == ("a", "b")
    assert found(gated, tie) == ()


def test_channels_that_leave_the_model_are_refused() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.last = nn.Linear(12, 20), nn.Linear(20, 12)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.a(x).tanh()
            return self.last(h), h

    assert feeders(run(export_model(Seen(), {"x": torch.randn(3, 17, 12)}), AnnotateSites())) == {}


@pytest.mark.parametrize("family", few(sorted(FAMILIES), *CORNERS, "opt"))
def test_coupling_says_the_same_of_every_family(family: str) -> None:
    gm = run(graph_of(family), AnnotateSites(), CoupleDims())
    known, dims = feeders(gm), state(gm).dims
    assert dims is not None and bool(known) == (family in (*DENSE, "deepseekv3"))
    for module, before in known.items():
        conv = family == "gpt2"
        [dim] = [d for d in dims.of(f"{module}.weight") if d.size in (88, 40, 192)]
        uses = {(use.weight, use.axis) for use in dim.uses}
        wanted = {(f"{module}.weight", 0 if conv else 1)}
        for name in before:
            wanted.add((f"{name}.weight", 1 if conv else 0))
            if f"{name}.bias" in dict(gm.named_parameters()):
                wanted.add((f"{name}.bias", 0))
        assert uses == wanted and not dim.frozen and all(use.times == 1 for use in dim.uses)
