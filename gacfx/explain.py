"""Why a weight got its size: the plan's prices put on the candidates of one weight.

print(explain(plan, load_curves("curves.safetensors"), "model.layers.0.mlp.up_proj").held_by)

The plan carries one price, its multiplier lam: what one more parameter would save, in nats. A size
is worth ``-loss - lam * params``. What a plan would lose by another size, the parameters that it
frees or needs priced at lam, is the difference of the two. It can be a little below 0: the price is
that of the relaxation, and a plan fills its budget with whole ranks.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from gacfx import pipelines
from gacfx.core.curve_file import Curves
from gacfx.core.curves import Curve
from gacfx.core.pipeline import Pipeline
from gacfx.core.plan import Choice, Plan
from gacfx.core.search import Bound
from gacfx.errors import PlanError, PlanMismatch
from gacfx.passes.planning.sweep_candidates import SweepCandidates

Size = int | None
"""A rank; None is the dense weight."""


@dataclass(frozen=True, slots=True)
class Other:
    """Another size that the weight could have."""

    rank: Size
    loss_change_nats: float
    """Against the chosen size; above 0 it loses more."""
    params_change: int
    """Above 0 it needs more parameters."""
    reduced_cost_nats: float
    """What the plan would lose with it, parameters priced at the multiplier."""

    @property
    def nats_per_million_params(self) -> float:
        """What a million parameters are worth on the way to it."""
        if not self.params_change:
            return 0.0
        return -1e6 * self.loss_change_nats / self.params_change


@dataclass(frozen=True, slots=True)
class Hold:
    """Something that keeps the size from being another one."""

    by: str
    """budget, limits, break-even, contract, bound, window, or failure."""
    why: str
    gain_nats: float | None
    """What the plan would win without it, at the same price; None where no figure can be given."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The size of one weight, what it is worth and what holds it."""

    module: str
    rows: int
    columns: int
    rank: Size
    loss_nats: float
    params: int
    price: float
    """The multiplier in nats per million parameters: what the budget's last million saves."""
    smaller: Other | None
    """The next candidate with fewer parameters."""
    larger: Other | None
    """The next candidate with more parameters."""
    nearest: Other | None
    """Of a dense weight: the rank that comes closest to paying."""
    pays_at: float | None
    """Of a dense weight: the price, in nats per million parameters, from which a rank pays."""
    held_by: tuple[Hold, ...]
    notes: tuple[str, ...] = ()
    """What the price leaves out."""


def explain(plan: Plan, curves: Curves, module: str) -> Explanation:
    """Why ``module`` has its size in ``plan``.

    Args:
        plan: a plan with a proof.
        curves: those that it was made of.
        module: full name of a planned module.

    Raises:
        PlanError: no such module, or a plan without a price.
        PlanMismatch: the curves are not those of the plan.
    """
    choice = _choice(plan, module)
    if plan.proof is None:
        raise PlanError("the plan was not solved (ranks by formula), so it has no price to explain")
    curve = _curve(plan, curves, choice)
    seen = _Weight(curve, choice.rank, plan.proof.multiplier)
    offered = _offered(plan, choice, curve)
    others = sorted((seen.other(size) for size in offered), key=lambda o: o.params_change)
    below = [other for other in others if other.params_change < 0]
    above = [other for other in others if other.params_change > 0]
    nearest, pays_at = _nearest(seen, offered)
    return Explanation(
        module=module,
        rows=curve.rows,
        columns=curve.columns,
        rank=choice.rank,
        loss_nats=choice.loss_nats,
        params=choice.params,
        price=plan.proof.multiplier * 1e6,
        smaller=below[-1] if below else None,
        larger=above[0] if above else None,
        nearest=nearest,
        pays_at=pays_at,
        held_by=tuple(_holds(plan, choice, seen, offered)),
        notes=tuple(_left_out(plan)),
    )


@dataclass(frozen=True)
class _Weight:
    """Candidates of one weight at one price."""

    curve: Curve
    rank: Size
    multiplier: float

    def loss(self, size: Size) -> float:
        return 0.0 if size is None else float(self.curve.loss_nats[size])

    def params(self, size: Size) -> int:
        return self.curve.rows * self.curve.columns if size is None else self.curve.params(size)

    def other(self, size: Size) -> Other:
        loss = self.loss(size) - self.loss(self.rank)
        params = self.params(size) - self.params(self.rank)
        return Other(size, loss, params, loss + self.multiplier * params)

    def gain(self, sizes: list[Size]) -> float:
        """What the best of these sizes wins over the chosen one."""
        return max((-self.other(size).reduced_cost_nats for size in sizes), default=0.0)

    @property
    def top(self) -> int:
        """The largest rank that is smaller than the dense weight."""
        return min(self.curve.break_even, self.curve.rows, self.curve.columns)


def _choice(plan: Plan, module: str) -> Choice:
    known = {choice.module: choice for choice in plan.choices}
    if module in known:
        return known[module]
    if module in plan.refusals:
        raise PlanError(f"{module}: was left out before planning: {plan.refusals[module]}")
    inside = [name for name in known if name.endswith(f".{module}")]
    close = inside or get_close_matches(module, known, n=3, cutoff=0.5) or list(known)
    raise PlanError(f"{module}: the plan has no such module; it has {', '.join(close[:3])}, ...")


def _curve(plan: Plan, curves: Curves, choice: Choice) -> Curve:
    """The curve that the choice was made of."""
    facts, again = curves.facts, "save the curves with the plan (--save-curves)"
    if (
        facts.fingerprint != plan.fingerprint
        or facts.digests.get(choice.module) != plan.digests.get(choice.module)
        or choice.module not in (known := curves.curves)
    ):
        raise PlanMismatch(f"{choice.module}: plan and curves are of different models; {again}")
    curve = known[choice.module]
    if (curve.rows, curve.columns) != (choice.rows, choice.columns):
        raise PlanMismatch(
            f"{choice.module}: {choice.rows} x {choice.columns} in the plan, {curve.rows} x "
            f"{curve.columns} in the curves; {again}"
        )
    loss = choice.loss_nats
    if choice.rank is not None:
        loss = -1.0 if curve.failed else float(curve.loss_nats[choice.rank])
    if curves.value_model != plan.provenance.value_model or loss != choice.loss_nats:
        raise PlanMismatch(
            f"{choice.module}: the plan was made of other losses ({plan.provenance.value_model}) "
            f"than these curves hold ({curves.value_model}); {again}"
        )
    return curve


def _sweep(plan: Plan, choice: Choice) -> SweepCandidates:
    """The pass that listed the candidates; the plan's step has tensor parallelism in it already."""
    made = plan.provenance
    text = pipelines.planning(replace(made.search, tp=1, limits=()), "", made.align)
    steps = Pipeline.parse(text.removeprefix(",")).passes
    step = next(step for step in steps if isinstance(step, SweepCandidates))
    return replace(step, wanted=None if choice.wanted is None else {choice.module: choice.wanted})


def _bounds(plan: Plan, module: str) -> list[Bound]:
    return [b for b in plan.provenance.search.bounds if fnmatchcase(module, b.pattern)]


def _offered(plan: Plan, choice: Choice, curve: Curve) -> list[Size]:
    sizes, _ = _sweep(plan, choice).sizes(curve, _bounds(plan, choice.module))
    return list(sizes)


def _nearest(seen: _Weight, offered: list[Size]) -> tuple[Other | None, float | None]:
    """Of a dense weight, the rank with the least reduced cost, and the price at which one pays."""
    ranks = [size for size in offered if size is not None]
    if seen.rank is not None or not ranks:
        return None, None
    nearest = min((seen.other(rank) for rank in ranks), key=lambda o: o.reduced_cost_nats)
    dense = seen.params(None)
    return nearest, min(1e6 * seen.loss(rank) / (dense - seen.params(rank)) for rank in ranks)


def _holds(plan: Plan, choice: Choice, seen: _Weight, offered: list[Size]) -> list[Hold]:
    """What binds, each with what the plan would win without it."""
    found, rank = list[Hold](), choice.rank
    sweep, bounds = _sweep(plan, choice), _bounds(plan, choice.module)
    legal, _ = replace(sweep, window=0).sizes(seen.curve, [])
    inside, _ = replace(sweep, window=0).sizes(seen.curve, bounds)
    if choice.reason:
        by = "bound" if len(legal) > 1 else "failure" if seen.curve.failed else "contract"
        found.append(Hold(by, choice.reason, None))
    if seen.curve.failed:
        return found
    found += _spent(plan, seen, offered)
    now = max(0.0, seen.gain(offered))
    if (win := seen.gain(list(inside)) - now) > 0:
        found.append(Hold("window", f"only {len(offered)} sizes were offered", win))
    if (win := seen.gain(list(legal)) - max(0.0, seen.gain(list(inside)))) > 0:
        found.append(Hold("bound", " and ".join(map(str, bounds)), win))
    every = [*range(1, seen.top + 1), None]
    if (win := seen.gain(every) - max(0.0, seen.gain(list(legal)))) > 0:
        found.append(Hold("contract", f"ranks come in steps of {sweep.step}", win))
    ranks = [size for size in legal if size is not None]
    if rank is not None and ranks and rank == ranks[-1]:
        after = rank + sweep.step
        why = f"rank {after} would have as many parameters as the dense weight, or more"
        if after > min(seen.curve.rows, seen.curve.columns):
            why = f"rank {after} is above full rank"
        found.append(Hold("break-even", why, None))
    return found


def _spent(plan: Plan, seen: _Weight, offered: list[Size]) -> list[Hold]:
    """What keeps a size that loses less from being bought."""
    better = [other for size in offered if (other := seen.other(size)).loss_change_nats < 0]
    if not better:
        return []
    win = -min(other.loss_change_nats for other in better)
    room = plan.budget.limit_params - plan.kept_params
    needs = min(other.params_change for other in better)
    if needs > room:
        why = f"the next size that loses less needs {needs:,} parameters, {room:,} are left"
        return [Hold("budget", why, win)]
    if plan.limits or plan.rules:
        return [Hold("limits", "parameters are left, so a limit or a rule holds it", win)]
    return []


def _left_out(plan: Plan) -> list[str]:
    notes = [
        f"the plan also keeps a limit on {limit.name}; its price is not in the plan, so the "
        "reduced costs leave it out"
        for limit in plan.limits
    ]
    if plan.rules:
        notes.append(
            f"{plan.rules} rules tie weights to each other; the reduced costs are those of this "
            "weight alone"
        )
    return notes
