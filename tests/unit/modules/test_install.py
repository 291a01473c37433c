"""install_, skeleton_ and swapped: what they replace, what they keep, what they refuse."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gacfx.core.decision import LowRank
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.pruning import Heads
from gacfx.errors import UnsupportedModel
from gacfx.modules.install import (
    compressed_modules,
    decisions_in,
    install_,
    skeleton_,
    swapped,
)
from gacfx.modules.low_rank import LowRankLinear
from tests.families import narrow
from tests.families.zoo import FAMILIES
from tests.unit.checkpoint.tiny_models import (
    LAYERS,
    MODELS,
    cast_,
    dense_weight,
    factors_for,
    gpt2,
    llama,
    qwen2,
    skeleton_of,
    token_ids,
)

Q0 = "model.layers.0.self_attn.q_proj"
Q1 = "model.layers.1.self_attn.q_proj"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pair(rows: int = 48, columns: int = 48, rank: int = 5) -> Factors:
    return Factors.pair(torch.randn(rank, columns), torch.randn(rows, rank))


@pytest.mark.parametrize("family", MODELS)
def test_the_layers_compute_with_their_factors(family: str) -> None:
    model = MODELS[family]()
    factors = factors_for(model, LAYERS[family])
    biases = {name: model.get_submodule(name).bias for name in factors}
    install_(model, factors)
    assert list(compressed_modules(model)) == list(factors)
    for name, layer in compressed_modules(model).items():
        weight = factors[name].tensors["up"] @ factors[name].tensors["down"]
        x = torch.randn(4, layer.in_features)
        want = nn.functional.linear(x.double(), weight)
        if layer.bias is not None:
            want = want + layer.bias.double()
        torch.testing.assert_close(layer(x).double(), want, rtol=1e-4, atol=1e-5)
        assert layer.bias is biases[name]


@pytest.mark.parametrize("family", MODELS)
def test_full_rank_computes_what_the_dense_model_does(family: str) -> None:
    model = MODELS[family]()
    factors = factors_for(model, LAYERS[family], rank=48)
    factors = {name: pair for name, pair in factors.items() if pair.rank == 48}
    want = model(token_ids()).logits
    install_(model, factors)
    torch.testing.assert_close(model(token_ids()).logits, want, rtol=1e-4, atol=1e-5)


def test_dtype_and_requires_grad_are_those_of_the_old_layer() -> None:
    model = cast_(qwen2(), torch.bfloat16)
    model.get_submodule(Q0).requires_grad_(False)
    install_(model, factors_for(model, ("q_proj",)))
    frozen, free = model.get_submodule(Q0), model.get_submodule(Q1)
    assert isinstance(frozen, LowRankLinear)
    assert {value.dtype for value in frozen.state_dict().values()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_kept(training: bool) -> None:
    model = llama().train(training)
    install_(model, {Q0: pair()})
    assert all(module.training is training for module in model.modules())


def test_a_model_on_meta_stays_there() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 4))
    install_(model, {"0": pair(4, 6, 2)})
    assert all(value.is_meta for value in model.state_dict().values())


def test_skeleton_on_meta_has_the_names_and_shapes_of_install() -> None:
    real = gpt2()
    factors = factors_for(real, LAYERS["gpt2"])
    empty = skeleton_of(real)
    skeleton_(empty, {name: made.decision for name, made in factors.items()})
    install_(real, factors)
    shapes = [
        {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
        for model in (real, empty)
    ]
    assert shapes[0] == shapes[1]
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_modules_in_lists_keep_their_place() -> None:
    model = nn.ModuleList([nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6)), nn.Linear(6, 6)])
    install_(model, {"0": pair(6, 6, 2), "1.0": pair(6, 6, 2)})
    assert [name for name, _ in model.named_children()] == ["0", "1", "2"]
    assert list(compressed_modules(model)) == ["0", "1.0"]


def test_swapped_gives_the_same_modules_back() -> None:
    model = llama()
    before, want = dict(model.named_modules()), model(token_ids()).logits
    with swapped(model, factors_for(model, LAYERS["llama"])):
        assert len(compressed_modules(model)) == 4
        assert not torch.equal(model(token_ids()).logits, want)
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert torch.equal(model(token_ids()).logits, want)


def test_factors_are_copied_unless_they_are_lent() -> None:
    model, factors = llama(), {Q0: pair(), Q1: pair()}
    with swapped(model, factors):
        for name, made in factors.items():
            layer = model.get_submodule(name)
            assert layer.down.weight.data_ptr() == made.tensors["down"].data_ptr()  # type: ignore[union-attr, operator]
    install_(model, factors)
    for name, made in factors.items():
        before = made.tensors["down"].clone()
        with torch.no_grad():
            model.get_submodule(name).down.weight.zero_()  # type: ignore[union-attr, operator]
        assert torch.equal(made.tensors["down"], before)


def test_swapped_gives_them_back_after_an_error() -> None:
    model = llama()
    layer = model.get_submodule(Q0)
    with pytest.raises(ValueError, match="in the body"), swapped(model, {Q0: pair()}):
        raise ValueError("in the body")
    assert model.get_submodule(Q0) is layer


def _missing(model: nn.Module) -> FactorSet:
    return {"model.layers.7.self_attn.q_proj": pair()}


def _not_linear(model: nn.Module) -> FactorSet:
    return {"model.norm": pair()}


def _other_shape(model: nn.Module) -> FactorSet:
    return {Q1: pair(48, 88)}


def _tied(model: nn.Module) -> FactorSet:
    return {"lm_head": pair(97, 48)}


def _subclass(model: nn.Module) -> FactorSet:
    class Special(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            """Another layer."""
            return super().forward(input).relu()

    model.get_submodule("model.layers.1").self_attn.q_proj = Special(48, 48)  # type: ignore[union-attr]
    return {Q1: pair()}


def _hooked(model: nn.Module) -> FactorSet:
    model.get_submodule(Q1).register_forward_hook(lambda *_: None)
    return {Q1: pair()}


def _hooked_before(model: nn.Module) -> FactorSet:
    model.get_submodule(Q1).register_forward_pre_hook(lambda *_: None)
    return {Q1: pair()}


def _offloaded(model: nn.Module) -> FactorSet:
    # accelerate wraps the forward of a module and leaves this behind.
    model.get_submodule(Q1)._hf_hook = object()  # type: ignore[assignment]
    return {Q1: pair()}


def _nan(model: nn.Module) -> FactorSet:
    return {Q1: Factors.pair(torch.full((5, 48), torch.nan), torch.randn(48, 5))}


def _too_large(model: nn.Module) -> FactorSet:
    model.half()
    return {Q1: Factors.pair(torch.randn(5, 48), torch.full((48, 5), 7e4))}


def _twice(model: nn.Module) -> FactorSet:
    install_(model, {Q1: pair()})
    return {Q1: pair()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, "model.layers.7.self_attn.q_proj: the model has no such module"),
        (_not_linear, "model.norm: is a LlamaRMSNorm"),
        (_other_shape, "q_proj: its weight is 48 x 48, the factors are for 48 x 88"),
        (_tied, "lm_head: shares its weight with model.embed_tokens"),
        (_subclass, "q_proj: is a Special; only nn.Linear and Conv1D"),
        (_hooked, "q_proj: has hooks, which would be lost"),
        (_hooked_before, "q_proj: has hooks, which would be lost"),
        (_offloaded, "q_proj: has hooks, which would be lost"),
        (_nan, "q_proj: its factors are NaN, infinite or too large"),
        (_too_large, "too large for torch.float16"),
        (_twice, "q_proj: is a LowRankLinear"),
    ],
)
def test_a_refusal_names_the_module_and_changes_nothing(
    spoil: Callable[[nn.Module], FactorSet], message: str
) -> None:
    model = llama(tied=True)
    bad = spoil(model)
    before = dict(model.named_modules())
    good: FactorSet = {Q0: pair()}
    with pytest.raises(UnsupportedModel, match=message):
        install_(model, good | bad)
    with pytest.raises(UnsupportedModel, match=message), swapped(model, good | bad):
        raise AssertionError("not reached")
    after = dict(model.named_modules())
    assert all(after[name] is before[name] for name in before)


@pytest.mark.parametrize("rank", [0, 49])
def test_skeleton_refuses_an_impossible_rank(rank: int) -> None:
    model = llama()
    with pytest.raises(UnsupportedModel, match=f"rank {rank} is outside 1 .. 48"):
        skeleton_(model, {Q0: LowRank(4), Q1: LowRank(rank)})
    assert not compressed_modules(model)


def test_the_root_cannot_be_replaced() -> None:
    with pytest.raises(UnsupportedModel, match="no such module"):
        install_(nn.Linear(4, 4), {"": pair(4, 4, 2)})


def test_conv1d_factors_are_those_of_the_transposed_weight() -> None:
    model = gpt2()
    name = "transformer.h.0.attn.c_attn"
    assert dense_weight(model, name).shape == (144, 48)
    install_(model, factors_for(model, ("c_attn",)))
    layer = compressed_modules(model)[name]
    assert (layer.in_features, layer.out_features) == (48, 144)


@pytest.mark.parametrize(
    ("units", "inside", "message"),
    [
        ((2,), ((0, 1, 2),), "has 2 key-value heads; the plan keeps number 2"),
        ((1,), ((0, 1, 3),), "has 3 query heads of each; the plan keeps number 3"),
    ],
)
def test_heads_that_the_attention_does_not_have(
    units: tuple[int, ...], inside: tuple[tuple[int, ...], ...], message: str
) -> None:
    """As many heads, in weights of the right shape, and others than there are."""
    model = FAMILIES["llama"].make()
    structure = narrow.attention(model, "llama", 1)
    good = narrow.decision_of(structure, (1,))
    factors, blocks = narrow.sliced(model, structure, good)
    assert isinstance(good, Heads)
    odd = replace(good, groups=units, heads=inside)
    with pytest.raises(UnsupportedModel, match=message):
        install_(model, factors, dict.fromkeys(blocks, odd))
    assert not decisions_in(model)
    install_(model, factors, blocks)


def test_an_attention_with_fewer_weights_must_say_how_many_heads_it_has() -> None:
    """Some would run without it, and be saved as what they are not."""
    model = FAMILIES["llama"].make()
    structure = narrow.attention(model, "llama", 1)
    factors, blocks = narrow.sliced(model, structure, narrow.decision_of(structure, (1,)))
    decisions = {name: made.decision for name, made in factors.items()}
    message = "proj: is .* and nothing says how many heads model.layers.1.self_attn has"
    with pytest.raises(UnsupportedModel, match=message):
        install_(model, factors)
    with pytest.raises(UnsupportedModel, match=message):
        skeleton_(model, decisions)
    assert not decisions_in(model)
    skeleton_(model, decisions, blocks)
