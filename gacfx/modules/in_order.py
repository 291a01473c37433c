"""Pivots in order: a gather or join that is saved because the layers before it give its order.

Before:  down_proj pivot 64: gathers; gate_proj pivot 32, up_proj dense
After:   down_proj pivot-in-order 64; the outputs of gate_proj and up_proj come in its order

It is the same product, of the same rank and with as many parameters, so that budget, losses and
proof of the plan hold as they are.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from gacfx.core.decision import DENSE, Pivot, PivotInOrder
from gacfx.core.kept_factors import keep
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Choice, Plan
from gacfx.core.store import Store
from gacfx.errors import DecompositionFailed
from gacfx.modules.carrier import Source
from gacfx.modules.install import replaceable
from gacfx.modules.make import carrier_of
from gacfx.modules.pivot import with_pivots


def in_order(
    plan: Plan,
    factors: FactorSet,
    sources: Mapping[str, Source],
    model: nn.Module,
    feeders: Mapping[str, tuple[str, ...]],
    store: Store | None = None,
) -> tuple[Plan, FactorSet]:
    """The plan and its factors, with pivots in order wherever the model allows it.

    Args:
        plan: made for the model.
        factors: those of the plan.
        sources: module -> decomposed weight.
        model: the dense one.
        feeders: module -> layers whose outputs alone its inputs are made of, in graph order.
        store: where new factors are to live; None for memory.
    """
    home = next(model.parameters()).device
    made, choices = dict(factors), {choice.group: choice for choice in plan.choices}
    for module, before in feeders.items():
        choice = choices.get(module)
        if choice is None or not _allowed(plan, choice, model, before):
            continue
        if new := _ordered(plan, made, module, sources[module], before):
            made |= {name: keep(store, name, one, home) for name, one in new.items()}
            choices[module] = replace(choice, decision=new[module].decision)
    return replace(plan, choices=tuple(choices.values())), made


def _allowed(plan: Plan, choice: Choice, model: nn.Module, before: tuple[str, ...]) -> bool:
    """It is a pivot whose sizes stay aligned, and nobody listens to the layers or in between."""
    if type(choice.decision) is not Pivot or not plan.weights.keys() >= {*before}:
        return False
    weight, rank = choice.weights[0], choice.decision.rank
    sizes = PivotInOrder(rank).sizes(weight.rows, weight.columns)
    around = model.get_submodule(weight.module.rpartition(".")[0])
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in around.modules())
    aligned = not any(size % plan.provenance.align for size in sizes)
    return aligned and not hooked and replaceable(model, before)


def _ordered(
    plan: Plan, factors: FactorSet, module: str, source: Source, before: tuple[str, ...]
) -> FactorSet:
    """The factors of a layer in order and of those before it; none where there are no such."""
    old = factors[module]
    assert isinstance(old.decision, Pivot)
    try:
        tensors = with_pivots(source, old.decision, outputs=False)
    except DecompositionFailed:
        return {}
    order, dtype = tensors.pop("order"), source.weight_MN.dtype
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    new = {module: Factors(PivotInOrder(old.decision.rank), old.rows, old.columns, tensors)}
    for name in before:
        weight, known = plan.weights[name], factors.get(name)
        decision, tensors = (known.decision, known.tensors) if known else (DENSE, {})
        if known is not None:
            at = next(iter(tensors.values())).device
            moved = carrier_of(decision).reordered(decision, tensors, order.to(at))
            if moved is None:
                return {}
            tensors = moved
        new[name] = Factors(decision, weight.rows, weight.columns, tensors, order)
    return new if new[module].finite else {}
