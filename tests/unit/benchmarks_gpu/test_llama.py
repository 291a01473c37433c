"""The model that is timed: its own initialisation, variants put on and taken off, fewer layers."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu.llama import forward
from benchmarks.gpu.llama.architecture import TINY
from benchmarks.gpu.llama.variants import NAMES, kept_channels, variant
from benchmarks.gpu.llama.workbench import STD, Workbench, build, config
from gacfx.bench import steps
from gacfx.core.sites import Mode, Workload
from gacfx.modules.low_rank import LowRankLinear


@pytest.fixture(scope="module")
def made() -> Workbench:
    return Workbench(build(TINY, "cpu", seed=3), TINY, seed=3)


@pytest.fixture
def bench(made: Workbench) -> Iterator[Workbench]:
    yield made
    made.undress()


def logits(model: Any, mode: Mode = "prefill") -> Tensor:
    return forward.make(model, Workload(2, 16, mode), seed=5)().clone()


def decode(model: Any) -> steps.Decode:
    step = forward.make(model, Workload(2, 16, "decode"), seed=5)
    assert isinstance(step, steps.Decode)
    return step


def ordinary(model: Any) -> Any:
    """The same weights in a model that transformers made and initialised."""
    from transformers import AutoModelForCausalLM

    twin = AutoModelForCausalLM.from_config(
        config(TINY), dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    twin.load_state_dict(model.state_dict())
    return twin.eval().requires_grad_(False)


def test_it_is_the_model_that_transformers_would_make(bench: Workbench) -> None:
    twin = ordinary(bench.model)
    rotary, expected = bench.model.model.rotary_emb, twin.model.rotary_emb
    assert rotary.inv_freq.dtype == torch.float32
    assert torch.equal(rotary.inv_freq, expected.inv_freq)
    assert torch.equal(rotary.original_inv_freq, expected.original_inv_freq)
    assert torch.equal(logits(bench.model), logits(twin))
    assert all(t.device.type == "cpu" for t in [*twin.parameters(), *bench.model.buffers()])


def test_a_step_is_the_one_that_transformers_does_with_its_own_mask(bench: Workbench) -> None:
    twin = ordinary(bench.model)
    step = decode(bench.model)
    cache = copy.deepcopy(step.cache)
    for layer in cache.layers:
        layer.cumulative_length.fill_(15)
    told = steps.with_cache(twin, cache)
    theirs = twin(input_ids=step._tokens_B1, logits_to_keep=1, **told).logits
    assert torch.equal(step(), theirs)


def test_every_step_is_the_same_step(bench: Workbench) -> None:
    step = decode(bench.model)
    first = step().clone()
    for _ in range(20):  # more than the cache has places
        assert torch.equal(step(), first)
    assert {int(layer.cumulative_length) for layer in step.cache.layers} == {15}


def test_weights_look_like_llamas_and_follow_the_seed(bench: Workbench) -> None:
    again, other = build(TINY, "cpu", seed=3), build(TINY, "cpu", seed=4)
    for weight, same, different in zip(
        bench.model.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, same)
        assert not weight.requires_grad and weight.dtype == torch.bfloat16
        if weight.ndim == 1:
            assert (weight == 1).all()
        else:
            assert not torch.equal(weight, different)
            assert float(weight.float().std()) == pytest.approx(STD, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_params_are_those_of_the_variant(bench: Workbench, name: str) -> None:
    bench.dress(variant(TINY, name))
    real = sum(w.numel() for w in bench.model.model.layers.parameters() if w.ndim > 1)
    assert real == variant(TINY, name).params()
    assert not any(weight.requires_grad for weight in bench.model.parameters())
    assert all(weight.is_contiguous() for weight in bench.model.parameters())


def test_on_and_off_again_is_bitwise_the_same(bench: Workbench) -> None:
    before, state = logits(bench.model), list(bench.model.state_dict())
    for name in NAMES[1:]:
        bench.dress(variant(TINY, name))
        assert not torch.equal(logits(bench.model), before)
    bench.dress(variant(TINY, "dense"))
    assert torch.equal(logits(bench.model), before)
    assert list(bench.model.state_dict()) == state


@pytest.mark.parametrize("name", ["asvd", "pruner"])
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_padded_computes_the_same(bench: Workbench, name: str, mode: Mode) -> None:
    bench.dress(variant(TINY, name))
    plain = logits(bench.model, mode)
    bench.dress(variant(TINY, f"{name}-padded"))
    torch.testing.assert_close(logits(bench.model, mode), plain, rtol=0.02, atol=0.02)


def test_padded_factors_are_the_values_and_zeros(bench: Workbench) -> None:
    name = "layers.1.self_attn.q_proj"
    rank = variant(TINY, "asvd").ranks[name]
    assert rank is not None and rank % 8
    weights = []
    for each in ("asvd", "asvd-padded"):
        bench.dress(variant(TINY, each))
        layer = bench.model.model.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        weights.append((layer.down.weight, layer.up.weight))
    (down, up), (wide_down, wide_up) = weights
    assert len(wide_down) % 8 == 0
    assert torch.equal(wide_down[:rank], down) and torch.equal(wide_up[:, :rank], up)
    assert not wide_down[rank:].any() and not wide_up[:, rank:].any()


def test_factors_multiply_to_weights_of_the_usual_size(bench: Workbench) -> None:
    bench.dress(variant(TINY, "uniform"))
    stds = [
        float((m.up.weight.float() @ m.down.weight.float()).std())
        for m in bench.model.model.modules()
        if isinstance(m, LowRankLinear)
    ]
    assert len(stds) == len(TINY.linears())
    assert np.mean(stds) == pytest.approx(STD, rel=0.1)


def test_values_do_not_hang_on_what_was_worn_before(bench: Workbench) -> None:
    bench.dress(variant(TINY, "asvd"))
    direct = logits(bench.model)
    for name in ("pruner", "uniform", "asvd"):
        bench.dress(variant(TINY, name))
    assert torch.equal(logits(bench.model), direct)


def test_pruned_is_the_dense_model_with_masked_channels(bench: Workbench) -> None:
    made = variant(TINY, "pruner")
    masked = Workbench(build(TINY, "cpu", seed=3), TINY, seed=3)
    for index, layer in enumerate(masked.model.model.layers):
        kept = kept_channels(TINY, index, made.widths[index])
        gone = np.setdiff1d(np.arange(TINY.width), kept)
        layer.mlp.down_proj.weight[:, gone] = 0.0
    bench.dress(made)
    torch.testing.assert_close(logits(bench.model), logits(masked.model), rtol=0.02, atol=0.02)
    gate = bench.model.model.layers[1].mlp.gate_proj
    assert (gate.out_features, gate.in_features) == (made.widths[1], TINY.hidden)


def test_shallow_has_fewer_layers_and_gives_them_back(bench: Workbench) -> None:
    before, inner = logits(bench.model, "decode"), bench.model.model
    layers, all_bytes = list(inner.layers), bench.resident_bytes()
    assert all_bytes == 2 * (TINY.targeted + (2 * TINY.layers + 1) * 64 + 2 * 256 * 64)
    with bench.shallow(2) as chosen:
        assert chosen == (0, 2) and list(inner.layers) == [layers[0], layers[2]]
        assert [layer.self_attn.layer_idx for layer in inner.layers] == [0, 1]
        assert bench.resident_bytes() == all_bytes - 2 * (TINY.targeted // 3 + 2 * 64)
        step = decode(bench.model)
        assert len(step.cache.layers) == 2
        assert not torch.equal(step(), before)
        with pytest.raises(RuntimeError, match="outside of shallow"):
            bench.dress(variant(TINY, "asvd"))
    assert list(inner.layers) == layers
    assert torch.equal(logits(bench.model, "decode"), before)


def test_a_variant_that_fails_half_way_leaves_the_dense_model(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, make, calls = logits(bench.model), bench._make, []

    def fails(*given: Any) -> nn.Module | None:
        calls.append(given)
        if len(calls) == 9:
            raise torch.OutOfMemoryError("too little")
        return make(*given)

    monkeypatch.setattr(bench, "_make", fails)
    with pytest.raises(torch.OutOfMemoryError):
        bench.dress(variant(TINY, "asvd"))
    assert bench.variant.name == "dense"
    assert torch.equal(logits(bench.model), before)
