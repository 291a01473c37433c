"""A router at work: prompts pick, and what is decoded goes on with the pick of its prompt."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from gacfx.core.routed import Routed
from gacfx.core.router_shape import RouterShape
from gacfx.errors import PlanMismatch, UnsupportedModel
from gacfx.modules.prompt_router import PromptRouter
from gacfx.modules.routing_hooks import (
    attach_,
    detach_,
    install,
    means_of,
    pick_for,
    picked,
    pools,
    router_of,
)
from tests.unit.modules.routed_models import (
    DECISION,
    by_hand_,
    greedy,
    left_padded,
    plain_llama,
    pooled,
    prompt,
    routed_llama,
    router_for,
    step,
)

ROUNDING = 1e-10
SHIFTED = 1e-6
"""transformers computes the angles of positions in float32; padding shifts them."""


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def close(found: Tensor, want: Tensor, bound: float = ROUNDING) -> None:
    assert found.shape == want.shape
    assert float((found - want).norm() / want.norm()) < bound


def differ(one: Tensor, other: Tensor) -> None:
    assert float((one - other).norm() / other.norm()) > 0.05


def classes(model: Any) -> tuple[int, ...]:
    router = router_of(model)
    assert router is not None and router.installed is not None
    return router.installed.classes


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("length", [2, 11, 90])
def test_a_prompt_is_computed_with_the_blocks_of_its_kind(kind: int, length: int) -> None:
    model, ids = routed_llama(), prompt(kind, length)
    found = model(ids).logits
    assert classes(model) == (kind,)
    for other in (0, 1, 2):
        want = by_hand_(pooled(), other)(ids).logits
        (close if other == kind else differ)(found, want)


@pytest.mark.parametrize("kinds", [(1, 2, 0), (2, 2, 1), (0, 1, 1)])
@pytest.mark.parametrize("cap", [None, 9.0])
def test_sequences_of_a_batch_get_what_they_get_alone(
    kinds: tuple[int, ...], cap: float | None
) -> None:
    model, lengths = routed_llama(), (9, 4, 13)
    prompts = [prompt(*each) for each in zip(kinds, lengths, strict=True)]
    ids, mask = left_padded(prompts)
    if cap is None:
        found = model(ids, mask).logits
        assert classes(model) == kinds
    else:
        pick = pick_for(model, ids, mask)
        with picked(model, None):
            install(model, pick, cap)
            found = model(ids, attention_mask=mask).logits
        assert pick.classes == kinds
    for row, (kind, one) in enumerate(zip(kinds, prompts, strict=True)):
        want = by_hand_(pooled(), kind)(one).logits
        close(found[row, -one.shape[1] :], want[0], SHIFTED)


def test_odd_prompts_get_what_they_get_alone() -> None:
    """One token, no token at all, longer than the others."""
    model = routed_llama()
    prompts = [prompt(1, 1), prompt(2, 1), prompt(2, 70)]
    ids, mask = left_padded([*prompts, prompt(1, 0)])
    found = model(ids, attention_mask=mask).logits
    assert classes(model) == (1, 2, 2, 0)
    for row, one in enumerate(prompts):
        close(found[row, -one.shape[1] :], model(one).logits[0], SHIFTED)
        assert classes(model) == (1 + (row > 0),)
    assert bool(means_of(model, ids, mask)[3].isnan().all())
    close(means_of(model, ids, mask)[2:3], means_of(model, prompts[2]), SHIFTED)


def test_embeddings_in_place_of_ids() -> None:
    model = routed_llama()
    ids, mask = left_padded([prompt(2, 9), prompt(1, 5)])
    found = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask).logits
    assert classes(model) == (2, 1)
    close(found, model(ids, attention_mask=mask).logits)


class Scaled(nn.Embedding):
    """As Gemma has it."""

    def forward(self, input: Tensor) -> Tensor:
        """Twice the table."""
        return 2 * super().forward(input)


def test_prompts_are_known_by_embeddings_as_the_model_computes_them() -> None:
    model, ids = routed_llama(), prompt(1, 6)
    scaled = Scaled(258, 64, _weight=model.get_input_embeddings().weight)
    want = 2 * means_of(model, ids)
    model.set_input_embeddings(scaled)
    close(means_of(model, ids), want)
    given = []
    for call in ({"input_ids": ids}, {"inputs_embeds": scaled(ids)}):
        model(**call)
        given.append(classes(model))
    assert given[0] == given[1]


def test_a_call_that_has_neither_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="a router needs input_ids or inputs_embeds"):
        routed_llama()(None)


# -- decoding --------------------------------------------------------------------------------------

ASKED: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_what_is_generated_goes_on_with_the_pick_of_its_prompt(kind: int) -> None:
    model, ids = routed_llama(), prompt(kind, 7)
    want = greedy(by_hand_(pooled(), kind), ids, 12)
    mask = torch.ones_like(ids)
    found = model.generate(ids, attention_mask=mask, max_new_tokens=12, **ASKED)
    assert found.tolist() == want.tolist()
    assert greedy(model, ids, 12).tolist() == want.tolist()
    assert greedy(by_hand_(pooled(), (kind + 1) % 3), ids, 12).tolist() != want.tolist()


def test_a_batch_that_differs_is_generated_as_one_by_one() -> None:
    model, prompts = routed_llama(), [prompt(1, 5), prompt(2, 9), prompt(0, 4)]
    ids, mask = left_padded(prompts)
    found = model.generate(ids, attention_mask=mask, max_new_tokens=8, **ASKED)
    for row, one in enumerate(prompts):
        assert found[row, -8:].tolist() == greedy(model, one, 8)[0, -8:].tolist()


def test_caches_that_are_decoded_in_turn_keep_their_own_picks() -> None:
    model, kinds = routed_llama(), (1, 2, 0)
    caches = [DynamicCache(config=model.config) for _ in kinds]
    hands = [DynamicCache(config=model.config) for _ in kinds]
    for turn in range(4):
        for kind, cache, hand in zip(kinds, caches, hands, strict=True):
            ids = prompt(kind, 6) if turn == 0 else prompt((kind + turn) % 3, 1)
            found = step(model, ids, cache)
            close(found, step(by_hand_(pooled(), kind), ids, hand))
            assert classes(model) == (kind,)


def test_the_cache_of_an_output_goes_on_with_its_pick() -> None:
    for model, how in ((routed_llama(), {}), (routed_llama(), {"return_dict": False})):
        made = model(prompt(1, 6), use_cache=True, **how)
        cache = next(part for part in (made if how else made.values()) if hasattr(part, "layers"))
        model(prompt(2, 6))
        found = step(model, prompt(2, 1), cache)
        assert classes(model) == (1,)
        hand = DynamicCache(config=model.config)
        plain = by_hand_(pooled(), 1)
        step(plain, prompt(1, 6), hand)
        close(found, step(plain, prompt(2, 1), hand))


def test_a_cache_that_is_given_by_its_place_is_found() -> None:
    model, cache = routed_llama(), DynamicCache()
    model(prompt(1, 6), None, None, cache)
    model(prompt(2, 1), None, None, cache)
    assert classes(model) == (1,)


def test_a_prompt_in_pieces_goes_on_with_the_pick_of_its_first() -> None:
    model, cache = routed_llama(), DynamicCache()
    step(model, prompt(1, 6), cache)
    step(model, prompt(2, 20), cache)
    assert classes(model) == (1,)


def test_a_cache_that_was_emptied_picks_again() -> None:
    model = routed_llama()
    cache = StaticCache(config=model.config, max_cache_len=32)
    for kind in (1, 2, 0):
        cache.reset()
        step(model, prompt(kind, 6), cache)
        step(model, prompt(1, 1), cache)
        assert classes(model) == (kind,)


def test_a_cache_of_another_model_is_refused() -> None:
    model, cache = routed_llama(), DynamicCache()
    step(pooled(), prompt(1, 6), cache)
    with pytest.raises(UnsupportedModel, match="a prompt whose pick is not known; fill it with"):
        step(model, prompt(1, 1), cache)
    with picked(model, None):
        step(model, prompt(1, 1), cache)


def test_beams_are_those_of_the_pick() -> None:
    model = routed_llama()
    more = {**ASKED, "num_beams": 3, "max_new_tokens": 6}
    ids, mask = left_padded([prompt(1, 5), prompt(2, 8)])
    found = model.generate(ids, attention_mask=mask, **more)
    for row, (kind, one) in enumerate(((1, prompt(1, 5)), (2, prompt(2, 8)))):
        alone = by_hand_(pooled(), kind)
        want = alone.generate(one, attention_mask=torch.ones_like(one), **more)
        assert found[row, -6:].tolist() == want[0, -6:].tolist()


@pytest.mark.parametrize("at_once", [1, 2])
def test_it_picks_again_after_so_many_tokens_from_all_so_far(at_once: int) -> None:
    model, cache = routed_llama(), DynamicCache()
    router = router_of(model)
    assert router is not None
    router.refresh = 4
    step(model, prompt(1, 3), cache)
    seen, ids = [], prompt(1, 3)
    for turn in range(1, 21, at_once):
        more = prompt(2, at_once, turn)
        step(model, more, cache)
        ids = torch.cat([ids, more], 1)
        seen.append(classes(model)[0])
        done = turn + at_once - 1
        if done % 4 == 0:
            want = pick_for(model, ids).classes[0]
        else:
            want = seen[-2] if len(seen) > 1 else 1
        assert seen[-1] == want
    assert seen[0] == 1 and seen[-1] == 2
    router.refresh = None
    step(model, prompt(1, 60), cache)
    assert classes(model) == (2,)


def test_a_pool_that_was_trained_is_gathered_again() -> None:
    model, ids = routed_llama(), prompt(1, 6)
    model(ids)
    state = pooled(seed=1).state_dict()
    model.load_state_dict({**model.state_dict(), **state})
    close(model(ids).logits, by_hand_(pooled(seed=1), 1)(ids).logits)


# -- attached and detached -------------------------------------------------------------------------


def test_detached_it_is_the_plain_model() -> None:
    model, ids = routed_llama(), prompt(1, 6)
    want = pooled()(ids).logits
    routed = model(ids).logits
    router = detach_(model)
    assert router is not None and router_of(model) is None
    assert torch.equal(model(ids).logits, want)
    assert {*model.state_dict()} == {*pooled().state_dict()}
    for name in ("", "_with_kwargs"):
        assert not getattr(model, f"_forward_pre_hooks{name}")
        assert not getattr(model, f"_forward_hooks{name}")
    assert detach_(model) is None
    attach_(model, router)
    assert torch.equal(model(ids).logits, routed)


def test_attached_twice_is_once() -> None:
    model, ids = routed_llama(), prompt(2, 6)
    other = router_for(model)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    attach_(model, other)
    attach_(model, other)
    assert router_of(model) is other
    assert len(model._forward_pre_hooks) == 2 and len(model._forward_hooks) == 1
    model(ids)
    assert calls == [1] and classes(model) == (2,)


def test_a_copy_routes_for_itself() -> None:
    model = routed_llama()
    model(prompt(1, 6))
    made = copy.deepcopy(model)
    want = model(prompt(2, 6)).logits
    assert torch.equal(made(prompt(2, 6)).logits, want)
    made(prompt(1, 6))
    assert (classes(made), classes(model)) == ((1,), (2,))


def test_by_hand_it_stays_what_it_is() -> None:
    model, ids = routed_llama(), prompt(1, 6)
    pick = pick_for(model, prompt(2, 4))
    with picked(model, pick):
        found = model(ids).logits
    close(found, by_hand_(pooled(), 2)(ids).logits)
    close(model(ids).logits, by_hand_(pooled(), 1)(ids).logits)
    with pytest.raises(ValueError, match="inside"), picked(model, None):
        raise ValueError("inside")
    close(model(ids).logits, by_hand_(pooled(), 1)(ids).logits)
    plain = pooled()
    with picked(plain, pick):
        close(plain(ids).logits, found)
    assert torch.equal(plain(ids).logits, pooled()(ids).logits)
    with pytest.raises(UnsupportedModel, match="LlamaForCausalLM has no router; attach one"):
        pick_for(plain, ids)


Q0 = "model.layers.0.self_attn.q_proj"


def test_a_router_of_other_pools_is_refused() -> None:
    model = pooled()
    routed = {name: layer.decision for name, layer in pools(model).items()}
    shape = RouterShape("scores", 64, 2)
    other = Routed(24, 24, 8, 8)
    lacks = {name: each for name, each in routed.items() if name != Q0}
    for given, message in (
        ({**routed, Q0: other}, f"{Q0}: {DECISION} in the model, {other} in the router"),
        (lacks, f"{Q0}: {DECISION} in the model, no pool in the router"),
        ({**routed, "a.b": other}, f"a.b: no pool in the model, {other} in the router"),
    ):
        with pytest.raises(PlanMismatch, match=f"^{message}$"):
            attach_(model, PromptRouter(shape, given))
    with pytest.raises(PlanMismatch, match="embeddings of 65 numbers, those of the model have 64"):
        attach_(model, PromptRouter(RouterShape("scores", 65, 2), routed))
    with pytest.raises(PlanMismatch, match="LlamaForCausalLM has no pools of ranks"):
        attach_(plain_llama(), PromptRouter(shape, {}))
    body = nn.ModuleDict({"up": pools(model)[Q0]})
    with pytest.raises(UnsupportedModel, match="ModuleDict has no input embeddings"):
        attach_(body, PromptRouter(shape, {"up": DECISION}))
    assert router_of(model) is None and not model._forward_hooks


# -- other programs --------------------------------------------------------------------------------


def test_a_compiled_model_routes_each_prompt() -> None:
    torch.compiler.reset()
    model = routed_llama(dtype=torch.float32)
    compiled: Any = torch.compile(model, backend="eager")
    for kind in (1, 2, 1, 0):
        ids = prompt(kind, 8)
        found = compiled(ids, use_cache=False).logits
        want = by_hand_(pooled(dtype=torch.float32), kind)(ids).logits
        assert float((found - want).norm() / want.norm()) < 1e-4
        assert classes(model) == (kind,)


def test_nothing_is_asked_by_a_name_that_transformers_gave_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.utils import generic

    said: list[str] = []
    monkeypatch.setattr(generic.logger, "warning_once", lambda text, *_: said.append(text))
    model, cache = routed_llama(), DynamicCache()
    model(prompt(1, 6), use_cache=False)
    model(prompt(1, 6), use_cache=True)
    step(model, prompt(1, 6), cache)
    step(model, prompt(1, 1), cache)
    assert said == []


# -- the length of a prompt ------------------------------------------------------------------------


def by_length_(model: Any, short: float, long: float) -> Any:
    """The model with other limits for prompts of up to 12 tokens than for longer ones."""
    old = router_of(model)
    assert old is not None
    shape = replace(old.shape, lengths=2)
    router = PromptRouter(shape, old.routed)
    rows = torch.tensor([long, short])[:, None].expand(2, 3)
    router.set_floats_(
        **{name: old.floats(name) for name in ("centre", "basis", "scale", "means")},
        lengths=torch.tensor([13.0, 12.0]),
        limits=rows,
    )
    patterns = old.patterns().blocks
    router.set_patterns_([{n: rows[at] for n, rows in patterns.items()} for at in (1, 2)])
    attach_(model, router)
    return model


def test_a_prompt_is_judged_by_its_own_length() -> None:
    model = by_length_(routed_llama(), short=1e9, long=-1.0)
    router = router_of(model)
    assert router is not None
    for length, want in ((6, 1), (12, 1), (13, 0), (40, 0)):
        ids = prompt(1, length)
        assert pick_for(model, ids).classes == (want,)
        model(ids)
        assert router.installed is not None and router.installed.classes == (want,)


def test_padding_does_not_make_a_prompt_longer() -> None:
    model = by_length_(routed_llama(), short=1e9, long=-1.0)
    router = router_of(model)
    ids, mask = left_padded([prompt(1, 6), prompt(2, 40), prompt(2, 9)])
    assert pick_for(model, ids, mask).classes == (1, 0, 2)
    model(ids, attention_mask=mask)
    assert router is not None and router.installed is not None
    assert router.installed.classes == (1, 0, 2)


def test_a_refreshed_pick_is_that_of_all_tokens_so_far() -> None:
    """Short prompts are of no kind here, until they are long enough."""
    model = by_length_(routed_llama(), short=-1.0, long=1e9)
    router = router_of(model)
    assert router is not None
    router.refresh = 1
    ids = prompt(1, 16)[0]
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        step(model, ids[None, :10], cache)
        for at in range(10, 16):
            step(model, ids[None, at : at + 1], cache)
            assert router.installed is not None
            assert router.installed.classes == (int(at + 1 >= 13),)
