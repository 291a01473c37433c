"""Experts whose code branches on what their router chose, as one node of the graph.

    for expert in chosen.nonzero(): ...       as many turns as experts were chosen: no single graph

    gacfx.routed(hidden, index, shares, [w1, v1, w2], "DbrxExperts 0")

The node computes what the module computes, with the parameters that the graph holds. Nobody looks
inside: it is no site, its products are said not to be modelled, and what it touches keeps its size.
Only modules with the arguments that experts of transformers have are taken so: what they give has
the shape of what they are given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gacfx.errors import CaptureError
from gacfx.tracing.attention import on_meta
from gacfx.tracing.repeated import kind_of

ARGUMENTS = ("hidden_states", "top_k_index", "top_k_weights")
"""Of the forward of experts in transformers."""

_templates: dict[str, nn.Module] = {}
"""Name in a graph -> the module without its values."""


@torch.library.custom_op("gacfx::routed", mutates_args=())
def routed(
    hidden: Tensor, index: Tensor, shares: Tensor, held: list[Tensor], template: str
) -> Tensor:
    """What a module of experts computes.

    Args:
        hidden: of any shape [.., D].
        index: experts of each token [T, K].
        shares: of each of them [T, K].
        held: parameters and buffers of the module, in its order.
        template: name of the module.

    Returns:
        In the shape of ``hidden``.

    Raises:
        CaptureError: no graph of this process was captured with such a module.
    """
    return compute(hidden, index, shares, held, template)


@routed.register_fake
def _(hidden: Tensor, index: Tensor, shares: Tensor, held: list[Tensor], template: str) -> Tensor:
    return torch.empty_like(hidden)


def compute(
    hidden: Tensor, index: Tensor, shares: Tensor, held: list[Tensor], template: str
) -> Tensor:
    """As :func:`routed`, operator by operator, for who counts them."""
    module = _templates.get(template)
    if module is None:
        raise CaptureError(
            f"{template}: these experts were captured in another process, and only there a graph "
            "computes them; capture the model again"
        )
    names = (name for name, _ in _held(module))
    values = dict(zip(names, held, strict=True))
    found = functional_call(module, values, (hidden, index, shares))
    if found.shape != hidden.shape:
        raise CaptureError(
            f"{template}: gives {tuple(found.shape)} for {tuple(hidden.shape)}, so it is no module "
            "of experts that gacfx knows"
        )
    return found  # type: ignore[no-any-return]


def experts_in(model: nn.Module) -> list[nn.Module]:
    """Its modules that take what experts of transformers take, and hold parameters."""
    return [m for m in model.modules() if _takes(m) == ARGUMENTS and [*m.parameters()]]


@contextmanager
def as_grouped(model: Any) -> Iterator[None]:
    """Inside, experts that can be told how to compute do so by one grouped product; afterwards as
    before."""
    before = model.get_experts_implementation()
    model.set_experts_implementation("grouped_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


@contextmanager
def as_one_node(model: nn.Module) -> Iterator[None]:
    """Inside, each module of experts of a model is traced as one node; afterwards as before."""
    names: dict[object, str] = {}
    found = [m for m in experts_in(model) if "forward" not in vars(m)]
    kinds = list(map(kind_of, found))
    for module, kind in zip(found, kinds, strict=True):
        if kind not in names:
            names[kind] = f"{type(module).__name__} {len(_templates)}"
            _templates[names[kind]] = on_meta(module)
    for module, kind in zip(found, kinds, strict=True):
        vars(module)["forward"] = partial(_forward, module, names[kind])
    try:
        yield
    finally:
        for module in found:
            del vars(module)["forward"]


def _forward(
    module: nn.Module,
    template: str,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    held = [tensor for _, tensor in _held(module)]
    found: Tensor = routed(hidden_states, top_k_index, top_k_weights, held, template)
    return found


def _takes(module: nn.Module) -> tuple[str, ...]:
    return tuple(signature(type(module).forward).parameters)[1:]


def _held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
