"""From a decision to its tensors, and to the class of layers that carries it out."""

from importlib import import_module

import torch
from torch import Tensor

from gacfx.core.decision import Decision
from gacfx.core.kinds import KINDS
from gacfx.core.materialise import Factors
from gacfx.core.pruning import Sliced
from gacfx.errors import DecompositionFailed, PlanError
from gacfx.modules.carrier import Carrier, Source
from gacfx.modules.sliced import SlicedLinear


def make_factors(
    source: Source,
    decision: Decision,
    rows: int,
    columns: int,
    dtype: torch.dtype,
    order: Tensor | None = None,
) -> Factors:
    """The tensors of a decision for one weight; computed in float64 and cast at the end.

    Args:
        source: the decomposed weight; of a slice, what is left of it.
        decision: any but the dense one.
        rows: outputs of the dense weight.
        columns: its inputs.
        dtype: of the floating tensors.
        order: int32 [outputs], the dense outputs that a slice leaves; None where all stay.

    Raises:
        DecompositionFailed: they cannot be made of this weight, or are not finite in ``dtype``.
        PlanError: such a weight cannot have the decision, or nothing carries it out.
    """
    made = carrier_of(decision).make(_rest(decision), source)
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in made.items()}
    factors = Factors(decision, rows, columns, tensors, order)
    if not factors.finite:
        raise DecompositionFailed(source.module, f"factors of {decision} overflow {dtype}")
    return factors


def _rest(decision: Decision) -> Decision:
    """What the carrier of a decision is told: of a slice, what becomes of the rest."""
    if isinstance(decision, Sliced) and not decision.rest.is_dense:
        return decision.rest
    return decision


def carrier_of(decision: Decision) -> type[Carrier] | type[SlicedLinear]:
    """The class of layers that carries out a decision; imported when it is first asked for.

    That of a slice is the one of what becomes of the rest.

    Raises:
        PlanError: the kind has none, or what it names is no such class.
    """
    decision = _rest(decision)
    kind = KINDS.find(decision.kind)
    module, _, name = kind.carrier.partition(":")
    if not kind.carrier:
        raise PlanError(f"{kind.name}: nothing replaces such a weight")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PlanError(
            f"{kind.name}: its layers, {kind.carrier}, cannot be imported: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Carrier | SlicedLinear)):
        raise PlanError(f"{kind.name}: {kind.carrier} is no gacfx.modules.carrier.Carrier")
    return found


def carrier_names() -> frozenset[str]:
    """Names of the classes of layers of the kinds in use, by which graphs show them."""
    carriers = (kind.carrier for kind in KINDS.values())  # a kind in a graph was asked for before
    return frozenset(carrier.rpartition(":")[2] for carrier in carriers if carrier)
