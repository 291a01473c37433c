"""Who picks for which call: other masks, threads, errors, export, caches filled by hand."""

import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from gacfx.errors import PlanError, UnsupportedModel
from gacfx.modules.prompt_router import Pick
from gacfx.modules.routing_hooks import attach_, detach_, picked, pools, router_of
from tests.unit.modules.routed_models import (
    KINDS,
    blocks,
    by_hand_,
    left_padded,
    pooled,
    prompt,
    routed_llama,
    router_for,
    step,
)


def classes(model: Any) -> tuple[int, ...]:
    """What the prompts of the last call were taken for."""
    router = router_of(model)
    assert router is not None and router.installed is not None
    return router.installed.classes


def four_axes(mask_BT: Tensor, places: int, dtype: torch.dtype) -> Tensor:
    """The causal mask [B, 1, T, places] of padded prompts, as generate makes it."""
    batch, tokens = mask_BT.shape
    causal = torch.ones(tokens, places).tril().bool()
    seen = causal & nn.functional.pad(mask_BT, (0, places - tokens)).bool()[:, None, None]
    if dtype == torch.bool:
        return seen.expand(batch, 1, tokens, places)
    made = torch.zeros(batch, 1, tokens, places, dtype=dtype)
    return made.masked_fill(~seen, torch.finfo(dtype).min)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
@pytest.mark.parametrize("free", [0, 5])
def test_padding_is_told_from_tokens_in_a_mask_of_four_axes(dtype: torch.dtype, free: int) -> None:
    model = routed_llama()
    ids, mask = left_padded([prompt(1, 4), prompt(2, 12), prompt(0, 9)])
    router = router_of(model)
    assert router is not None
    model(ids, attention_mask=mask, use_cache=False)
    wanted = classes(model)
    assert wanted == (1, 2, 0)
    model(ids, attention_mask=four_axes(mask, ids.shape[1], dtype), use_cache=False)
    assert classes(model) == wanted
    cached = model.generate(
        ids, attention_mask=mask, max_new_tokens=2, cache_implementation="static", do_sample=False
    )
    assert classes(model) == wanted
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=2, do_sample=False)
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("mask", [torch.ones(1, 2, 8), "causal"])
def test_a_mask_that_says_nothing_of_padding_is_refused(mask: Any) -> None:
    model = routed_llama()
    with pytest.raises(UnsupportedModel, match="cannot tell tokens from padding"):
        model(prompt(1, 8), attention_mask=mask)
    model(prompt(1, 8))  # and the next prompt is not
    assert classes(model) == (1,)


def test_two_threads_do_not_compute_with_each_others_picks() -> None:
    model = routed_llama(layers=1)
    wanted = {kind: by_hand_(pooled(layers=1), kind)(prompt(kind, 6)).logits for kind in (1, 2)}
    wrong: list[int] = []

    def ask(kind: int) -> None:
        with torch.no_grad():
            for _ in range(12):
                found = model(prompt(kind, 6), use_cache=False).logits
                if not torch.allclose(found, wanted[kind], atol=1e-9):
                    wrong.append(kind)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=ask, args=(kind,)) for kind in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_another_thread_waits_for_who_picks_by_hand() -> None:
    model, found = routed_llama(layers=1), []
    thread = threading.Thread(target=lambda: found.append(model(prompt(2, 6)).logits))
    with picked(model, None):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not found
    thread.join(60)
    want = by_hand_(pooled(layers=1), 2)(prompt(2, 6)).logits
    assert torch.allclose(found[0], want, atol=1e-9)


def test_an_error_inside_leaves_the_router_at_work() -> None:
    model = routed_llama()
    router = router_of(model)
    assert router is not None
    handle = model.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            model(prompt(1, 8))
    handle.remove()
    assert router.held == 0 and router.noted is None
    model(prompt(2, 8))
    assert classes(model) == (2,)


def test_a_pick_that_is_refused_leaves_the_router_at_work() -> None:
    model = routed_llama()
    router = router_of(model)
    assert router is not None
    wrong = Pick({name: torch.tensor([[0, 1, 99]]) for name in pools(model)})
    refused = picked(model, wrong)
    with pytest.raises(PlanError, match="a pick outside"):
        refused.__enter__()
    assert router.automatic
    model(prompt(2, 8))
    assert classes(model) == (2,)


def test_a_cache_that_was_filled_by_hand_goes_on_with_that_pick() -> None:
    model = routed_llama()
    cache, ids = DynamicCache(config=model.config), prompt(1, 8)
    other = Pick({name: blocks(2)[None] for name in pools(model)})
    with picked(model, other):
        step(model, ids, cache)
    found = step(model, ids[:, -1:], cache)
    by_hand = by_hand_(pooled(), 2)
    again = DynamicCache(config=by_hand.config)
    step(by_hand, ids, again)
    assert torch.allclose(found, step(by_hand, ids[:, -1:], again), atol=1e-9)


def test_an_export_has_the_static_prefix_or_is_refused() -> None:
    model, ids = routed_llama(), prompt(1, 8)
    model(ids)
    options: dict[str, Any] = {"kwargs": {"use_cache": False}, "strict": False}
    with pytest.raises(UnsupportedModel, match="the pick of the last prompt"):
        torch.export.export(model, (ids,), **options)
    with picked(model, None):
        made = torch.export.export(model, (ids,), **options).module()
    static = by_hand_(pooled(), 0)(ids, use_cache=False).logits
    assert torch.allclose(made(ids, use_cache=False).logits, static, atol=1e-9)


def test_a_configuration_follows_its_router() -> None:
    from gacfx.checkpoint.hf import declare_

    def said() -> Any:
        return model.config.quantization_config.router_shape

    model = pooled(dtype=torch.float32)
    declare_(model)
    assert said() is None
    attach_(model, router := router_for(model))
    assert said() == router.shape
    detach_(model)
    assert said() is None
    assert router.shape.classes == KINDS


def test_a_model_of_states_without_keys_generates() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from gacfx.core.materialise import Factors
    from gacfx.modules.install import install_
    from tests.unit.modules.routed_models import DECISION

    config = MambaConfig(vocab_size=258, hidden_size=64, num_hidden_layers=2, state_size=8)
    model: Any = MambaForCausalLM(config).eval().double()
    names = [n for n, m in model.named_modules() if n.endswith("in_proj") and type(m) is nn.Linear]
    factors = {}
    for name in names:
        rows, columns = model.get_submodule(name).weight.shape
        shapes = {"down": (DECISION.pool, columns), "up": (DECISION.pool, rows)}
        made = {n: torch.randn(*s) / 6 for n, s in shapes.items()}
        factors[name] = Factors(DECISION, rows, columns, made)
    install_(model, factors)
    attach_(model, router_for(model))
    out = model.generate(prompt(1, 6), max_new_tokens=3, do_sample=False)
    assert out.shape == (1, 9)
