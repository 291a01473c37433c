"""A router at work in a model: it picks when a prompt comes, and its pick stays for the sequence.

Before the model runs, the prompt is looked at: a call without a cache, or with an empty one, is a
prompt, whose pick is put into all pools and noted on the cache. Any other call goes on with what is
noted on its cache, so that keys and values stay those of one pick, also when several sequences are
decoded in turn.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from threading import Lock, RLock, get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gacfx.core.routed import Routed
from gacfx.core.router_shape import RouterShape
from gacfx.errors import PlanMismatch, UnsupportedModel
from gacfx.modules.prompt_router import Pick, PromptRouter, embedding_sums
from gacfx.modules.rank_experts import RankExpertLinear

NAME = "gacfx_router"
"""Of the router in its model."""
_PICK = "gacfx_pick"
"""Attribute of a cache of keys and values."""
_CACHES = ("cache", "past_key_values", "cache_params")
"""Names of the cache in calls and outputs; the first one since transformers 5.24."""


def pools(model: nn.Module) -> dict[str, RankExpertLinear]:
    """Name -> layer, of all pools of a model."""
    return {n: m for n, m in model.named_modules() if isinstance(m, RankExpertLinear)}


def router_of(model: nn.Module) -> PromptRouter | None:
    """The router of a model, if it has one."""
    found = model._modules.get(NAME)
    return found if isinstance(found, PromptRouter) else None


def attach_(model: nn.Module, router: PromptRouter) -> None:
    """Let a router pick for every prompt that a model is given.

    Raises:
        PlanMismatch: it is for other pools than the model has, or there are none.
        UnsupportedModel: the model has no input embedding.
    """
    found: dict[str, Routed] = {name: layer.decision for name, layer in pools(model).items()}
    for name in sorted(found.keys() | router.routed.keys()):
        here, there = (each.get(name, "no pool") for each in (found, router.routed))
        if here != there:
            raise PlanMismatch(f"{name}: {here} in the model, {there} in the router")
    if not found:
        raise PlanMismatch(f"{type(model).__name__} has no pools of ranks, so nothing is routed")
    features = embedding_of(model).weight.shape[1]
    if features != router.shape.features:
        raise PlanMismatch(
            f"the router knows embeddings of {router.shape.features} numbers, those of the model "
            f"have {features}; it was trained for another one"
        )
    detach_(model)
    model.add_module(NAME, router)
    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, with_kwargs=True, always_call=True)
    _declare(model, router.shape)


def attach_empty_(model: nn.Module, shape: RouterShape) -> PromptRouter:
    """Attach a router of these sizes for all pools of a model, its numbers for a loader to fill.

    Raises:
        PlanMismatch, UnsupportedModel: as :func:`attach_`.
    """
    routed = {name: layer.decision for name, layer in pools(model).items()}
    with embedding_of(model).weight.device:  # meta as a rule, where sizes take no memory
        router = PromptRouter(shape, routed)
    attach_(model, router)
    return router


def detach_(model: nn.Module) -> PromptRouter | None:
    """Take the router out; all pools run their static prefix then.

    Returns:
        The router, if there was one.
    """
    router = router_of(model)
    if router is not None:
        delattr(model, NAME)
        for hooks, named in (
            (model._forward_pre_hooks, model._forward_pre_hooks_with_kwargs),
            (model._forward_hooks, model._forward_hooks_with_kwargs),
        ):
            for key in [key for key, hook in hooks.items() if hook in (before, after)]:
                del hooks[key], named[key]
                model._forward_hooks_always_called.pop(key, None)
        for layer in pools(model).values():
            layer.choose(None)
        router.installed = router.noted = None
        _declare(model, None)
    return router


def _declare(model: nn.Module, shape: RouterShape | None) -> None:
    """A configuration that says what the model is says it of the router, too."""
    block: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    if hasattr(block, "keep"):
        block.keep(block.decisions, block.states, shape)


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The table of input embeddings.

    Raises:
        UnsupportedModel: there is none.
    """
    find = getattr(model, "get_input_embeddings", None)
    found = find() if find is not None else None
    if getattr(found, "weight", None) is None:
        raise UnsupportedModel(f"{type(model).__name__} has no input embeddings to route by")
    return found  # type: ignore[return-value]


@torch.no_grad()
def means_of(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Mean embeddings of prompts, float32 [B, F] on the CPU; NaN for a prompt without a token.

    Args:
        model: with input embeddings.
        ids_BT: token ids.
        mask_BT: 1 for tokens, 0 for padding; None where all are tokens.
    """
    sums_BF, counts_B = _prompt_sums(model, ids_BT, mask_BT)
    return sums_BF / counts_B[:, None]


def pick_for(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Pick:
    """What the router of a model picks for prompts; nothing is changed.

    Raises:
        UnsupportedModel: the model has no router.
    """
    router = router_of(model)
    if router is None:
        raise UnsupportedModel(f"{type(model).__name__} has no router; attach one first")
    sums_BF, counts_B = _prompt_sums(model, ids_BT, mask_BT)
    return router.pick(sums_BF / counts_B[:, None], counts_B)


def install(model: nn.Module, pick: Pick | None, cap: float | None = None) -> None:
    """Compute with a pick from now on.

    Args:
        model: with pools.
        pick: for its next batch; None for the static prefix.
        cap: largest union of different picks that is computed whole, of the active rank; None for
            that of the layers.
    """
    router, options = router_of(model), {} if cap is None else {"cap": cap}
    for name, layer in pools(model).items():
        blocks = None if pick is None else pick.blocks[name]
        if blocks is None or not layer.holds(blocks, **options):
            layer.choose(blocks, **options)
    if router is not None:
        router.installed = pick


@contextmanager
def picked(model: nn.Module, pick: Pick | None) -> Iterator[None]:
    """The model with this pick, whatever it is given; its router picks again afterwards.

    Other threads wait meanwhile.
    """
    router = router_of(model)
    if router is None:
        install(model, pick)
        try:
            yield
        finally:
            install(model, None)
        return
    with _lock_of(router):
        automatic, router.automatic = router.automatic, False
        owner, router.owner = router.owner, get_ident()
        router.noted = None
        try:
            install(model, pick)
            yield
        finally:
            router.automatic, router.owner = automatic, owner
            install(model, None)


def before(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What a router does before its model runs; nothing where tokens have no values, as in export.

    A graph that is exported so has the static prefix; ``route-ranks`` lets it follow picks.

    Raises:
        UnsupportedModel: a cache whose pick is not known, a mask that is not understood, or an
            export with the pick of a prompt in place.
    """
    router = router_of(model)
    if router is None or not (router.automatic or _is_others(router)):
        return
    if _without_values(args, kwargs):
        if router.installed is not None and torch.compiler.is_exporting():
            raise UnsupportedModel(
                "the pools hold the pick of the last prompt, which an export would take for all; "
                "export inside gacfx.modules.routing_hooks.picked(model, None)"
            )
        return
    _before(router, model, args, kwargs)


def after(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """What it does when the model has run: the pick is noted on a cache that is new."""
    del args, kwargs
    router = router_of(model)
    if router is not None:
        _after(router, output)


@dataclass(eq=False)
class _Noted:
    """The pick of the sequences of a cache, and the sums of embeddings that it was made of."""

    pick: Pick | None
    """None for the static prefix."""
    sums_BF: Tensor | None = None
    """None where somebody else picked: then nothing picks again."""
    counts_B: Tensor | None = None
    since: int = 0
    """Tokens of each sequence since it was picked."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _before(
    router: PromptRouter, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    _lock_of(router).acquire()  # until the model has run: a pick belongs to one call
    router.held += 1
    if not router.automatic:  # somebody switched it off, for all threads
        return
    called = {**dict(zip(_names(type(model)), args, strict=False)), **kwargs}
    cache = next((called[name] for name in _CACHES if called.get(name) is not None), None)
    noted: _Noted | None = getattr(cache, _PICK, None)
    length = _length(cache)
    if noted is None and length:
        raise UnsupportedModel(
            "the cache holds keys and values of a prompt whose pick is not known; fill it with "
            "this model, or route by hand: gacfx.modules.routing_hooks.picked"
        )
    if noted is None or not length:
        sums_BF, counts_B, _ = _sums(model, called)
        noted = _Noted(router.pick(sums_BF / counts_B[:, None], counts_B), sums_BF, counts_B)
        if cache is not None:
            _note(cache, noted)
    elif router.refresh and noted.sums_BF is not None and noted.counts_B is not None:
        sums_BF, counts_B, tokens = _sums(model, called)
        noted.sums_BF, noted.counts_B = noted.sums_BF + sums_BF, noted.counts_B + counts_B
        noted.since += tokens
        if noted.since >= router.refresh:
            mean_BF = noted.sums_BF / noted.counts_B[:, None]
            noted.pick, noted.since = router.pick(mean_BF, noted.counts_B), 0
    # Looking at all pools takes a millisecond: in front of each token it would be felt.
    if not length or router.installed is not noted.pick:
        install(model, noted.pick)
    router.noted = noted


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after(router: PromptRouter, output: Any) -> None:
    noted = router.noted if router.automatic else _Noted(router.installed)
    # By keys: to ask an output of transformers for an old name prints that it is deprecated.
    named = dict(output.items()) if isinstance(output, Mapping) else {}
    parts = output if isinstance(output, tuple) else [named.get(name) for name in _CACHES]
    for cache in parts if noted is not None else ():
        if hasattr(cache, "get_seq_length") and getattr(cache, _PICK, None) is None:
            _note(cache, noted)
    router.noted = None
    if router.held:
        router.held -= 1
        _lock_of(router).release()


def _is_others(router: PromptRouter) -> bool:
    """Another thread picked by hand for now."""
    return router.owner not in (None, get_ident())


_LOCKS: WeakKeyDictionary[PromptRouter, Any] = WeakKeyDictionary()
_LOCKS_LOCK = Lock()


def _lock_of(router: PromptRouter) -> Any:
    """One for each router, that is neither copied nor saved with it."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(router, RLock())


_NAMES: dict[type[nn.Module], tuple[str, ...]] = {}


def _names(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the arguments of a model; to ask for them takes as long as to pick."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(signature(kind.forward).parameters)[1:]
    return _NAMES[kind]


def _without_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    if torch.compiler.is_exporting():
        return True
    return any(isinstance(each, Tensor) and each.is_meta for each in given)


def _note(cache: Any, noted: object) -> None:
    if not isinstance(cache, tuple | list):
        setattr(cache, _PICK, noted)


def _length(cache: Any) -> int:
    """Tokens in a cache; 1 where it does not say, and was used."""
    if hasattr(cache, "get_seq_length"):
        with suppress(ValueError, NotImplementedError):  # states without keys count no tokens
            return int(cache.get_seq_length())
    return int(getattr(cache, _PICK, None) is not None)


def _embedded(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """As the model computes them, [B, T, F]: some scale their table."""
    table = embedding_of(model)
    found: Tensor = table(ids_BT.to(table.weight.device))
    return found


def _prompt_sums(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """(sums of embeddings [B, F], tokens [B]) of prompts."""
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    return embedding_sums(_embedded(model, ids_BT), mask_BT)


def _sums(model: nn.Module, called: Mapping[str, Any]) -> tuple[Tensor, Tensor, int]:
    """(sums of embeddings [B, F], tokens that are no padding [B], tokens in all) of a call."""
    ids, embedded = called.get("input_ids"), called.get("inputs_embeds")
    if embedded is None:
        if not isinstance(ids, Tensor):
            raise UnsupportedModel("a router needs input_ids or inputs_embeds")
        embedded = _embedded(model, ids)
    tokens = embedded.shape[1]
    return *embedding_sums(embedded, _real(called.get("attention_mask"), embedded)), tokens


def _real(mask: Any, embedded_BTF: Tensor) -> Tensor:
    """1 for tokens and 0 for padding, [B, T], of whatever mask a model was given.

    Raises:
        UnsupportedModel: a mask that is not understood.
    """
    batch, tokens = embedded_BTF.shape[:2]
    if isinstance(mask, Mapping):  # of a model whose layers see different parts of the past
        mask = next((each for each in mask.values() if each is not None), None)
    if mask is None:
        return torch.ones(batch, tokens, device=embedded_BTF.device)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, mask.shape[1] - tokens :] if mask.shape[1] >= tokens else mask
    if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[-2] == tokens:
        seen = mask if mask.dtype == torch.bool else mask == 0
        # What the last token sees of the first ones; places behind them are free ones of a cache.
        return seen[:, 0, -1, :tokens].expand(batch, -1)
    raise UnsupportedModel(
        f"a router cannot tell tokens from padding in an attention mask of {_kind(mask)}; give one "
        "of [sequences, tokens]"
    )


def _kind(mask: Any) -> str:
    return str(tuple(mask.shape)) if isinstance(mask, Tensor) else type(mask).__name__
