"""What stands in the place of a linear answers what others ask of one: its bias, and of its weight
the dtype and the device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gacfx
from gacfx.core.decision import Decision, LowRank, Pivot, PivotInOrder
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.routed import Routed
from gacfx.modules.carrier import NOTICE, Carrier
from gacfx.modules.make import carrier_of
from tests.families.test_families_uncommon import corpus, make

KINDS: list[Decision] = [LowRank(4), Pivot(4), PivotInOrder(4), Routed(12, 4, 2, 2)]
KINDS += [GroupedLowRank(4, 2), GroupedLowRank(1, 4)]
CASES = [(kind, shape) for kind in KINDS for shape in ((12, 8), (8, 12))]


def layer_of(decision: Decision, rows: int, columns: int, *, bias: bool) -> Any:
    own = nn.Parameter(torch.ones(rows)) if bias else None
    carrier: Any = carrier_of(decision)
    return carrier.empty(decision, rows, columns, own, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("decision", "shape"), CASES, ids=str)
def test_the_bias_is_that_of_the_dense_layer(
    decision: Decision, shape: tuple[int, int], bias: bool
) -> None:
    layer = layer_of(decision, *shape, bias=bias)
    own = [p for name, p in layer.named_parameters() if name.rpartition(".")[2] == "bias"]
    assert (layer.bias is not None) is bias
    assert own == ([layer.bias] if bias else [])
    assert [name for name in layer.state_dict() if name.endswith("bias")] == [
        name for name, _ in layer.named_parameters() if name.endswith("bias")
    ]


@pytest.mark.parametrize("decision", KINDS, ids=str)
def test_the_weight_answers_dtype_and_device_and_is_empty(decision: Decision) -> None:
    layer = layer_of(decision, 12, 8, bias=True).to(torch.bfloat16)
    assert (layer.weight.dtype, layer.weight.device.type) == (torch.bfloat16, "cpu")
    assert layer.weight.numel() == layer.get_buffer(NOTICE).numel() == 0
    assert layer.to("meta").weight.is_meta


class Own(Carrier):
    """A layer of another package, that holds its bias itself."""

    def __init__(self, bias: bool) -> None:
        super().__init__(8, 12)
        self.bias = nn.Parameter(torch.ones(12)) if bias else None

    decision = None  # type: ignore[assignment]
    bare = make = emit = classmethod(lambda cls, *_: None)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Adds the bias."""
        return x if self.bias is None else x + self.bias


def test_a_bias_may_be_set_as_that_of_any_module() -> None:
    layer = Own(True)
    assert torch.equal(layer(torch.zeros(12)), torch.ones(12))
    assert dict(layer.named_parameters()).keys() == {"bias"}
    layer.register_parameter("bias", nn.Parameter(torch.zeros(12)))
    assert torch.equal(layer(torch.ones(12)), torch.ones(12))
    layer.bias = None
    assert not list(layer.parameters()) and not list(Own(False).parameters())
    assert torch.equal(layer(torch.ones(12)), Own(False)(torch.ones(12)))


def test_a_class_that_touches_the_bias_of_its_part_finds_it(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 3, "num_key_value_heads": 1, "intermediate_size": 96}
    model = make(
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        **sizes,
        lru_width=48,
        attention_window_size=32,
    )
    search = gacfx.Search(value="two-sided", form="pair")
    made = gacfx.compress(model, calibration=corpus(), ratio="0.2", search=search)
    name = "model.layers.0.temporal_block.linear_out"
    assert name in made.planned.plan.ranks
    again, _ = gacfx.load(gacfx.save(made, tmp_path / "small"))
    for each in (made.model, again):
        block = each.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            block.linear_out.bias.add_(1)
            each._init_weights(block)  # as on loading; it fills weight and bias of its part
        assert block.linear_out.weight.numel() == 0
