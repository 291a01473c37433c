"""A plan: what becomes of every group of weights, under which budget, with which proof.

Plans are keyed by module names, never by graph nodes, so that one plan applies to the
Hugging Face module, to an exported graph and to a checkpoint alike. ``plan.json`` is this value as
JSON; unknown versions, kinds of decisions and fields are refused.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from gacfx.core.decision import Decision
from gacfx.core.goal import Unit, Whole
from gacfx.core.kinds import read_decision
from gacfx.core.names import is_group_name, is_module_name, odd_text, printable
from gacfx.core.plain import plain
from gacfx.core.plan_versions import READS, VERSION, upgraded
from gacfx.core.provenance import Provenance
from gacfx.core.pruning import Heads, Skip, odd_parts
from gacfx.core.shared_basis import odd_loans
from gacfx.errors import PlanError


@dataclass(frozen=True, slots=True)
class Weight:
    """A dense weight that a plan speaks of."""

    module: str
    """Name of its module, for example ``model.layers.0.mlp.up_proj``."""
    rows: int
    """Output features."""
    columns: int
    """Input features."""

    @property
    def params(self) -> int:
        """Parameters of the dense weight."""
        return self.rows * self.columns

    @property
    def shape(self) -> str:
        """``1024 x 4096``."""
        return f"{self.rows} x {self.columns}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision for one group: weights that are decided together."""

    group: str
    """Name of the group; that of its module where there is one weight only."""
    weights: tuple[Weight, ...]
    decision: Decision
    wanted: float | None
    """d*: the rank that the compressor would take by itself."""
    loss_nats: float
    """Estimated rise of the task loss, nats per token, in the value model of the plan."""
    reason: str = ""
    """Why it was left dense, when that was not the planner's free choice."""
    lacks: dict[str, str] = field(default_factory=dict)
    """Kind of decision -> why the weights cannot have it."""

    @staticmethod
    def single(
        module: str,
        rows: int,
        columns: int,
        decision: Decision,
        wanted: float | None,
        loss_nats: float,
        reason: str = "",
    ) -> "Choice":
        """The choice of a weight that is a group by itself."""
        weights = (Weight(module, rows, columns),)
        return Choice(module, weights, decision, wanted, loss_nats, reason)

    @property
    def module(self) -> str:
        """Name of the module, where the group is one weight; else that of the group."""
        return self.weights[0].module if len(self.weights) == 1 else self.group

    @property
    def decisions(self) -> dict[str, Decision]:
        """Module -> its part of the decision."""
        return {weight.module: self.decision.of(at) for at, weight in enumerate(self.weights)}

    @property
    def shape(self) -> str:
        """``1024 x 4096``; how many weights where there are several."""
        if len(self.weights) > 1:
            return f"{len(self.weights)} weights"
        return self.weights[0].shape

    @property
    def rank(self) -> int | None:
        """Rank of what stands for the weight; None where that is no product."""
        return self.decision.rank

    @property
    def params(self) -> int:
        """Parameters that this choice keeps."""
        parts = self.decisions
        return sum(parts[w.module].params(w.rows, w.columns) for w in self.weights)

    @property
    def dense_params(self) -> int:
        """Parameters of the dense weights."""
        return sum(weight.params for weight in self.weights)


@dataclass(frozen=True, slots=True)
class Budget:
    """How many parameters may be kept, and what was asked for."""

    amount: str
    """As it was asked for: ``0.2`` as a ratio, ``6.5G`` parameters, ``12GiB`` of weights. Text, so
    that no rounding hides in it."""
    ratio_of: Whole
    """What the amount counts: the targeted weights, or the whole model."""
    targeted_params: int
    """Parameters of all targeted weights, dense."""
    model_params: int
    """Parameters of the whole model, dense; tied weights counted once."""
    limit_params: int
    """Most parameters that the targeted weights may keep."""
    unit: Unit = "ratio"
    """What the amount is: a share to remove, or parameters or bytes that may remain."""

    @property
    def ratio(self) -> str:
        """Share to remove: the one that was asked for, or what the amount comes to, rounded."""
        if self.unit == "ratio":
            return self.amount
        whole = self.targeted_params if self.ratio_of == "targeted" else self.model_params
        kept = self.limit_params + whole - self.targeted_params
        return f"{1 - kept / max(whole, 1):.4f}"

    @property
    def asked(self) -> str:
        """``ratio 0.2 of the targeted weights``, ``6.5G parameters of the model``."""
        if self.unit == "params":
            return f"{self.amount} parameters of the {self.ratio_of}"
        if self.unit == "bytes":
            return f"{self.amount} of weights of the {self.ratio_of}"
        return f"ratio {self.amount} of the {self.ratio_of} weights"


@dataclass(frozen=True, slots=True)
class LimitKept:
    """A second budget, and what the plan spends of it."""

    name: str
    most: int
    spent: int
    unit: str = ""
    """What is counted: ``ns``, for example."""
    dense: int | None = None
    """What the dense weights would spend; None where the limit is no share of that."""
    source: str = ""
    """Where the numbers come from, and for which workload."""
    multiplier: float | None = None
    """Of the proof: nats for each unit counted; None in plans that did not keep it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the solver claims and what lets anybody check it (reference: Lagrangian bound)."""

    status: Literal["optimal", "bounded"]
    value: float
    bound: float
    gap: float
    multiplier: float
    """Of the budget; those of limits stand beside them."""
    usable_budget: int
    rounding_bound: float
    certified_gap: float
    """Bound minus value as an independent checker in exact rationals computed it."""
    candidates: int
    seconds: float | None = field(default=None, compare=False)
    """What choosing took; no part of the plan, so that equal plans make equal files."""
    solver: str = "core"
    """Who chose: core, dp and ilp are exact, greedy and round are rules of thumb."""


@dataclass(frozen=True)
class Plan:
    """Every choice, with budget, proof and provenance."""

    choices: tuple[Choice, ...]
    budget: Budget
    proof: Proof | None
    provenance: Provenance
    fingerprint: str = ""
    """Architecture lock: digest of the names and shapes of the model's parameters."""
    digests: dict[str, str] = field(default_factory=dict)
    """Weights lock: module name -> sha256 of the dense weight that its factors were made of."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Module name -> why it was left out before planning."""
    unpruned: dict[str, str] = field(default_factory=dict)
    """Structure -> why nothing of it could be pruned, where pruning was asked for."""
    limits: tuple[LimitKept, ...] = ()
    """Second budgets that the plan keeps."""
    rules: int = 0
    """Rules between weights that the plan keeps."""
    version: int = VERSION

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }

    @property
    def weights(self) -> dict[str, Weight]:
        """Module name -> dense weight, of everything that was planned."""
        return {weight.module: weight for choice in self.choices for weight in choice.weights}

    @property
    def decisions(self) -> dict[str, Decision]:
        """Module name -> decision, for the modules that are replaced."""
        return {
            module: decision
            for choice in self.choices
            for module, decision in choice.decisions.items()
            if not decision.is_dense
        }

    @property
    def blocks(self) -> dict[str, Heads | Skip]:
        """Module of an attention or MLP -> what becomes of it as a whole; widths of an MLP show in
        its weights alone."""
        found = {choice.group: choice.decision for choice in self.choices}
        return {name: one for name, one in found.items() if isinstance(one, Heads | Skip)}

    @property
    def ranks(self) -> dict[str, int]:
        """Module name -> rank, for the modules that become a product of a rank."""
        return {m: d.rank for m, d in self.decisions.items() if d.rank is not None}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The dims that all decisions make, which should be aligned."""
        shapes = self.weights
        return tuple(
            size
            for module, decision in self.decisions.items()
            for size in decision.sizes(shapes[module].rows, shapes[module].columns)
        )

    @property
    def counts(self) -> dict[str, int]:
        """Kind of decision -> weights that have it, dense ones last."""
        kinds = Counter(decision.kind for decision in self.decisions.values())
        return {**dict(sorted(kinds.items())), "dense": len(self.weights) - kinds.total()}

    @property
    def kept_params(self) -> int:
        """Parameters that the targeted weights keep."""
        return sum(c.params for c in self.choices)

    @property
    def active_params(self) -> int:
        """Parameters of the targeted weights that a token is multiplied with: those of them that
        its prompt picked."""
        return sum(
            decision.active_params(weight.rows, weight.columns)
            for choice in self.choices
            for weight, decision in zip(choice.weights, choice.decisions.values(), strict=True)
        )

    @property
    def loss_nats(self) -> float:
        """Estimated rise of the task loss, nats per token."""
        return sum(c.loss_nats for c in self.choices)

    def to_json(self) -> str:
        """JSON text, keys in a fixed order; ``from_json`` gives the same plan back.

        Raises:
            PlanError: names or texts that ``from_json`` would refuse.
            ValueError: NaN or infinity.
        """
        _check_texts(self, "the plan")
        raw = plain(self)
        if self.proof is not None:
            del raw["proof"]["seconds"]
        return json.dumps(raw, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, *, where: str = "plan.json") -> "Plan":
        """The plan written in ``text``.

        Raises:
            PlanError: not JSON, an unknown version, an unknown or missing field, a wrong type.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{where} is not JSON: {error}") from error
        version = raw.get("version") if isinstance(raw, dict) else None
        if type(version) is not int or version not in READS:
            said = printable(repr(version))
            reads = " and ".join(map(str, READS))
            raise PlanError(f"{where}: plan version {said}; this gacfx reads {reads}")
        if odd := odd_text(raw):
            raise PlanError(f"{where}: {odd}; make the plan again")
        plan = _read(upgraded(raw) if version < VERSION else raw, where)
        _check(plan, where)
        return plan


def _read(raw: dict[str, Any], where: str) -> Plan:
    """The plan of JSON values; decisions are read by the table of their kinds.

    Raises:
        PlanError: an unknown kind of decision, an unknown or missing field, a wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    choices = raw.get("choices")
    for number, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict) and "decision" in choice:
            try:
                read_decision(choice["decision"])
            except PlanError as error:
                name = printable(str(choice.get("group", number)))
                raise PlanError(f"{where}: {name}: {error}{_writer(raw)}") from error
    try:
        return TypeAdapter(Plan).validate_json(json.dumps(raw))
    except PlanError as error:
        raise PlanError(f"{where}: provenance.search: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        spot = ".".join(map(str, first["loc"]))
        raise PlanError(f"{where}: {spot}: {first['msg']}") from error


def _writer(raw: dict[str, Any]) -> str:
    """Who wrote the plan, where it says so."""
    made = raw.get("provenance")
    versions = made.get("versions") if isinstance(made, dict) else None
    by = versions.get("gacfx") if isinstance(versions, dict) else None
    return f" (the plan was written by gacfx {printable(by, 40)})" if isinstance(by, str) else ""


def _check_texts(plan: Plan, where: str) -> None:
    modules = (*plan.weights, *plan.digests, *plan.refusals)
    groups = (*plan.unpruned, *plan.provenance.corrections)
    groups += tuple(choice.group for choice in plan.choices)
    bad = [name for name in modules if not is_module_name(name)]
    bad += [name for name in groups if not is_group_name(name)]
    if bad:
        raise PlanError(f"{where}: '{printable(bad[0])}' is no name of a module")
    if odd := odd_text(plain(plan)):
        raise PlanError(f"{where}: {odd}; make the plan again")


def _check(plan: Plan, where: str) -> None:
    _check_texts(plan, where)
    if plan.provenance.align < 1:
        raise PlanError(f"{where}: provenance.align: {plan.provenance.align} is no step of ranks")
    for name, factor in plan.provenance.corrections.items():
        if not factor > 0:
            raise PlanError(f"{where}: provenance.corrections: {name}: {factor} is not above 0")
    seen, groups = set[str](), set[str]()
    for choice in plan.choices:
        if choice.group in groups:
            raise PlanError(f"{where}: {choice.group} is planned twice")
        groups.add(choice.group)
        problem = odd_parts(choice.decision, [(w.rows, w.columns) for w in choice.weights])
        if problem := problem if choice.weights else "a group without weights":
            raise PlanError(f"{where}: {choice.group}: {problem}")
        for at, weight in enumerate(choice.weights):
            module, shape = weight.module, (weight.rows, weight.columns)
            if module in seen:
                how = "lists a weight twice" if len(choice.weights) > 1 else "is planned twice"
                raise PlanError(f"{where}: {choice.group}: {how}: {module}")
            seen.add(module)
            if min(shape) < 1:
                raise PlanError(f"{where}: {module}: rows and columns must be positive")
            if problem := choice.decision.of(at).problem(*shape):
                raise PlanError(f"{where}: {module}: {problem}")
        own = {weight.module: (weight.rows, weight.columns) for weight in choice.weights}
        if odd := odd_loans(choice.decisions, own):
            raise PlanError(f"{where}: {': '.join(odd)}")
