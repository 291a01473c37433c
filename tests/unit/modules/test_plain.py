"""Subclasses of nn.Linear are taken for what they compute, not for what they are called."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gacfx.core.decision import LowRank
from gacfx.core.materialise import Factors
from gacfx.errors import UnsupportedModel
from gacfx.modules.dense import like
from gacfx.modules.install import install_
from gacfx.modules.plain import as_linears, is_plain
from gacfx.modules.sliced import SlicedLinear
from gacfx.tracing.export import export_model


class Named(nn.Linear):
    """Nothing else."""


class Spelled(nn.Linear):
    """As Falcon has it."""

    def forward(self, input: Tensor) -> Tensor:
        """x @ W.T + b"""
        out = input @ self.weight.T
        return out if self.bias is None else out + self.bias


class Before(nn.Linear):
    """The bias comes first."""

    def forward(self, input: Tensor) -> Tensor:
        """b + x @ W.t()"""
        return self.bias + torch.matmul(input, self.weight.t())


class Marked(Spelled):
    """Remembers how it is to be filled."""

    def __init__(self, inputs: int, outputs: int, init: str = "final") -> None:
        super().__init__(inputs, outputs)
        self.init = init


class Scaled(nn.Linear):
    """Another product."""

    def forward(self, input: Tensor) -> Tensor:
        """2 x @ W.T"""
        return 2 * functional.linear(input, self.weight, self.bias)


class ByNumber(nn.Linear):
    """Another product, by a number that it holds."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.times = 3

    def forward(self, input: Tensor) -> Tensor:
        """A product as often as it says."""
        out = functional.linear(input, self.weight, self.bias)
        return out if self.times == 1 else self.times * out


class Turned(nn.Linear):
    """The weight the other way round, which fits where it is square."""

    def forward(self, input: Tensor) -> Tensor:
        """x @ W"""
        return input @ self.weight + self.bias


class Lost(nn.Linear):
    """Its bias is never added."""

    def forward(self, input: Tensor) -> Tensor:
        """x @ W.T"""
        return functional.linear(input, self.weight)


class Drops(nn.Linear):
    """Another product in training."""

    def forward(self, input: Tensor) -> Tensor:
        """dropout(x) @ W.T"""
        x = functional.dropout(input, 0.5) if self.training else input
        return functional.linear(x, self.weight, self.bias)


class Casts(nn.Linear):
    """In another dtype."""

    def forward(self, input: Tensor) -> Tensor:
        """x @ W.T in float64"""
        out = functional.linear(input.double(), self.weight.double(), self.bias.double())
        return out.to(input.dtype)


class Pair(nn.Linear):
    """Gives more than the product."""

    def forward(self, input: Tensor) -> Any:
        """(y, x)"""
        return functional.linear(input, self.weight, self.bias), input


class Branches(nn.Linear):
    """No single graph."""

    def forward(self, input: Tensor) -> Tensor:
        """Perhaps the product."""
        out = functional.linear(input, self.weight, self.bias)
        return out if bool(input.sum() > 0) else -out


class Adapted(nn.Linear):
    """Holds another weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.more = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize("cls", [nn.Linear, Named, Spelled, Before, Marked])
def test_a_product_in_other_words_is_one(cls: type[nn.Linear]) -> None:
    assert is_plain(cls(6, 4)) and is_plain(cls(5, 5).to(torch.bfloat16))


def test_a_product_without_a_bias_is_one() -> None:
    assert is_plain(Spelled(6, 4, bias=False)) and not is_plain(Before(6, 4, bias=False))


OTHERS = (Scaled, ByNumber, Turned, Lost, Drops, Casts, Pair, Branches, Adapted)


@pytest.mark.parametrize("cls", OTHERS)
def test_what_computes_or_holds_something_else_is_none(cls: type[nn.Linear]) -> None:
    layer = cls(5, 5)
    assert not is_plain(layer)
    with pytest.raises(UnsupportedModel, match=f"is a {cls.__name__}; only nn.Linear"):
        install_(nn.ModuleDict({"a": layer}), {"a": dense_factors(5, 5)})


def dense_factors(rows: int, columns: int) -> Factors:
    """Of rank 1."""
    tensors = {"down": torch.ones(1, columns), "up": torch.ones(rows, 1)}
    return Factors(LowRank(1), rows, columns, tensors)


def test_our_own_slices_and_layers_with_a_buffer_or_a_child_are_none() -> None:
    buffered, parent = Spelled(4, 4), Spelled(4, 4)
    buffered.register_buffer("seen", torch.zeros(1))
    parent.inner = nn.Identity()
    assert not any(map(is_plain, (SlicedLinear(4, 4), buffered, parent)))


class Holder(nn.Module):
    """Two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Spelled(6, 4), Scaled(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, 6] -> [B, S, 4]."""
        found: Tensor = self.other(self.one(x))
        return found


def test_a_graph_shows_the_operator_and_the_model_stays_as_it_is() -> None:
    model = Holder().eval()
    gm = export_model(model, {"x": torch.ones(3, 17, 6)})
    owners = [
        list(node.meta["nn_module_stack"].values())[-1][1].rpartition(".")[2]
        for node in gm.graph.nodes
        if str(node.target) == "aten.linear.default"
    ]
    assert owners == ["Linear", "Scaled"]
    assert (type(model.one), type(model.other)) == (Spelled, Scaled)
    with torch.no_grad():
        torch.testing.assert_close(gm(x=torch.ones(3, 17, 6)), model(torch.ones(3, 17, 6)))


def test_classes_come_back_after_an_error() -> None:
    model = Holder()
    with suppress(RuntimeError), as_linears(model):
        assert type(model.one) is nn.Linear
        raise RuntimeError
    assert type(model.one) is Spelled


def test_another_one_of_its_class_is_made_without_asking_the_class() -> None:
    made = like(Marked(6, 4, init="gating"), torch.ones(3, 6), nn.Parameter(torch.zeros(3)))
    assert isinstance(made, Marked) and made.init == "gating"
    assert made(torch.ones(2, 6)).tolist() == [[6.0] * 3] * 2
