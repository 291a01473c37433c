"""A router at work in a model: it picks when a prompt comes, and its pick stays for the sequence.

Before the model runs, the prompt is looked at: a call without a cache, or with an empty one, is a
prompt, whose pick is put into all pools and noted on the cache. Any other call goes on with what is
noted on its cache, so that keys and values stay those of one pick, also when several sequences are
decoded in turn.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
        PlanMismatch: it is for other pools than the model has.
        UnsupportedModel: the model has no input embedding.
    """
    found: dict[str, Routed] = {name: layer.decision for name, layer in pools(model).items()}
    if found != router.routed:
        odd = sorted(
            name
            for name in found.keys() | router.routed.keys()
            if found.get(name) != router.routed.get(name)
        )
        raise PlanMismatch(
            f"{odd[0] if odd else 'the order of pools'}: {found.get(odd[0]) if odd else 'differs'} "
            f"in the model, {router.routed.get(odd[0]) if odd else ''} in the router"
        )
    features = embedding_of(model).weight.shape[1]
    if features != router.shape.features:
        raise PlanMismatch(
            f"the router knows embeddings of {router.shape.features} numbers, those of the model "
            f"have {features}; it was trained for another one"
        )
    detach_(model)
    model.add_module(NAME, router)
    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, with_kwargs=True)


def attach_empty_(model: nn.Module, shape: RouterShape) -> PromptRouter:
    """Attach a router of these sizes for all pools of a model, its numbers for a loader to fill.

    Raises:
        PlanMismatch, UnsupportedModel: as :func:`attach_`.
    """
    routed = {name: layer.decision for name, layer in pools(model).items()}
    router = PromptRouter(shape, routed).to(embedding_of(model).weight.device)
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
        for hooks in (model._forward_pre_hooks, model._forward_hooks):
            ours = [key for key, hook in hooks.items() if hook in (before, after)]
            for key in ours:
                del hooks[key]
        for layer in pools(model).values():
            layer.choose(None)
    return router


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
    table = embedding_of(model).weight
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    sums_BF, counts_B = embedding_sums(table[ids_BT.to(table.device)], mask_BT)
    return sums_BF / counts_B[:, None]


def pick_for(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Pick:
    """What the router of a model picks for prompts; nothing is changed.

    Raises:
        UnsupportedModel: the model has no router.
    """
    router = router_of(model)
    if router is None:
        raise UnsupportedModel(f"{type(model).__name__} has no router; attach one first")
    return router.pick(means_of(model, ids_BT, mask_BT))


def install(model: nn.Module, pick: Pick | None, cap: float | None = None) -> None:
    """Compute with a pick from now on.

    Args:
        model: with pools.
        pick: for its next batch; None for the static prefix.
        cap: largest union of different picks that is computed whole, of the active rank; None for
            that of the layers.
    """
    router, options = router_of(model), {} if cap is None else {"cap": cap}
    known = None if router is None else router.installed
    for name, layer in pools(model).items():
        blocks = None if pick is None else pick.blocks[name]
        before_it = None if known is None else known.blocks[name]
        if blocks is not None and before_it is not None and torch.equal(blocks, before_it):
            continue
        layer.choose(blocks, **options)
    if router is not None:
        router.installed = pick


@contextmanager
def picked(model: nn.Module, pick: Pick | None) -> Iterator[None]:
    """The model with this pick, whatever it is given; its router picks again afterwards."""
    router = router_of(model)
    automatic = router is not None and router.automatic
    if router is not None:
        router.automatic = False
    install(model, pick)
    try:
        yield
    finally:
        install(model, None)
        if router is not None:
            router.automatic = automatic


def before(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What a router does before its model runs; nothing where tokens have no values, as in export.

    A graph that is exported so has the static prefix; ``route-ranks`` lets it follow picks.
    """
    router = router_of(model)
    if router is not None and router.automatic and not _without_values(args, kwargs):
        _before(router, model, args, kwargs)


def after(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """What it does when the model has run: the pick is noted on a cache that is new."""
    del args, kwargs
    router = router_of(model)
    if router is not None and router.noted is not None:
        _after(router, output)


@dataclass(eq=False)
class _Noted:
    """The pick of the sequences of a cache, and the sums of embeddings that it was made of."""

    pick: Pick
    sums_BF: Tensor
    counts_B: Tensor
    steps: int = 0


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _before(
    router: PromptRouter, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    cache = next((kwargs[name] for name in _CACHES if kwargs.get(name) is not None), None)
    noted: _Noted | None = getattr(cache, _PICK, None)
    length = _length(cache)
    if noted is None and length:
        raise UnsupportedModel(
            "the cache holds keys and values of a prompt whose pick is not known; fill it with "
            "this model, or route by hand: gacfx.routing.picked"
        )
    if noted is None or not length:
        sums_BF, counts_B = _sums(model, args, kwargs)
        noted = _Noted(router.pick(sums_BF / counts_B[:, None]), sums_BF, counts_B)
        if cache is not None:
            _note(cache, noted)
    elif router.refresh:
        sums_BF, counts_B = _sums(model, args, kwargs)
        noted.sums_BF, noted.counts_B = noted.sums_BF + sums_BF, noted.counts_B + counts_B
        noted.steps += 1
        if noted.steps % router.refresh == 0:
            noted.pick = router.pick(noted.sums_BF / noted.counts_B[:, None])
    install(model, noted.pick)
    router.noted = noted


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after(router: PromptRouter, output: Any) -> None:
    found = output if isinstance(output, Mapping) else {}
    for cache in (found[name] for name in _CACHES if found.get(name) is not None):
        if getattr(cache, _PICK, None) is None:
            _note(cache, router.noted)
    router.noted = None


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
    find = getattr(cache, "get_seq_length", None)
    if find is not None:
        return int(find())
    return int(getattr(cache, _PICK, None) is not None)


def _sums(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(sums of embeddings [B, F], tokens [B]) of what a model is called with, on the CPU."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    embedded = kwargs.get("inputs_embeds")
    if embedded is None:
        if not isinstance(ids, Tensor):
            raise UnsupportedModel("a router needs input_ids or inputs_embeds")
        table = embedding_of(model).weight
        embedded = table[ids.to(table.device)]
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        mask = torch.ones(embedded.shape[:2], device=embedded.device)
    return embedding_sums(embedded, mask[:, mask.shape[1] - embedded.shape[1] :])
