"""What differs between versions of torch and transformers, in the shape of each."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from gacfx.graph.compat import (
    CACHES,
    cache_among,
    cache_argument,
    source_text,
    tokens_held,
    with_open_sizes,
)


class Until523(nn.Module):
    """As a model of transformers 5.23."""

    def forward(self, input_ids: Tensor, past_key_values: Any = None) -> Tensor:
        return input_ids


class From524(nn.Module):
    """As a model of transformers 5.24."""

    def forward(self, input_ids: Tensor, cache: Any = None) -> Tensor:
        return input_ids


@pytest.mark.parametrize(
    ("model", "name"),
    [(Until523(), "past_key_values"), (From524(), "cache"), (nn.Linear(2, 2), None)],
)
def test_the_cache_has_the_name_of_the_version(model: nn.Module, name: str | None) -> None:
    assert cache_argument(model) == name
    assert name is None or name in CACHES


def test_a_cache_is_known_by_what_it_can_do() -> None:
    from transformers import DynamicCache, EncoderDecoderCache

    cache = DynamicCache()
    both = EncoderDecoderCache(DynamicCache(), DynamicCache())
    assert cache_among([torch.ones(2), None, {"cache": 1}, cache]) is cache
    assert cache_among([both]) is both
    assert cache_among([torch.ones(2), None, {"cache": 1}]) is None


@pytest.mark.parametrize("raised", [ValueError, StopIteration])
def test_a_cache_without_keys_holds_no_tokens(raised: type[Exception]) -> None:
    class States:
        def get_seq_length(self) -> int:
            raise raised("no layer with attention")

    assert tokens_held(States()) == 0
    assert tokens_held(SimpleNamespace(get_seq_length=lambda: torch.tensor(3))) == 3


def test_the_source_of_an_input_is_a_method_or_a_property() -> None:
    until = SimpleNamespace(source=SimpleNamespace(name=lambda: "L['x']"))
    since = SimpleNamespace(source=SimpleNamespace(name="L['x']"))
    assert source_text(until) == source_text(since) == "L['x']"
    assert source_text(None) == ""


def test_a_linear_has_a_shape_where_sizes_are_open() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    kinds = [DimDynamic.DYNAMIC, DimDynamic.DYNAMIC, DimDynamic.STATIC]
    x = mode.from_tensor(torch.ones(2, 3, 4), symbolic_context=StatelessSymbolicContext(kinds))
    w = mode.from_tensor(torch.ones(5, 4), static_shapes=True)
    inside = torch._C.DispatchKey.PythonDispatcher  # what torch 2.11 needs for it
    with mode, with_open_sizes():
        assert torch._C._dispatch_tls_is_dispatch_key_included(inside)
        made = torch.ops.aten.linear.default(x, w)
    assert made.shape == (*x.shape[:2], 5)
    assert not torch._C._dispatch_tls_is_dispatch_key_included(inside)
