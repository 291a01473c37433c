"""A search: which sizes are offered to the planner, what each is worth, and who chooses.

It is one value that travels from the command line to the passes and into ``plan.json``, so that a
plan says how it was found. The names of everything that can be asked for stand here; what they mean
stands with the passes and in :mod:`gacfx.hardware.contracts`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple, get_args

from gacfx.core.kinds import KINDS
from gacfx.errors import PlanError

Candidates = Literal["full", "window"]
Form = Literal["auto", "pair", "pivot"]
Prune = Literal["none", "only", "either", "both", "cautious", "auto"]
MENUS: tuple[Prune, ...] = ("either", "both", "cautious")
"""What ``auto`` tries of pruning; the best one on held-back text is kept."""
Solver = Literal["core", "dp", "ilp", "cbc", "highs", "greedy", "round"]
Quant = Literal["fp8", "int8", "int4-g128", "mxfp8", "nvfp4", "2:4"]
COARSE: tuple[Quant, ...] = ("int4-g128", "nvfp4")
"""Formats of 4 bits: the coefficients of pivots multiply what a product was rounded by, so ``auto``
stands for pairs (``benchmarks.equal_bytes``)."""

MOST_CORRECTIONS = 16
"""Rounds of corrections; three are what ``benchmarks.pruning`` takes."""
FORBIDDEN = frozenset(" \t\n;={}")
"""Characters that would end an option of a pipeline text."""
RULES_OF_THUMB: tuple[Solver, ...] = ("greedy", "round")
"""Solvers that know neither limits nor rules."""
LIMITS_KEPT: tuple[Solver, ...] = ("core", "ilp", "cbc", "highs")
"""Solvers that keep a second budget, and that can be told when to stop."""


class Bound(NamedTuple):
    """Ranks that matching weights may have, or channels or key-value heads that matching MLPs and
    attentions may keep.

    What stays dense of a weight counts as rank min(rows, columns), and what goes with its block as
    0: a bound on a weight or on its block keeps the block.
    """

    pattern: str
    """Of module names, for example ``*.k_proj``, or ``*.mlp`` where that is pruned."""
    least: int = 1
    most: int | None = None
    """None: no upper end, so the dense weight stays possible."""

    @staticmethod
    def parse(text: str) -> "Bound":
        """The bound written as ``PATTERN=LEAST:MOST``; either number may be left out.

        Raises:
            PlanError: it cannot be read.
        """
        pattern, equals, numbers = text.rpartition("=")
        least, colon, most = numbers.partition(":")
        try:
            if not (equals and colon):
                raise ValueError
            found = Bound(pattern, int(least or 1), int(most) if most else None)
        except ValueError:
            raise PlanError(
                f"bound {text!r}: write PATTERN=LEAST:MOST, for example '*.k_proj=64:512'"
            ) from None
        return found.checked()

    def checked(self) -> "Bound":
        """The bound itself.

        Raises:
            PlanError: no pattern, a number that is no rank, or an empty range.
        """
        most = self.least if self.most is None else self.most
        if not isinstance(self.pattern, str) or not self.pattern or FORBIDDEN & {*self.pattern}:
            raise PlanError(
                f"bound {self.pattern!r}: the pattern must be text without blanks or any of ;={{}}"
            )
        if type(self.least) is not int or type(most) is not int or not 1 <= self.least <= most:
            raise PlanError(
                f"bound {self}: ranks are whole numbers with 1 <= LEAST <= MOST, such as 64:512"
            )
        return self

    def holds(self, rank: int) -> bool:
        """Is this rank inside?"""
        return self.least <= rank and (self.most is None or rank <= self.most)

    def __str__(self) -> str:
        return f"{self.pattern}={self.least}:{'' if self.most is None else self.most}"


@dataclass(frozen=True)
class Search:
    """How the sizes of a plan are searched.

    ``Search()`` is the best that gacfx can do: every aligned rank, losses in nats, solved exactly.

    Raises:
        PlanError: a name or number that is not known, or a combination that cannot be.
    """

    align: int | None = None
    """Multiple of every rank; None for the one that the profile prefers."""
    value: str = "auto"
    """Value model: ``auto`` tries four on held-back text; ``paper`` is Eq. 4 of GAC-v2. Other
    packages may bring more, so the name is looked up by whoever makes the losses."""
    candidates: Candidates = "full"
    """Every rank that saves parameters, or a window around the compressor's own rank."""
    window: int = 8
    """Ranks in the window."""
    form: str = "auto"
    """How a product of low rank is stored: as a pair of factors, with pivots (fewer parameters for
    the same product), or the better one, of :data:`COARSE` formats the pair; or the name of a kind
    from another package."""
    prune: Prune = "none"
    """What may become of coupled structures (MLPs, attentions): ``only`` sizes, and no ranks at
    all; ``either`` a size or ranks; ``both`` at once as well; ``cautious`` the same with the loss
    of ranks on top of a size counted twice, since errors that stack on each other grow; ``auto``
    for the best of the last three, and of ranks alone, on held-back text; ``none`` for those."""
    corrections: int = 0
    """Rounds in which the parts of the plan are taken back in the model one by one, and the curves
    corrected by what that saves; a forward pass over 2,048 tokens for each part (at most 32)."""
    solver: Solver = "core"
    tp: int = 1
    """Devices that share the rank of a pair (tensor parallelism); each gets an aligned part."""
    quant: Quant | None = None
    """Format that the weights shall be stored in afterwards; sizes are kept legal for it."""
    bounds: tuple[Bound, ...] = ()
    """Ranks of matching weights; plain tuples (pattern, least, most) will do."""
    uniform: bool = False
    """One rank for all layers of the same kind of projection."""
    limits: tuple[str, ...] = ()
    """Passes that add limits or rules, as pipeline text: ``limit-latency{share=0.9}``."""
    gap: float | None = None
    """Stop once the plan is so close to the best one; nats, or what the value model counts. Several
    limits are an integer program, which knows no gap."""
    time_limit: float | None = None
    """Seconds after which a solver stops with what it has."""

    def __post_init__(self) -> None:
        for name, known in _NAMES.items():
            _known(name, getattr(self, name), known)
        if not isinstance(self.value, str) or not self.value or FORBIDDEN & {*self.value}:
            raise PlanError(f"value {self.value!r}: must be the name of a value model")
        if self.quant is not None:
            _known("quant", self.quant, get_args(Quant))
        for name, count in (("align", self.align or 1), ("window", self.window), ("tp", self.tp)):
            if type(count) is not int or count < 1 or (name == "align" and self.align == 0):
                raise PlanError(f"{name} {getattr(self, name)!r}: must be a whole number above 0")
        if type(self.corrections) is not int or not 0 <= self.corrections <= MOST_CORRECTIONS:
            raise PlanError(
                f"corrections {self.corrections!r}: must be a whole number of rounds, 0 .. "
                f"{MOST_CORRECTIONS}"
            )
        if type(self.uniform) is not bool:
            raise PlanError(f"uniform {self.uniform!r}: must be True or False")
        object.__setattr__(self, "bounds", _bounds(self.bounds))
        object.__setattr__(self, "limits", _steps(self.limits))
        for name in ("gap", "time_limit"):
            if (amount := getattr(self, name)) is not None:
                object.__setattr__(self, name, _amount(name, amount))
        self._check_solver()
        self._check_form()
        self._check_prune()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of decisions that are offered beside the dense weight."""
        return kinds_of(self.form, pairs_only=bool(self.pairs_only) or self.quant in COARSE)

    @property
    def pairs_only(self) -> str:
        """Why nothing but a pair can be taken; empty if something else can."""
        if self.tp > 1:
            return f"tp {self.tp} splits ranks, and pivots cannot be split"
        if self.solver in RULES_OF_THUMB:
            return f"solver {self.solver!r} starts from the rank of a pair"
        return ""

    def _check_form(self) -> None:
        if self.form not in get_args(Form):
            try:
                KINDS.find(self.form)
            except PlanError as error:
                forms = ", ".join(get_args(Form))
                raise PlanError(f"form is none of {forms}, and {error}") from error
        if self.kinds != _KINDS["pair"] and self.pairs_only:
            raise PlanError(f"form {self.form!r}: {self.pairs_only}; take form 'pair'")

    def _check_prune(self) -> None:
        """Refuse what cannot go together with pruning."""
        if self.prune == "none":
            return
        if self.solver in RULES_OF_THUMB:
            raise PlanError(
                f"prune {self.prune!r}: the solvers {' and '.join(RULES_OF_THUMB)} start from a "
                "rank; take solver 'core', or prune 'none'"
            )
        if self.candidates != "full" and (self.prune != "only" or self.value != "paper"):
            raise PlanError(
                f"prune {self.prune!r}: a window stands around a method's own widths, which follow "
                "from its scores; take candidates 'full', or prune 'only' and value 'paper'"
            )
        if self.uniform and self.prune != "only":
            raise PlanError(
                f"prune {self.prune!r}: one size for all layers (uniform) goes with prune 'only'"
            )

    def _check_solver(self) -> None:
        """Refuse before any work what the solver would refuse after it."""
        limiting = [step for step in self.limits if step.startswith("limit-")]
        if limiting and self.solver not in LIMITS_KEPT:
            raise PlanError(
                f"solver {self.solver!r} knows one budget and cannot keep {limiting[0]}; "
                "take core or ilp"
            )
        if self.gap is not None and self.solver != "core":
            raise PlanError(f"solver {self.solver!r} cannot stop at a gap; take core")
        if self.time_limit is not None and self.solver not in LIMITS_KEPT:
            raise PlanError(f"solver {self.solver!r} knows no time limit; take core or ilp")
        if self.uniform and self.solver in RULES_OF_THUMB:
            raise PlanError(
                f"solver {self.solver!r} cannot hold layers to one rank (uniform); "
                "take core, dp or ilp"
            )

    @staticmethod
    def paper(prune: Prune = "none") -> "Search":
        """GAC-v2: Eq. 4 in a window around the method's own ranks, by its dynamic program.

        In exact form: one candidate for each weight, costs not rounded. Algorithm 1 as printed
        does neither.

        Args:
            prune: ``only`` for a method that makes widths instead of ranks.
        """
        return Search(value="paper", candidates="window", solver="dp", form="pair", prune=prune)


def kinds_of(form: str, *, pairs_only: bool = False) -> tuple[str, ...]:
    """Kinds of decisions that a form stands for; ``auto`` is as many as there can be."""
    if form == "auto":
        return _KINDS["pair"] if pairs_only else (*_KINDS["pair"], *_KINDS["pivot"])
    return _KINDS.get(form, (form,))


_KINDS = {"pair": ("low-rank",), "pivot": ("pivot",)}
"""Form -> kinds of decisions."""
_NAMES: dict[str, tuple[str, ...]] = {
    "candidates": get_args(Candidates),
    "solver": get_args(Solver),
    "prune": get_args(Prune),
}


def _known(what: str, name: object, known: tuple[str, ...]) -> None:
    if name not in known:
        raise PlanError(f"no {what} {name!r}; known: {', '.join(known)}")


def _amount(what: str, given: Any) -> float:
    real = isinstance(given, int | float) and not isinstance(given, bool)
    if not (real and isfinite(given) and given > 0):
        raise PlanError(f"{what} {given!r}: must be a finite number above 0, or None for none")
    return float(given)


def _bounds(given: Any) -> tuple[Bound, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise PlanError(f"bounds {given!r}: give a tuple of them, for example ('*.k_proj=64:512',)")
    return tuple(map(_bound, given))


def _bound(given: Any) -> Bound:
    try:
        bound = Bound(*given) if not isinstance(given, str) else Bound.parse(given)
    except TypeError:
        raise PlanError(
            f"bound {given!r}: give (pattern, least, most), for example ('*.k_proj', 64, 512)"
        ) from None
    return bound.checked()


def _steps(given: Any) -> tuple[str, ...]:
    if not isinstance(given, Iterable):
        raise PlanError(f"limits {given!r}: give passes, such as ('limit-latency{{share=0.9}}',)")
    steps = (given,) if isinstance(given, str) else tuple(given)
    for step in steps:
        if not isinstance(step, str) or not step.strip():
            raise PlanError(f"limits: {step!r} is no pass; write limit-latency{{share=0.9}}")
    return steps


DEFAULT_SEARCH = Search()
"""Every aligned rank, losses in nats, solved exactly."""
