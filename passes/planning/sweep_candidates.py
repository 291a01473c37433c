"""List the sizes that the planner may choose from: curve -> legal ranks and *keep dense*.

Before:  layers.0.self_attn.q_proj  [4096, 4096], break-even rank 2047
After:   layers.0.self_attn.q_proj  8, 16, ..., 2040, dense
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch.fx import GraphModule

from gacfx.core.curves import Curve
from gacfx.core.search import Bound
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, forgive, refuse, state, targets
from gacfx.hardware.contracts import CONTRACTS, Contract, step_of

Sizes = tuple[int | None, ...]
"""Ranks in rising order; None stands for *keep dense*."""


@register
@dataclass(frozen=True)
class SweepCandidates(GacPass):
    """Every legal rank below break-even, or a window of them, and the dense weight."""

    name = "sweep-candidates"
    needs = frozenset({Fact.CURVES})
    gives = frozenset({Fact.CANDIDATES})
    drops = frozenset({Fact.PLAN})

    align: int = 8
    """Ranks are multiples of this; a profile says what its GPU wants."""
    tp: int = 1
    """Devices that share a rank; each gets a legal part."""
    quant: str = ""
    """Format that the sizes shall be legal for, such as ``fp8``; empty for none."""
    bounds: tuple[str, ...] = ()
    """``PATTERN=LEAST:MOST``: ranks that matching weights may have."""
    window: int = 0
    """Keep so many ranks around the wanted one; 0 keeps all."""
    dense: bool = True
    """Always offer the dense weight; otherwise only where the window reaches it."""
    wanted: dict[str, float] | None = given()
    """Module -> rank that the compressor would take by itself, for the window."""

    def run(self, gm: GraphModule) -> bool:
        self.check()
        curves, bounds = state(gm).curves, [Bound.parse(text) for text in self.bounds]
        assert curves is not None
        for bound in bounds:
            if not any(fnmatchcase(module, bound.pattern) for module in curves):
                raise PassError(f"{self.name}: bound {bound} matches no targeted weight")
        nodes = {site.name: node for node, site in targets(gm)}
        for node in nodes.values():
            forgive(node, by=self.name)
        offered = {}
        for module, curve in curves.items():
            sizes, reason = self.sizes(curve, [b for b in bounds if fnmatchcase(module, b.pattern)])
            if reason and not curve.failed and module in nodes:
                refuse(nodes[module], by=self.name, reason=reason)
            offered[module] = sizes
        state(gm).offer(offered)
        return False

    def check(self) -> None:
        """Raise PassError for an option out of its range."""
        for option, least in (("align", 1), ("tp", 1), ("window", 0)):
            if (number := getattr(self, option)) < least:
                raise PassError(f"{self.name}: {option} must be at least {least}, not {number}")
        if self.quant and self.quant not in CONTRACTS:
            known = ", ".join(CONTRACTS)
            raise PassError(f"{self.name}: no format {self.quant!r}; known: {known}")

    @property
    def contract(self) -> Contract | None:
        """What the format asks for."""
        return CONTRACTS[self.quant] if self.quant else None  # type: ignore[index]

    @property
    def step(self) -> int:
        """Multiple of every rank."""
        return step_of(self.align, self.tp, self.contract)

    def sizes(self, curve: Curve, bounds: list[Bound]) -> tuple[Sizes, str]:
        """The candidates of one weight, and why there is only the dense one (empty if not).

        Raises:
            PassError: nothing is left; names the weight and what was asked of it.
        """
        reason = curve.failed or unstorable(curve, self.contract)
        legal = [] if reason else aligned_ranks(curve, self.step)
        ranks = [rank for rank in legal if all(bound.holds(rank) for bound in bounds)]
        full = min(curve.rows, curve.columns)
        dense = all(bound.holds(full) for bound in bounds)
        if not ranks:
            reason = reason or self.nothing(legal, bounds)
            if not dense:
                raise PassError(
                    f"{self.name}: {curve.module}: no candidate is left: {reason}, and "
                    f"{' '.join(map(str, bounds))} leaves out the dense weight, of rank {full}"
                )
            return (None,), reason
        if not self.window:
            return (*ranks, *([None] if dense else [])), ""
        return self.near(curve, ranks, dense), ""

    def nothing(self, legal: list[int], bounds: list[Bound]) -> str:
        """Why no rank is left."""
        if legal:
            inside = " and ".join(map(str, bounds))
            return f"no rank from {legal[0]} to {legal[-1]} in steps of {self.step} is in {inside}"
        tp = f"tp {self.tp}" if self.tp > 1 else ""
        asked = ", ".join(filter(None, (f"align {self.align}", tp, self.quant)))
        return f"no rank in steps of {self.step} ({asked}) is below break-even"

    def near(self, curve: Curve, ranks: list[int], dense: bool) -> Sizes:
        """The window of ranks around the wanted one, as many below as above where there are."""
        if self.wanted is None or curve.module not in self.wanted:
            raise PassError(f"{self.name}: {curve.module}: a window needs wanted ranks; bind them")
        wanted = self.wanted[curve.module]
        if self.dense or not dense:
            around = _window(list(map(float, ranks)), wanted, self.window)
            return (*ranks[around], *([None] if dense else []))
        # The dense weight stands where a pair would cost as much.
        break_even = curve.rows * curve.columns / (curve.rows + curve.columns)
        return (*ranks, None)[_window([*ranks, break_even], wanted, self.window)]


def aligned_ranks(curve: Curve, step: int) -> list[int]:
    """Multiples of ``step`` below break-even; none if the curve failed."""
    if curve.failed:
        return []
    top = min(curve.break_even, curve.rows, curve.columns)
    return list(range(step, top + 1, step))


def unstorable(curve: Curve, contract: Contract | None) -> str:
    """Why a weight breaks the contract by its own K or N; empty if it does not."""
    broken = contract.broken_by(curve.rows, curve.columns) if contract else ""
    return f"{contract.name} cannot store it: {broken}" if contract and broken else ""


def _window(places: list[float], wanted: float, size: int) -> slice:
    below = sum(place <= wanted for place in places)
    start = max(0, min(below - (size + 1) // 2, len(places) - size))
    return slice(start, start + size)
