"""What each weight is offered: curve -> candidates of every kind, and *keep dense*.

q_proj  [4096, 4096]:  rank 8, 16, ..., 2040, pivot 8, 16, ..., 4088, dense
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gacfx.compressors.methods import METHODS
from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, Decision
from gacfx.core.kinds import KINDS
from gacfx.core.offered import Candidates
from gacfx.core.search import Bound, Prune, Search, kinds_of
from gacfx.errors import PassError
from gacfx.hardware.contracts import CONTRACTS, Contract, step_of

MADE_UP = ("", "none")
"""Methods of curves that no method made."""
BY = "sweep-candidates"
"""Who speaks in messages: the pass of this name is a shell over this file."""


@dataclass(frozen=True)
class Offers:
    """How candidates are listed.

    Raises:
        PassError: an option out of its range.
    """

    align: int = 8
    """Sizes are multiples of this; a profile says what its GPU wants."""
    tp: int = 1
    """Devices that share a rank; each gets a legal part."""
    quant: str = ""
    """Format that the sizes shall be legal for, such as ``fp8``; empty for none."""
    kinds: tuple[str, ...] = ("low-rank", "pivot")
    """Kinds of decisions beside the dense weight."""
    bounds: tuple[Bound, ...] = ()
    window: int = 0
    """Keep so many candidates of each kind, or sizes of each structure, around the wanted one; 0
    keeps all."""
    dense: bool = True
    """Always offer the dense weight; otherwise only where the window reaches it."""
    prune: Prune = "none"
    """What may become of coupled structures, see :class:`gacfx.core.search.Search`."""

    def __post_init__(self) -> None:
        for option, least in (("align", 1), ("tp", 1), ("window", 0)):
            if (number := getattr(self, option)) < least:
                raise PassError(f"{BY}: {option} must be at least {least}, not {number}")
        if self.quant and self.quant not in CONTRACTS:
            known = ", ".join(CONTRACTS)
            raise PassError(f"{BY}: no format {self.quant!r}; known: {known}")
        for kind in self.kinds:
            KINDS.find(kind)
        if self.tp > 1 and not {*self.kinds} <= {*kinds_of("pair")}:
            raise PassError(
                f"{BY}: tp {self.tp} splits ranks, and pivots cannot be split; take form 'pair'"
            )

    @staticmethod
    def of(search: Search, align: int, method: str) -> "Offers":
        """What a search asks for.

        Args:
            search: which sizes.
            align: multiple of the sizes before tensor parallelism and format.
            method: that makes the factors; one that nobody knows, as of made-up curves, makes all.

        Raises:
            PipelineError: the method cannot make what is asked for by name.
        """
        known = METHODS.seek(method) if method not in MADE_UP else None
        window = search.window if search.candidates == "window" else 0
        # Eq. 4 of GAC-v2 holds near the compressor's own rank; the paper offers no dense weight.
        near = search.value == "paper" and window > 0
        return Offers(
            align=align,
            tp=search.tp,
            quant=search.quant or "",
            kinds=known.offered(search) if known else search.kinds,
            bounds=search.bounds,
            window=window,
            dense=not near,
            prune="both" if search.prune == "auto" else search.prune,
        )

    @property
    def contract(self) -> Contract | None:
        """What the format asks for."""
        return CONTRACTS[self.quant] if self.quant else None  # type: ignore[index]

    @property
    def step(self) -> int:
        """Multiple of every size."""
        return step_of(self.align, self.tp, self.contract)

    def bounds_on(self, module: str) -> tuple[Bound, ...]:
        """The bounds that speak of a module."""
        return tuple(bound for bound in self.bounds if fnmatchcase(module, bound.pattern))

    def check_bounds(self, modules: Mapping[str, object]) -> None:
        """Raise PassError for a bound that speaks of no weight."""
        for bound in self.bounds:
            if not any(fnmatchcase(module, bound.pattern) for module in modules):
                raise PassError(f"{BY}: bound {bound} matches no targeted weight")

    def without(self, *kinds: str) -> "Offers":
        """The same with fewer kinds."""
        return replace(self, kinds=tuple(kind for kind in self.kinds if kind not in kinds))

    def only(self, *kinds: str) -> "Offers":
        """The same with no other kinds."""
        return replace(self, kinds=tuple(kind for kind in self.kinds if kind in kinds))

    def candidates(self, curve: Curve, wanted: float | None = None) -> tuple[Candidates, str]:
        """The candidates of one weight, and why there is only the dense one (empty if not).

        Args:
            curve: of the weight.
            wanted: d*, the rank of a pair that the window stands around.

        Raises:
            PassError: nothing is left, or a window without ``wanted``; names the weight.
        """
        inside, dense, reason = self._within_bounds(curve)
        if not inside:
            if not dense:
                bounds = " ".join(map(str, self.bounds_on(curve.module)))
                raise PassError(
                    f"{BY}: {curve.module}: no candidate is left: {reason}, and {bounds} leaves "
                    f"out the dense weight, of rank {min(curve.rows, curve.columns)}"
                )
            return dense, reason
        if not self.window:
            return (*inside, *dense), ""
        if wanted is None:
            raise PassError(f"{BY}: {curve.module}: a window needs wanted ranks; bind them")
        return self._near(curve, inside, dense, wanted), ""

    def allowed(self, curve: Curve) -> Candidates:
        """Every candidate of one weight whatever the window; empty where bounds leave nothing."""
        inside, dense, _ = self._within_bounds(curve)
        return (*inside, *dense)

    def _within_bounds(self, curve: Curve) -> tuple[Candidates, Candidates, str]:
        """(ranks within the bounds, the dense weight if it is, why there are no ranks)."""
        bounds = self.bounds_on(curve.module)
        reason = curve.failed or unstorable(curve, self.contract)
        legal: Candidates = ()
        if not reason:
            legal, reason = self._legal(curve)
        inside = tuple(each for each in legal if _within(each, bounds)) if bounds else legal
        full = min(curve.rows, curve.columns)
        dense: Candidates = (DENSE,) if all(bound.holds(full) for bound in bounds) else ()
        return inside, dense, reason if inside or reason else self._outside(legal, bounds)

    def _legal(self, curve: Curve) -> tuple[Candidates, str]:
        """Candidates of all kinds that keep to the step, and why there are none."""
        if not self.kinds:
            return (), "no form is left"
        found: Candidates = ()
        nothing = list[str]()
        for kind in self.kinds:
            found_kind, shape = KINDS.find(kind).decision, (curve.rows, curve.columns)
            offered, why = found_kind.offers_in_groups(*shape, curve.groups, self.step)
            found += offered
            nothing += [why] if why else []
        if found:
            return found, ""
        tp = f"tp {self.tp}" if self.tp > 1 else ""
        asked = ", ".join(filter(None, (f"align {self.align}", tp, self.quant)))
        return (), f"no rank in steps of {self.step} ({asked}) {'; none '.join(nothing)}"

    def _outside(self, legal: Candidates, bounds: tuple[Bound, ...]) -> str:
        """Why no candidate is within the bounds."""
        ranks = sorted(each.rank for each in legal if each.rank is not None)
        inside = " and ".join(map(str, bounds))
        return f"no rank from {ranks[0]} to {ranks[-1]} in steps of {self.step} is in {inside}"

    def _near(
        self, curve: Curve, inside: Candidates, dense: Candidates, wanted: float
    ) -> Candidates:
        """The window of each kind around the wanted parameters, as many below as above."""
        shape, groups = (curve.rows, curve.columns), curve.groups or 1
        params = wanted * (curve.rows / groups + curve.columns)
        kept: Candidates = ()
        for kind in self.kinds:
            alike = tuple(each for each in inside if each.kind == kind)
            # The dense weight stands where a pair would cost as much.
            alike += () if self.dense else dense
            places = [each.params(*shape) for each in alike]
            kept += alike[window_of(places, params, self.window)]
        kept = tuple(dict.fromkeys(kept))
        return (*kept, *(d for d in dense if self.dense and d not in kept))


def unstorable(curve: Curve, contract: Contract | None) -> str:
    """Why a weight breaks the contract by its own K or N; empty if it does not."""
    broken = contract.broken_by(curve.rows, curve.columns) if contract else ""
    return f"{contract.name} cannot store it: {broken}" if contract and broken else ""


def _within(decision: Decision, bounds: tuple[Bound, ...]) -> bool:
    rank = decision.rank
    return rank is None or all(bound.holds(rank) for bound in bounds)


def window_of(places: list[int], wanted: float, size: int) -> slice:
    """So many of rising places, as many up to the wanted one as above it."""
    below = sum(place <= wanted for place in places)
    start = max(0, min(below - (size + 1) // 2, len(places) - size))
    return slice(start, start + size)
