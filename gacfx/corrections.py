"""Corrections: what the parts of a plan cost in the model, over what their curves promised.

A curve tells what its weight costs alone, as far as moments of the calibration text can tell it. In
the model errors meet each other, and text that was not seen costs more than text that was; both
differ between layers by factors of four. So the planned factors are installed, each part is made
dense again in turn, and the divergence from the dense model that this saves, over the loss that was
promised, becomes a factor of the curves of that part. The next plan is made from those.

Source: the multiplicative correction of a model that is cheap to minimise by one that is not
(Alexandrov and Lewis 2001), with a factor for each part. Measured by ``benchmarks.pruning``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite

from torch import nn

from gacfx.calibration.divergence import Reference
from gacfx.compressors.values import TRIED, VALUES
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.structures import Structure
from gacfx.errors import PlanError
from gacfx.modules.install import swapped

PARTS = 32
"""Parts at most, or one of each kind; neighbours of a kind are measured together if there are
more."""
TOKENS = 2048
"""Text that each part is measured on; about, as windows stay whole."""
MOST = 4.0
"""Between the factors of two rounds."""
STEP = 0.7
"""Exponent of a measured factor: a plan that flees a part makes others dear that were cheap."""
NOISE = 0.02
"""Share of the mean divergence of a part that is no difference to speak of."""
LEAST_RISE = 1 / 3
"""Of the loss of held-back text, as a share of the divergence; a smaller one is chance."""
ROUNDING = 1e-7
"""Nats per token that float32 makes of nothing: no more than this is no divergence."""

Corrections = dict[str, float]
"""Structure or module -> factor of its losses."""
Solve = Callable[[Mapping[str, float]], Planned]
"""The plan from corrected curves."""
Measure = Callable[[Planned, frozenset[str]], float]
"""Divergence with a plan, of which these modules are dense again, nats per token."""


@dataclass
class Part:
    """What is measured together."""

    kind: str
    """The last component of its name: ``mlp``."""
    names: set[str] = field(default_factory=set)
    """Structures and modules whose losses it has."""
    modules: set[str] = field(default_factory=set)


def parts_of(plan: Plan, structures: tuple[Structure, ...], most: int = PARTS) -> list[Part]:
    """The weights of a plan, those of a structure together, in its order.

    Args:
        plan: every weight of it is in one part.
        structures: of the model; others' weights are parts of their own.
        most: parts; reached by joining neighbours of a kind, so every kind has at least one.
    """
    owners = {module: each.name for each in structures for module in each.modules}
    # A weight may stand in two structures, of which one is refused.
    owners |= {w.module: c.group for c in plan.choices if len(c.weights) > 1 for w in c.weights}
    found: dict[str, Part] = {}
    for choice in plan.choices:
        for module in (weight.module for weight in choice.weights):
            name = owners.get(module, module)
            part = found.setdefault(name, Part(name.rpartition(".")[2]))
            part.names |= {name, choice.group, module}
            part.modules.add(module)
    kinds: dict[str, list[Part]] = {}
    for part in found.values():
        kinds.setdefault(part.kind, []).append(part)
    longest = max(map(len, kinds.values()), default=1)
    sizes = (s for s in range(1, longest) if sum(-(-len(p) // s) for p in kinds.values()) <= most)
    size = next(sizes, longest)
    return [
        _together(parts[at : at + size])
        for parts in kinds.values()
        for at in range(0, len(parts), size)
    ]


def _together(parts: list[Part]) -> Part:
    names, modules = (set[str]().union(*sets) for sets in zip(*map(_sets, parts), strict=True))
    return Part(parts[0].kind, names, modules)


def _sets(part: Part) -> tuple[set[str], set[str]]:
    return part.names, part.modules


def check_in_nats(search: Search) -> None:
    """Nothing if what is measured can correct the losses that are asked for.

    Raises:
        PlanError: corrections of a value model that counts no nats.
        PipelineError: no such value model.
    """
    if search.corrections and search.value != "auto" and not VALUES.find(search.value).in_nats:
        raise PlanError(
            f"corrections are measured in nats, and value model {search.value!r} counts others; "
            f"take value {TRIED[0]!r}, or no corrections"
        )


def correct(
    solve: Solve, measure: Measure, structures: tuple[Structure, ...], rounds: int
) -> Corrections:
    """Those whose plan diverges least, times a common factor, so that the plan promises what it was
    seen to cost.

    Args:
        solve: makes a plan.
        measure: tells what it costs.
        structures: of the model.
        rounds: plans after the first one; none is made where a model gives no numbers, or diverges
            by rounding alone.
    """
    known: Corrections = {}
    made = solve(known)
    whole = measure(made, frozenset())
    best = (whole, known, made)
    for _ in range(rounds):
        if not ROUNDING < whole < inf:
            break
        known = _next(known, made, measure, structures, whole)
        before, made = made.plan, solve(known)
        if _decided(made.plan) != _decided(before):
            whole = measure(made, frozenset())
        if whole <= best[0]:
            best = (whole, known, made)
    least, known, made = best
    if not (ROUNDING < least < inf and made.plan.loss_nats > 0):
        return known
    names = set[str]().union(*(part.names for part in parts_of(made.plan, structures)))
    level = least / made.plan.loss_nats
    return {name: known.get(name, 1.0) * level for name in sorted(names)}


def as_seen(corrections: Corrections, promised: float, rise: float) -> Corrections:
    """The same times a factor, so that the plan promises the rise that it was seen to bring.

    Text that people wrote costs less than the divergence from the dense model, in which the parts
    are measured because that is far less noisy: of SmolLM2 40 to 77 % of it
    (``benchmarks/results/pruning_smollm2.json``). So it is no less than
    a share of it.

    Args:
        corrections: as :func:`correct` made them.
        promised: by their plan, nats per token.
        rise: of the loss with it on held-back text, nats per token; may be no number.
    """
    if not (promised > 0 and isfinite(rise)):
        return corrections
    factor = max(rise, LEAST_RISE * promised) / promised
    return {name: factor * each for name, each in corrections.items()}


def divergence(
    model: nn.Module, reference: Reference, made: Planned, dense: frozenset[str]
) -> float:
    """Divergence of a model with a plan, of which some modules are dense, nats per token.

    Args:
        model: dense; left as it was.
        reference: its predictions.
        made: the plan.
        dense: whole parts of it.
    """
    factors = {name: each for name, each in made.factors.items() if name not in dense}
    blocks = {
        choice.group: made.plan.blocks[choice.group]
        for choice in made.plan.choices
        if choice.group in made.plan.blocks and not dense & {w.module for w in choice.weights}
    }
    with swapped(model, factors, blocks):
        return reference.divergence(model)


def _decided(plan: Plan) -> dict[str, object]:
    return {choice.group: choice.decision for choice in plan.choices}


def _next(
    known: Corrections,
    made: Planned,
    measure: Measure,
    structures: tuple[Structure, ...],
    whole: float,
) -> Corrections:
    """Corrections after one plan was measured."""
    plan, parts = made.plan, parts_of(made.plan, structures)
    promised = {choice.group: choice.loss_nats for choice in plan.choices}
    noise = NOISE * whole / len(parts)
    usual = _factor(whole, plan.loss_nats, noise)
    found = dict(known)
    for part in parts:
        loss = sum(promised.get(name, 0.0) for name in part.names)
        factor = usual
        if loss > 0:
            saved = whole - measure(made, frozenset(part.modules))
            factor = _factor(saved, loss, noise)
        for name in part.names:
            found[name] = known.get(name, 1.0) * factor**STEP
    return found


def _factor(measured: float, promised: float, noise: float) -> float:
    if not promised + noise > 0:
        return 1.0
    factor = (max(measured, 0.0) + noise) / (promised + noise)
    return min(max(factor, 1 / MOST), MOST) if factor < inf else MOST
