"""A plan: which size every group gets, under which budget, with which proof. Integers and floats.

Plans are keyed by module name and axis, never by graph nodes, so that one plan applies to the
Hugging Face module, to an exported graph and to a checkpoint alike. ``plan.json`` is this value as
JSON; unknown versions and unknown fields are refused.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

from gacfx.core.goal import Unit, Whole
from gacfx.core.names import is_module_name, odd_text, printable
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.errors import PlanError

VERSION = 2


@dataclass(frozen=True, slots=True)
class Choice:
    """The rank of one weight, or the decision to keep it dense."""

    module: str
    """Name of the module whose weight this is, for example ``model.layers.0.mlp.up_proj``."""
    rows: int
    """Output features of the dense weight."""
    columns: int
    """Input features of the dense weight."""
    rank: int | None
    """Chosen rank; None keeps the weight dense."""
    wanted: float | None
    """d*: the rank that the compressor would take by itself."""
    loss_nats: float
    """Estimated rise of the task loss, nats per token, in the value model of the plan."""
    reason: str = ""
    """Why it was left dense, when that was not the planner's free choice."""

    @property
    def params(self) -> int:
        """Parameters that this choice keeps."""
        if self.rank is None:
            return self.rows * self.columns
        return self.rank * (self.rows + self.columns)

    @property
    def dense_params(self) -> int:
        """Parameters of the dense weight."""
        return self.rows * self.columns


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
    seconds: float
    solver: str = "core"
    """Who chose: core, dp and ilp are exact, greedy and round are rules of thumb."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan made under one value model, judged on held-back calibration text."""

    value_model: str
    nats_per_token: float | None
    """None when the model gave NaN or infinity with it."""
    chosen: bool
    promised_nats: float | None = None
    """Rise of the loss that the value model promised for it; None for one that counts no nats."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plan comes from."""

    method: str
    value_model: str
    gpu: str
    align: int
    """Every rank is a multiple of this: alignment, tensor parallelism and format together."""
    dtype: str
    versions: dict[str, str] = field(default_factory=dict)
    calibration_tokens: int = 0
    calibration_digest: str = ""
    seed: int = 0
    dense_nats_per_token: float | None = None
    """Loss of the dense model on the same held-back text as the trials."""
    trials: tuple[Trial, ...] = ()
    search: Search = DEFAULT_SEARCH
    """What was searched."""


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
    def ranks(self) -> dict[str, int]:
        """Module name -> rank, for the modules that are factorized."""
        return {c.module: c.rank for c in self.choices if c.rank is not None}

    @property
    def kept_params(self) -> int:
        """Parameters that the targeted weights keep."""
        return sum(c.params for c in self.choices)

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
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, *, where: str = "plan.json") -> "Plan":
        """The plan written in ``text``.

        Raises:
            PlanError: not JSON, an unknown version, an unknown or missing field, a wrong type.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{where} is not JSON: {error}") from error
        version = raw.get("version") if isinstance(raw, dict) else None
        if type(version) is not int or version != VERSION:
            said = printable(repr(version))
            raise PlanError(f"{where}: plan version {said}; this gacfx reads {VERSION}")
        if odd := odd_text(raw):
            raise PlanError(f"{where}: {odd}; make the plan again")
        try:
            plan = TypeAdapter(Plan).validate_json(text)
        except PlanError as error:
            raise PlanError(f"{where}: provenance.search: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            spot = ".".join(map(str, first["loc"]))
            raise PlanError(f"{where}: {spot}: {first['msg']}") from error
        _check(plan, where)
        return plan


def _check_texts(plan: Plan, where: str) -> None:
    for name in (*(choice.module for choice in plan.choices), *plan.digests, *plan.refusals):
        if not is_module_name(name):
            raise PlanError(f"{where}: '{printable(name)}' is no name of a module")
    if odd := odd_text(asdict(plan)):
        raise PlanError(f"{where}: {odd}; make the plan again")


def _check(plan: Plan, where: str) -> None:
    _check_texts(plan, where)
    seen: set[str] = set()
    for choice in plan.choices:
        if choice.module in seen:
            raise PlanError(f"{where}: {choice.module} is planned twice")
        seen.add(choice.module)
        if min(choice.rows, choice.columns) < 1:
            raise PlanError(f"{where}: {choice.module}: rows and columns must be positive")
        if choice.rank is not None and not 1 <= choice.rank <= min(choice.rows, choice.columns):
            raise PlanError(
                f"{where}: {choice.module}: rank {choice.rank} is outside 1 .. "
                f"{min(choice.rows, choice.columns)}"
            )
