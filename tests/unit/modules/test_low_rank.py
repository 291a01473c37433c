"""LowRankLinear: the product of its factors, an ordinary module, a guard in its state."""

import pytest
import torch
from torch import nn

from gacfx.modules.carrier import NOTICE
from gacfx.modules.low_rank import LowRankLinear

# B batch, D input 11, R rank 3, O output 7


def test_it_multiplies_by_up_times_down_and_adds_the_bias() -> None:
    down, up = torch.randn(3, 11), torch.randn(7, 3)
    bias = nn.Parameter(torch.randn(7))
    layer = LowRankLinear.from_factors(down, up, bias)
    x = torch.randn(5, 11)
    torch.testing.assert_close(layer(x), x @ (up @ down).T + bias)
    assert layer.up.bias is bias
    assert (layer.in_features, layer.out_features, layer.rank) == (11, 7, 3)


def test_children_are_plain_linears_and_the_state_has_the_guard() -> None:
    layer = LowRankLinear(11, 7, 3)
    assert type(layer.down) is nn.Linear
    assert type(layer.up) is nn.Linear
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {
        "down.weight": (3, 11),
        "up.weight": (7, 3),
        "up.bias": (7,),
        "weight": (0,),
        "weight_IMPORT_GACFX_BEFORE_LOADING": (0,),
    }
    assert layer.weight.numel() == 0
    assert "weight" not in dict(layer.named_parameters())


def test_without_bias() -> None:
    assert LowRankLinear(11, 7, 3, bias=False).up.bias is None
    layer = LowRankLinear.from_factors(torch.randn(3, 11), torch.randn(7, 3))
    assert "up.bias" not in layer.state_dict()


def test_a_state_without_notice_loads_into_it() -> None:
    layer = LowRankLinear(11, 7, 3)
    state = {name: torch.ones_like(v) for name, v in layer.state_dict().items() if name != NOTICE}
    layer.load_state_dict(state)
    assert bool((layer.down.weight == 1).all())
    assert NOTICE not in state
    del state["weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"weight\"."):
        layer.load_state_dict(state)


def test_a_dense_state_does_not_load_into_it() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        LowRankLinear(11, 7, 3).load_state_dict(nn.Linear(11, 7).state_dict())


def test_its_state_does_not_load_into_a_dense_layer() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(11, 7).load_state_dict(LowRankLinear(11, 7, 3).state_dict(), strict=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_and_device_reach_factors_and_guard(dtype: torch.dtype) -> None:
    made = LowRankLinear(11, 7, 3, device="meta", dtype=dtype)
    filled = LowRankLinear.from_factors(torch.randn(3, 11), torch.randn(7, 3), dtype=dtype)
    assert {value.dtype for value in made.state_dict().values()} == {dtype}
    assert {value.dtype for value in filled.state_dict().values()} == {dtype}
    assert all(value.is_meta for value in made.state_dict().values())
    assert not any(value.is_meta for value in filled.state_dict().values())


def test_training_it_leaves_the_factors_alone() -> None:
    down, up = torch.randn(3, 11), torch.randn(7, 3)
    kept = down.clone()
    layer = LowRankLinear.from_factors(down, up)
    with torch.no_grad():
        layer.down.weight.zero_()
    assert torch.equal(down, kept)


def test_strided_factors_become_contiguous() -> None:
    layer = LowRankLinear.from_factors(torch.randn(11, 3).T, torch.randn(3, 7).T)
    assert layer.down.weight.is_contiguous()
    assert layer.up.weight.is_contiguous()


def test_it_prints_its_sizes() -> None:
    text = repr(LowRankLinear(11, 7, 3, bias=False))
    assert "in_features=11, out_features=7, rank 3, bias=False" in text


def test_it_exports_as_two_linears() -> None:
    layer = LowRankLinear(11, 7, 3)
    graph = torch.export.export(layer, (torch.randn(5, 11),), strict=False).graph
    calls = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert calls == ["aten.linear.default", "aten.linear.default"]
