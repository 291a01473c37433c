"""A tiny Llama with pools, and a router that tells prompts apart by halves of its vocabulary."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.core.materialise import Factors
from gacfx.core.routed import Routed, own_blocks
from gacfx.core.router_shape import RouterShape
from gacfx.modules.install import install_
from gacfx.modules.prompt_router import PromptRouter
from gacfx.modules.routing_hooks import attach_, pools
from tests import tiny

KINDS = 2
DECISION = Routed(56, 24, 8, 8)
"""Three blocks of the prefix, and two own ones of each of two kinds of text."""
HALVES = {1: (2, 130), 2: (130, 258)}
"""Kind -> its token ids; a prompt of both is of no kind."""
_APART = 3.0


def plain_llama(seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """Its embeddings of each half lie together."""
    model = tiny.llama(seed=seed, **more)
    with torch.no_grad():
        for kind, (first, end) in HALVES.items():
            model.get_input_embeddings().weight[first:end, 0] += _APART * (3 - 2 * kind)
    return model.to(dtype)


def pooled(seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """With random pools in all linears of its layers."""
    model = plain_llama(seed, dtype, **more)
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and "proj" in name:
            rows, columns = layer.weight.shape
            shapes = {"down": (DECISION.pool, columns), "up": (DECISION.pool, rows)}
            tensors = {n: torch.randn(*s, generator=draw) / 6 for n, s in shapes.items()}
            factors[name] = Factors(DECISION, rows, columns, tensors)
    install_(model, factors)
    return model


def router_for(model: Any) -> PromptRouter:
    """Kind 1 or 2 where most of a prompt is of it."""
    features = model.get_input_embeddings().weight.shape[1]
    routed = {name: layer.decision for name, layer in pools(model).items()}
    router = PromptRouter(RouterShape("classes", features, 2, KINDS), routed)
    router.set_floats_(
        centre=torch.zeros(features),
        basis=torch.eye(features)[:, :2],
        scale=torch.eye(2),
        means=torch.tensor([[_APART, 0.0], [-_APART, 0.0]]),
        lengths=torch.tensor([96.0]),
        limits=torch.tensor([[2.0, 2.0, 1e9]]),
    )
    patterns = [dict.fromkeys(router.routed, blocks(kind)) for kind in (1, 2)]
    router.set_patterns_(patterns)
    return router


def blocks(kind: int) -> Tensor:
    """Those of a kind, in each of these pools."""
    return torch.tensor(own_blocks(DECISION, KINDS, kind))


def routed_llama(seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """With its router."""
    model = pooled(seed, dtype, **more)
    attach_(model, router_for(model))
    return model


def prompt(kind: int, length: int, seed: int = 0) -> Tensor:
    """Token ids [1, length] of a kind; 0 for both in turn."""
    draw = torch.Generator().manual_seed(100 * seed + 10 * length + kind)
    first, end = HALVES[kind or 1]
    found = torch.randint(first, end, (1, length), generator=draw)
    if kind == 0:
        found[:, 1::2] += 128
    return found


def by_hand_(model: Any, kind: int) -> Any:
    """The model without a router, with the blocks of a kind in all pools."""
    for layer in pools(model).values():
        layer.choose(None if kind == 0 else blocks(kind)[None])
    return model


def left_padded(prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(ids [B, T], mask [B, T]) of prompts [1, T]."""
    most = max(each.shape[1] for each in prompts)
    ids = torch.zeros(len(prompts), most, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, each in enumerate(prompts):
        ids[row, most - each.shape[1] :] = each
        mask[row, most - each.shape[1] :] = 1
    return ids, mask


def greedy(model: Any, ids: Tensor, tokens: int) -> Tensor:
    """Token by token with a cache, as generate does it."""
    from transformers import DynamicCache

    cache, found = DynamicCache(config=model.config), ids
    with torch.no_grad():
        for _ in range(tokens):
            seen = ids if found is ids else found[:, -1:]
            found = torch.cat([found, step(model, seen, cache)[:, -1:].argmax(-1)], 1)
    return found


def step(model: Any, ids: Tensor, cache: Any) -> Tensor:
    """Logits of one call with a cache, under whichever name it goes."""
    names = signature(model.forward).parameters
    name = "cache" if "cache" in names else "past_key_values"
    found: Tensor = model(ids, **{name: cache}, use_cache=True).logits
    return found
