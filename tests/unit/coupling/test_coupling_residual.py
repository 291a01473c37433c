"""Who reads and writes the residual stream, by the captured graph alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.coupling.residual import Residual, residual_stream
from gacfx.errors import UnsupportedModel
from gacfx.tracing.capture import capture
from tests.families.zoo import FAMILIES


def stream(model: nn.Module, embedding: str = "model.embed_tokens") -> Residual:
    return residual_stream(capture(model, seq=17), embedding)


def test_the_parts_of_a_llama() -> None:
    found = stream(FAMILIES["llama"].make())
    layers = ("model.layers.0", "model.layers.1")
    assert found.size == 48
    assert found.embeddings == ("model.embed_tokens",)
    assert found.writers == tuple(
        f"{layer}.{name}" for layer in layers for name in ("self_attn.o_proj", "mlp.down_proj")
    )
    assert found.norms[-1] == "model.norm" and len(found.norms) == 5
    assert found.readers["lm_head"] == "model.norm"
    assert found.readers[f"{layers[1]}.mlp.up_proj"] == f"{layers[1]}.post_attention_layernorm"
    assert found.readers[f"{layers[0]}.self_attn.k_proj"] == f"{layers[0]}.input_layernorm"
    assert len(found.readers) == 11


def test_norms_inside_heads_are_no_norms_of_the_stream() -> None:
    assert not [name for name in stream(FAMILIES["qwen3"].make()).norms if "q_norm" in name]


class Small(nn.Module):
    """A model of one block; ``between`` works on the stream."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, 6), nn.RMSNorm(6)
        self.up, self.down, self.head = nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 11)
        self.last, self.between = nn.LayerNorm(6), between

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = self.between(x + self.down(self.up(self.norm(x)).relu()))
        out: Tensor = self.head(self.last(x))
        return out


def small(between: Callable[[Tensor], Tensor]) -> Residual:
    ids = torch.zeros(3, 7, dtype=torch.long)
    with torch.device("meta"):
        model = Small(between).eval()
    graph = torch.export.export(model, (ids.to("meta"),), strict=False).module(check_guards=False)
    return residual_stream(graph, "embed")


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x,
        lambda x: 0.5 * x / 3.0,
        lambda x: x * torch.full((7, 1), 2.0, device="meta"),
        lambda x: x[:, 1:],
        lambda x: x.reshape(21, 6).double().float().view(3, 7, 6),
        lambda x: x.unsqueeze(1).expand(3, 2, 7, 6).select(1, 0),
    ],
)
def test_what_moves_and_scales_whole_vectors_is_followed(between: Any) -> None:
    found = small(between)
    assert (found.writers, found.norms) == (("down",), ("norm", "last"))
    assert found.readers == {"up": "norm", "head": "last"}


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (torch.relu, "relu works on the residual stream"),
        (lambda x: x + 1.0, "add works on the residual stream"),
        (lambda x: 1.0 / x, "works on the residual stream"),
        (lambda x: x * torch.arange(6.0, device="meta"), "hidden size is fixed|mul works on"),
        (lambda x: x.flip(-1), "hidden size is fixed"),
        (lambda x: x * x, "mul works on the residual stream"),
        (lambda x: x - x.mean(-1, keepdim=True), "mean works on the residual stream"),
    ],
)
def test_what_knows_the_coordinates_is_refused(between: Any, why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        small(between)


class Bare(Small):
    """The block reads without a norm."""

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        out: Tensor = self.head(self.last(x + self.down(self.up(x).relu())))
        return out


class Open(Small):
    """The stream is given away."""

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.last(self.embed(input_ids))
        return out


class Spare(Small):
    """A vector along the stream scales what goes into it."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__(between)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        out: Tensor = self.head(self.last(x + self.scale * self.down(self.up(self.norm(x)))))
        return out


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Bare, "up: reads the residual stream without a norm"),
        (Open, "gives vectors of its residual stream to its caller|hidden size is fixed"),
        (Spare, "mul works on"),
    ],
)
def test_models_of_another_build_are_refused(
    kind: type[Small], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "Small", kind)
    with pytest.raises(UnsupportedModel, match=why):
        small(lambda x: x)


@pytest.mark.parametrize(
    ("family", "embedding", "why"),
    [
        ("gemma3", "model.embed_tokens", "post_attention_layernorm: is a norm whose output"),
        ("mixtral", "model.embed_tokens", "experts in one tensor read"),
        ("llama", "model.elsewhere", "no token becomes a vector"),
    ],
)
def test_families_that_are_refused(family: str, embedding: str, why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        stream(FAMILIES[family].make(), embedding)
