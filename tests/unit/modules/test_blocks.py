"""Pruned blocks: what is replaced, what is kept, and refusals that leave the model as it was."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.core.blocks import HeadCounts
from gacfx.core.decision import LowRank
from gacfx.core.materialise import Factors
from gacfx.core.pruning import GONE, Skip, Sliced
from gacfx.errors import UnsupportedModel
from gacfx.modules.attention_sizes import LayerConfig
from gacfx.modules.blocks import blocks_in
from gacfx.modules.install import decisions_in, install_, skeleton_, swapped
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.sliced import SlicedLinear, sliced_modules
from tests.families.narrow import attention, decision_of, mlp, sliced
from tests.families.zoo import FAMILIES

ATTENTION = "model.layers.1.self_attn"
MLP = "model.layers.1.mlp"


def made(family: str = "llama") -> Any:
    return FAMILIES[family].make()


def heads(model: Any, *units: int) -> Any:
    structure = attention(model, "llama", 1)
    return sliced(model, structure, decision_of(structure, units or (1,)))


def skip(model: Any, which: Any = attention) -> Any:
    return sliced(model, which(model, "llama", 1), Skip())


def state(model: nn.Module) -> Any:
    attributes = {
        name: {k: v for k, v in vars(m).items() if not k.startswith("_")}
        for name, m in model.named_modules()
    }
    return [*model.named_modules()], attributes


# -- what is put in place ------------------------------------------------------------------------


def test_a_slice_is_an_ordinary_linear_layer() -> None:
    model = made("qwen2")
    structure = attention(model, "qwen2", 1)
    factors, blocks = sliced(model, structure, decision_of(structure, (1,)))
    for short in ("q_proj", "o_proj"):
        model.get_submodule(f"{ATTENTION}.{short}").weight.requires_grad_(short == "q_proj")
    install_(model.train(), factors, blocks)
    assert [*sliced_modules(model)] == [*factors]
    for name, each in sliced_modules(model).items():
        layer: Any = each
        assert isinstance(layer, SlicedLinear) and isinstance(layer, nn.Linear)
        assert (layer.out_features, layer.in_features) == tuple(layer.weight.shape)
        assert [*layer.state_dict()] == ["weight", "bias"][: 1 + (layer.bias is not None)]
        assert layer.training
        assert layer.weight.requires_grad is (not name.endswith("o_proj"))


def test_a_sliced_conv1d_keeps_its_layout_and_its_width() -> None:
    model = made("gpt2")
    structure = mlp(model, "gpt2", 1)
    factors, blocks = sliced(model, structure, decision_of(structure, tuple(range(10))))
    install_(model, factors, blocks)
    layer = model.transformer.h[1].mlp.c_fc
    assert layer.weight.shape == (48, 10) and layer.nf == 10 and layer.bias.shape == (10,)
    assert type(layer).__name__ == "SlicedConv1D"
    assert copy.deepcopy(layer).placed == Sliced(10, 48)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_the_bias_loses_the_same_outputs(family: str) -> None:
    model = made(family)
    layer = "q_proj" if family == "qwen2" else "c_attn"
    structure = attention(model, family, 1)
    units = (1,) if family == "qwen2" else (0, 4)
    factors, blocks = sliced(model, structure, decision_of(structure, units))
    name = next(name for name in factors if name.endswith(layer))
    old = model.get_submodule(name).bias
    old.data = torch.arange(len(old), dtype=torch.float32)
    closing = model.get_submodule(structure.closing.module).bias
    install_(model, factors, blocks)
    order = factors[name].order
    assert order is not None
    assert torch.equal(model.get_submodule(name).bias, order.float())
    assert model.get_submodule(structure.closing.module).bias is closing


def test_a_slice_with_a_rest_is_the_layer_of_the_rest() -> None:
    model = made("qwen2")
    structure = mlp(model, "qwen2", 1)
    rank = LowRank(5)
    decision = decision_of(structure, tuple(range(0, 88, 2)), rest=rank)
    factors = {}
    for member, part in zip(structure.members, decision.parts, strict=True):
        assert isinstance(part, Sliced)
        down, up = torch.randn(5, part.inputs), torch.randn(part.outputs, 5)
        order = None
        if member.outputs is not None:
            order = torch.arange(0, 88, 2, dtype=torch.int32)
        tensors = {"down": down, "up": up}
        factors[member.module] = Factors(part, member.rows, member.columns, tensors, order)
    before = model.get_submodule(MLP)
    install_(model, factors)
    assert model.get_submodule(MLP) is before
    layer = before.down_proj
    assert isinstance(layer, LowRankLinear) and layer.placed == Sliced(48, 44, rank)
    assert decisions_in(model) == {name: one.decision for name, one in factors.items()}
    model(**FAMILIES["qwen2"].inputs())
    other = made("qwen2")
    skeleton_(other, decisions_in(model))
    assert {k: v.shape for k, v in other.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "deepseekv3", "opt"])
def test_a_skeleton_has_the_shapes_and_numbers_of_install(family: str) -> None:
    model = made(family)
    with torch.device("meta"):
        empty = type(model)(model.config)
    block = attention(model, family, 0)
    units = (1,) if block.units == 2 else (1, 3)
    factors, blocks = sliced(model, block, decision_of(block, units))
    more, skipped = sliced(model, attention(model, family, 1), Skip())
    install_(model, factors | more, {**blocks, **skipped})
    skeleton_(empty, decisions_in(model), blocks_in(model))
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (model, empty)]
    assert shapes[0] == shapes[1]
    assert blocks_in(empty) == blocks_in(model) and decisions_in(empty) == decisions_in(model)


def test_only_code_that_reads_the_configuration_gets_its_own() -> None:
    for family, own in (("phi3", True), ("llama", False)):
        model = made(family)
        block = attention(model, family, 0)
        install_(model, *sliced(model, block, decision_of(block, (1,))))
        layers = model.model.layers
        assert isinstance(layers[0].self_attn.config, LayerConfig) is own
        assert layers[1].self_attn.config is model.config
    config = made("phi3").config
    layer = LayerConfig(config, {"num_attention_heads": 2})
    for each in (layer, copy.deepcopy(layer)):
        assert (each.num_attention_heads, each.hidden_size) == (2, 48)
        assert each.to_dict()["num_attention_heads"] == 6
    config._attn_implementation = "eager"
    assert layer._attn_implementation == "eager"
    with pytest.raises(AttributeError):
        layer.no_such_number  # noqa: B018


def test_the_attention_can_be_changed_afterwards() -> None:
    model = made("phi3")
    block = attention(model, "phi3", 0)
    install_(model, *sliced(model, block, decision_of(block, (1,))))
    want = model(**FAMILIES["phi3"].inputs()).logits
    model.set_attn_implementation("eager")
    found = model(**FAMILIES["phi3"].inputs()).logits
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_the_very_same_modules_come_back_after_an_error() -> None:
    model = made("phi3")
    block = attention(model, "phi3", 0)
    factors, blocks = sliced(model, block, decision_of(block, (1,)))
    more, skipped = sliced(model, attention(model, "phi3", 1), Skip())
    before = state(model)
    with (
        pytest.raises(ValueError, match="body"),
        swapped(model, factors | more, {**blocks, **skipped}),
    ):
        raise ValueError("body")
    assert state(model) == before


# -- what is refused -----------------------------------------------------------------------------


def _no_block(model: Any) -> Any:
    return {}, {"model.layers.7.self_attn": HeadCounts(1, 3)}


def _no_name(model: Any) -> Any:
    return {}, {"": Skip()}


def _no_attention(model: Any) -> Any:
    return {}, {MLP: HeadCounts(1, 3)}


def _whole_layer_as_heads(model: Any) -> Any:
    return {}, {"model": HeadCounts(1, 3)}


def _not_divided(model: Any) -> Any:
    return heads(model)[0], {ATTENTION: HeadCounts(2, 3)}


def _more_heads(model: Any) -> Any:
    return heads(model)[0], {ATTENTION: HeadCounts(3, 6)}


def _other_heads(model: Any) -> Any:
    return heads(model)[0], {ATTENTION: HeadCounts(2, 4)}


def _no_weights(model: Any) -> Any:
    return {}, heads(model)[1]


def _half_the_weights(model: Any) -> Any:
    factors, blocks = heads(model)
    return {n: f for n, f in factors.items() if not n.endswith("v_proj")}, blocks


def _closing_left_out(model: Any) -> Any:
    factors, blocks = heads(model)
    return {n: f for n, f in factors.items() if not n.endswith("o_proj")}, blocks


def _hooked(model: Any) -> Any:
    model.get_submodule(ATTENTION).register_forward_hook(lambda *_: None)
    return skip(model)


def _hooked_inside(model: Any) -> Any:
    model.get_submodule(f"{MLP}.act_fn").register_forward_pre_hook(lambda *_: None)
    return skip(model, mlp)


def _patched(model: Any) -> Any:
    block = model.get_submodule(MLP)
    block.forward = block.forward
    return skip(model, mlp)


def _shared(model: Any) -> Any:
    model.model.layers[0].self_attn = model.model.layers[1].self_attn
    return skip(model)


def _shared_heads(model: Any) -> Any:
    model.model.layers[0].self_attn = model.model.layers[1].self_attn
    return heads(model)


def _tied(model: Any) -> Any:
    model.model.layers[0].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    return skip(model, mlp)


def _gone_alone(model: Any) -> Any:
    return {f"{MLP}.up_proj": Factors(GONE, 88, 48, {})}, {}


def _slice_under_skip(model: Any) -> Any:
    factors, _ = heads(model)
    return factors, {ATTENTION: Skip()}


def _skip_without_its_weights(model: Any) -> Any:
    return {}, {ATTENTION: Skip()}


def _inside_another(model: Any) -> Any:
    factors, blocks = heads(model)
    gone = {n: Factors(GONE, f.rows, f.columns, {}) for n, f in factors.items()}
    return gone, {**blocks, ATTENTION: HeadCounts(1, 3), "model.layers.1": Skip()}


def _twice(model: Any) -> Any:
    install_(model, *heads(model, 0))
    return {}, {ATTENTION: HeadCounts(1, 3)}


def _a_norm_over_all_heads(model: Any) -> Any:
    model.get_submodule(ATTENTION).q_norm = nn.LayerNorm(48)
    return heads(model)


def _one_number_for_each_head(model: Any) -> Any:
    model.get_submodule(ATTENTION).sinks = nn.Parameter(torch.zeros(6))
    return heads(model)


class Odd(nn.Module):
    """An attention whose forward reads a number of its own."""

    def __init__(self, dense: Any) -> None:
        super().__init__()
        self.head_dim, self.num_heads, self.layer_idx = 8, 6, 1
        self.num_key_value_heads, self.hidden_width = 2, 48
        for name, child in dense.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(x.reshape(*x.shape[:-1], self.hidden_width))  # type: ignore[no-any-return, operator]


def _reads_an_unknown_number(model: Any) -> Any:
    model.model.layers[1].self_attn = Odd(model.model.layers[1].self_attn)
    return heads(model)


def _another_ratio(model: Any) -> Any:
    block = model.get_submodule(ATTENTION)
    del block.num_key_value_groups
    structure = attention(model, "llama", 1)
    return sliced(model, structure, decision_of(structure, (0, 1), ((0,), (0,))))


class Behind(nn.Module):
    """An MLP with a norm behind its last layer."""

    def __init__(self, dense: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            dense.gate_proj,
            dense.up_proj,
            dense.down_proj,
        )
        self.norm = nn.LayerNorm(48)

    def forward(self, x: Tensor) -> Tensor:
        out = self.down_proj(self.gate_proj(x) * self.up_proj(x))
        out = self.norm(out)
        return out  # type: ignore[no-any-return]


def _norm_behind(model: Any) -> Any:
    model.model.layers[1].mlp = Behind(model.model.layers[1].mlp)
    return skip(model, mlp)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_block, "model.layers.7.self_attn: the model has no such block"),
        (_no_name, r"\(no name\): the model has no such block"),
        (_no_attention, "mlp: nothing in it says how long a head is"),
        (_whole_layer_as_heads, "is a part of model, which is pruned as well"),
        (_not_divided, "self_attn: 3 query heads cannot be shared out to 2 key-value heads"),
        (_more_heads, "self_attn: has 6 query and 2 key-value heads, not heads 6/3"),
        (_other_heads, "heads 4/2 take 16 outputs away, its weights lose 40"),
        (_no_weights, "heads 3/1 take 40 outputs away, its weights lose 0"),
        (_half_the_weights, "heads 3/1 take 40 outputs away, its weights lose 32"),
        (_closing_left_out, "heads 3/1 leave 24 of 48 inputs of its last weight, .* all stay"),
        (_hooked, "self_attn: has hooks, which would be lost"),
        (_hooked_inside, "mlp.act_fn: has hooks, which would be lost"),
        (_patched, "mlp: its forward was replaced"),
        (_shared, "shares its weight with model.layers.0.self_attn"),
        (_shared_heads, "shares its weight with model.layers.0.self_attn"),
        (_tied, "mlp.up_proj: shares its weight with model.layers..*mlp.up_proj"),
        (_gone_alone, "mlp.up_proj: is gone, and no block that it is in is skipped"),
        (_slice_under_skip, "is 24 x 48, and its block model.layers.1.self_attn is skipped"),
        (_skip_without_its_weights, "is skipped, and its .*o_proj is not gone"),
        (_inside_another, "self_attn: is a part of model.layers.1, which is pruned as well"),
        (_twice, "self_attn: is pruned already"),
        (_a_norm_over_all_heads, r"its q_norm.weight \(48,\) has a number for each head"),
        (_one_number_for_each_head, r"its sinks \(6,\) has a number for each head"),
        (_reads_an_unknown_number, r"its code reads hidden_width \(48\)"),
        (_another_ratio, "its code has 3 query heads for each key-value head, not 1"),
        (_norm_behind, "Behind does not simply return the output of its last layer"),
    ],
)
def test_a_refusal_names_the_block_and_changes_nothing(spoil: Any, message: str) -> None:
    model = made()
    factors, blocks = spoil(model)
    good, more = sliced(model, mlp(model, "llama", 0), Skip())
    before = state(model)
    with pytest.raises(UnsupportedModel, match=message):
        install_(model, good | factors, {**more, **blocks})
    with (
        pytest.raises(UnsupportedModel, match=message),
        swapped(model, good | factors, {**more, **blocks}),
    ):
        raise AssertionError("not reached")
    assert state(model) == before


def test_a_skeleton_refuses_what_install_refuses() -> None:
    model = made()
    with pytest.raises(UnsupportedModel, match="no such block"):
        skeleton_(model, {}, {"model.layers.9.mlp": Skip()})
    with pytest.raises(UnsupportedModel, match="model: 2 modules in it say how long a head is"):
        skeleton_(model, {}, {"model": HeadCounts(1, 3)})
    with pytest.raises(UnsupportedModel, match="its weights lose 0"):
        skeleton_(model, {}, {ATTENTION: HeadCounts(1, 3)})
    with pytest.raises(UnsupportedModel, match="99 outputs are outside 1 .. 88"):
        skeleton_(model, {f"{MLP}.up_proj": Sliced(99, 48)})
    assert decisions_in(model) == {} and blocks_in(model) == {}
