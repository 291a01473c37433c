"""Pruning every family: slicing is masking, also while it generates, and after it was reloaded."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.core.materialise import FactorSet
from gacfx.core.pruning import Heads, Skip, Width
from gacfx.core.structures import Structure
from gacfx.errors import UnsupportedModel
from gacfx.modules.blocks import blocks_in
from gacfx.modules.install import decisions_in, install_, swapped
from tests.families.narrow import LAYOUTS, attention, decision_of, masked, mlp, sliced
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few

CAUSAL = [name for name in FAMILIES if name not in ("bert", "t5", "vit")]
DENSE_MLP = [name for name in FAMILIES if LAYOUTS[name].opening]
GROUPED = [name for name in FAMILIES if LAYOUTS[name].groups == 2]


def made(family: str) -> nn.Module:
    """The model in float64, with biases that are not zero and weights that matter."""
    model: Any = FAMILIES[family].make().double()
    if hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # the other has no float64
    random = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        elif parameter.dim() > 1:
            parameter.data *= 5
    assert isinstance(model, nn.Module)
    return model


def logits(model: nn.Module, family: str) -> Tensor:
    inputs = FAMILIES[family].inputs()
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        found = model(**inputs)[0]
    assert isinstance(found, Tensor)
    return found


def generated(model: Any, **more: Any) -> list[list[int]]:
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = model.generate(
            ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0, **more
        )
    tokens: list[list[int]] = out.tolist()
    return tokens


def compared(family: str, *chosen: tuple[Structure, Width | Heads | Skip]) -> nn.Module:
    """The sliced model, once it computes what the masked one does; generation too."""
    model = made(family)
    other = model
    factors: FactorSet = {}
    blocks: dict[str, Any] = {}
    for structure, decision in chosen:
        more, own = sliced(model, structure, decision)
        factors |= more
        blocks |= own
        other = masked(other, structure, decision)
    dense = logits(model, family)
    before, values = dict(model.named_modules()), attributes(model)
    with swapped(model, factors, blocks):
        found, want = logits(model, family), logits(other, family)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)
        assert (want - dense).abs().max() > 1e-3
    assert list(before.items()) == list(model.named_modules())
    assert attributes(model) == values
    assert torch.equal(logits(model, family), dense)
    install_(model, factors, blocks)
    if family in CAUSAL:
        tokens = generated(model)
        assert tokens == generated(model, use_cache=False)
        assert tokens == generated(other)
        assert tokens == generated(model, cache_implementation="static")
    return model


def attributes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Plain attributes of every module."""
    return {
        name: {k: v for k, v in vars(module).items() if not k.startswith("_")}
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("family", few(DENSE_MLP, *CORNERS))
def test_channels_of_an_mlp(family: str) -> None:
    structure = mlp(made(family), family, 1)
    kept = tuple(unit for unit in range(88) if unit % 3)
    model = compared(family, (structure, decision_of(structure, kept)))
    assert len(decisions_in(model)) == len(structure.members)
    assert blocks_in(model) == {}


HEADS = [name for name in FAMILIES if name != "t5"]


@pytest.mark.parametrize("family", few(HEADS, *CORNERS))
@pytest.mark.parametrize("layer", [0, 1])
def test_key_value_heads(family: str, layer: int) -> None:
    structure = attention(made(family), family, layer)
    units = (1,) if structure.units == 2 else (0, 2, 5)
    model = compared(family, (structure, decision_of(structure, units)))
    assert [*map(str, blocks_in(model).values())] == [
        f"heads {len(units) * structure.heads}/{len(units)}"
    ]


@pytest.mark.parametrize("family", few(GROUPED, *CORNERS))
@pytest.mark.parametrize("heads", [((0, 2), (1, 2)), ((2,), (0,))])
def test_query_heads_inside_their_groups(family: str, heads: tuple[tuple[int, ...], ...]) -> None:
    structure = attention(made(family), family, 0)
    compared(family, (structure, decision_of(structure, (0, 1), heads)))


@pytest.mark.parametrize("family", few(GROUPED, *CORNERS))
def test_both_at_once_and_another_number_in_each_layer(family: str) -> None:
    model = made(family)
    one, two = attention(model, family, 0), attention(model, family, 1)
    compared(family, (one, decision_of(one, (1,), ((0, 1),))), (two, decision_of(two, (0,))))


def test_heads_of_t5_are_refused_with_the_reason() -> None:
    model = made("t5")
    structure = attention(model, "t5", 1)
    factors, blocks = sliced(model, structure, decision_of(structure, (0, 1)))
    with pytest.raises(UnsupportedModel, match="position_bias, which has a number for each head"):
        install_(model, factors, blocks)
    assert decisions_in(model) == {} and blocks_in(model) == {}


SKIP_ATTENTION = [name for name in FAMILIES if name not in ("bert", "t5")]
SKIP_MLP = [name for name in DENSE_MLP if name not in ("bert", "opt")]


@pytest.mark.parametrize("family", few(SKIP_ATTENTION, *CORNERS))
@pytest.mark.parametrize("layer", [0, 1])
def test_skipped_attention(family: str, layer: int) -> None:
    compared(family, (attention(made(family), family, layer), Skip()))


@pytest.mark.parametrize("family", few(SKIP_MLP, *CORNERS))
def test_skipped_mlp(family: str) -> None:
    compared(family, (mlp(made(family), family, 1), Skip()))


@pytest.mark.parametrize("family", few(CAUSAL, *CORNERS))
def test_every_attention_skipped(family: str) -> None:
    model = made(family)
    compared(family, *((attention(model, family, layer), Skip()) for layer in (0, 1)))


@pytest.mark.parametrize(
    ("family", "which", "message"),
    [
        ("bert", attention, "does not simply return the output of its last layer"),
        ("bert", mlp, "BertLayer does not simply return"),
        ("opt", mlp, "OPTDecoderLayer does not simply return"),
        ("t5", attention, "hands position_bias on to the next layer"),
    ],
)
def test_blocks_that_cannot_be_skipped(family: str, which: Any, message: str) -> None:
    model = made(family)
    before = dict(model.named_modules())
    factors, blocks = sliced(model, which(model, family, 1), Skip())
    with pytest.raises(UnsupportedModel, match=message):
        install_(model, factors, blocks)
    assert list(before.items()) == list(model.named_modules())
