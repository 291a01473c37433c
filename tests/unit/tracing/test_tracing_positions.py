"""Branches on values: those of positions are fixed at the captured length, others are refused."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.errors import CaptureError
from gacfx.tracing.export import export_model

Asks = Callable[["Branches", Tensor], Any]


class Branches(nn.Module):
    """Adds one where the answer is yes, takes one away where it is no."""

    def __init__(self, asks: Asks) -> None:
        super().__init__()
        self.asks = asks
        self.longest = torch.tensor(4)
        self.offset: Tensor
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, S] -> [B, S]."""
        positions = torch.arange(x.shape[1], device=x.device)[None]
        return x + self.offset + 1 if self.asks(self, positions) else x + self.offset - 1


def grows(self: Branches, positions: Tensor) -> bool:
    longest = positions.max() + 1
    if longest > self.longest:
        self.longest = longest
        self.register_buffer("offset", self.offset + 10.0)
        return True
    return False


ANSWERED: dict[str, tuple[Asks, float]] = {
    "longer": (lambda _, at: torch.max(at) + 1 > 4, 1.0),
    "shorter": (lambda _, at: torch.max(at) + 1 < 4, -1.0),
    "mask": (lambda _, at: torch.ones(3, 5, device=at.device).bool().all(), 1.0),
    "number": (lambda _, at: int(at[0, -1].item()) == 4, 1.0),
    "negated": (lambda _, at: not (at >= 0).all(), -1.0),
    "changed in place": (lambda _, at: at.clone().add_(5).min() > 4, 1.0),
    "set by index": (lambda _, at: _put(at.clone(), at + 5).max() == 9, 1.0),
    "set in a view": (lambda _, at: _put(at.clone(), at + 5, inside=True).max() == 9, 1.0),
    "own number in place": (lambda self, at: self.longest.add_(3).item() == 7, 1.0),
    "own number": (lambda self, at: at.max() > self.longest, -1.0),
    "own state": (grows, 11.0),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ANSWERED)
def test_a_branch_on_positions_is_the_one_of_the_captured_length(name: str, device: str) -> None:
    asks, adds = ANSWERED[name]
    model = Branches(asks)
    gm = export_model(model.to(device), {"x": torch.zeros(3, 5, device=device)})
    assert type(model.longest) is Tensor and int(model.longest) == 4
    assert type(model.offset) is Tensor and model.offset.device.type == device
    if device == "cpu":
        assert model.offset.tolist() == [0.0]
        assert torch.equal(gm(x=torch.zeros(3, 5)), torch.full((3, 5), adds))


UNKNOWN: dict[str, Callable[[Tensor], Any]] = {
    "values": lambda x: x.sum() > 0,
    "positions of values": lambda x: (torch.arange(5) * x).max() > 4,
    "values in place": lambda x: torch.zeros(3, 5, dtype=torch.long).copy_(x).any(),
    "values by index": lambda x: _put(torch.zeros(3, 5, dtype=torch.long), x).any(),
    "values in a view": lambda x: _put(torch.zeros(3, 5, dtype=torch.long), x, inside=True).any(),
    "values into a result": lambda x: _added(torch.zeros(3, 5), x).any(),
}


def _put(whole: Tensor, x: Tensor, *, inside: bool = False) -> Tensor:
    """The first row of one tensor in the place of another's."""
    if inside:
        whole[0].copy_(x[0].long())
    else:
        whole[0] = x[0].long()
    return whole


def _added(out: Tensor, x: Tensor) -> Tensor:
    torch.add(x, 1, out=out)
    return out


class Reads(nn.Module):
    """Branches on its input."""

    def __init__(self, asks: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        """[B, S] -> [B, S]."""
        return x + 1 if self.asks(x) else x - 1


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_branch_on_values_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        CaptureError, match=r"Reads: the model \(Reads, test_\w+.py:\d+\) branches on values"
    ) as error:
        export_model(Reads(UNKNOWN[name]), {"x": torch.ones(3, 5)})
    assert "\n" not in str(error.value)


def test_a_rotary_type_that_depends_on_the_length_is_named() -> None:
    model = Reads(UNKNOWN["values"])
    rope = {"rope_type": "dynamic", "factor": 2.0}
    model.config = SimpleNamespace(rope_parameters=rope)  # type: ignore[assignment]
    with pytest.raises(CaptureError, match=r"rotary embedding of type 'dynamic': try .*'default'"):
        export_model(model, {"x": torch.ones(3, 5)})
