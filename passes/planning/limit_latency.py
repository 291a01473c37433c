"""Limit the time of all targeted weights together: candidates -> a second budget, in nanoseconds.

Before:  layers.0.mlp.up_proj  8, 16, ..., 3184, dense
After:   layers.0.mlp.up_proj  9.1, 9.1, ..., 37.5, 35.1 us; all together at most 0.9 of the dense
         weights, rule-based, prefill, 1 x 1024 tokens
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import isfinite
from typing import get_args

import numpy as np
from torch.fx import GraphModule

from gacfx.core.sites import AttentionSite, Extent, Layout, MatmulSite, Mode, Site, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, state, targets
from gacfx.hardware.latency import Latency, estimate_us
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import Profile
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.limits import Limit
from gacfx.passes.planning.sweep_candidates import Sizes


@dataclass(frozen=True, eq=False)
class ShareOfDense(Limit):
    """A limit that was asked for as a share of what the dense weights cost."""

    dense: int = 0
    """What all groups cost dense."""
    unit: str = ""
    source: str = ""
    """Where the costs come from, and for which workload."""


@register
@dataclass(frozen=True)
class LimitLatency(GacPass):
    """Limit the time of all targets: to a share of dense or to microseconds; rule-based."""

    name = "limit-latency"
    needs = frozenset({Fact.TARGETS, Fact.CANDIDATES})
    drops = frozenset({Fact.PLAN})
    required = frozenset({"profile"})

    share: float = 1.0
    """Of the time of the dense weights; 1 means no slower than dense."""
    us: float = 0.0
    """Microseconds, instead of a share; 0 for the share."""
    mode: str = "prefill"
    batch: int = 1
    seq: int = 1024
    profile: Profile | None = given()

    def run(self, gm: GraphModule) -> bool:
        assert self.profile is not None
        about, workload = state(gm), self.workload()
        assert about.candidates is not None
        clock, costs, dense = Clock(self.profile, workload), {}, 0
        for _, site in targets(gm):
            costs[site.name] = clock.times(site, about.candidates[site.name])
            dense += clock.ns(site, None)
        run = f"{workload.mode}, {workload.batch} x {workload.seq} tokens, {self.profile.name}"
        about.limit(
            ShareOfDense(
                # Prefill and decode may be limited both; one of a kind replaces the other.
                name=f"{self.mode} latency",
                most=self.most(dense),
                costs=costs,
                dense=dense,
                unit="ns",
                source=f"{self.profile.forecast}, {run}",
            )
        )
        return False

    def most(self, dense: int) -> int:
        """Nanoseconds that all targets may take together, rounded down."""
        if self.us:
            return int(Fraction(repr(self.us)) * 1000)
        return int(Fraction(repr(self.share)) * dense)

    def workload(self) -> Workload:
        """What runs.

        Raises:
            PassError: an option out of its range.
        """
        if not (isfinite(self.share) and self.share > 0):
            raise PassError(
                f"{self.name}: share {self.share} is not a finite number above 0; "
                "0.9 is 90 % of dense"
            )
        if not (isfinite(self.us) and self.us >= 0):
            raise PassError(f"{self.name}: us {self.us} is no time in microseconds, such as 5200")
        if self.us and self.share != 1:
            raise PassError(
                f"{self.name}: share {self.share} and us {self.us} are both given; give one"
            )
        if self.mode not in get_args(Mode):
            known = ", ".join(get_args(Mode))
            raise PassError(f"{self.name}: no mode {self.mode!r}; known: {known}")
        if min(self.batch, self.seq) < 1:
            raise PassError(
                f"{self.name}: batch {self.batch} and seq {self.seq} must be at least 1"
            )
        return Workload(self.batch, self.seq, self.mode)  # type: ignore[arg-type]


class Clock:
    """Forecasts of a weight at a rank; equal shapes are asked for once."""

    def __init__(self, profile: Profile, workload: Workload) -> None:
        self.profile, self.workload = profile, workload
        self._known: dict[Site, tuple[TierPrediction, Latency]] = {}
        self._times: dict[tuple[MatmulSite, Sizes], IntArray] = {}

    def times(self, site: MatmulSite, sizes: Sizes) -> IntArray:
        """[sizes] whole nanoseconds of a weight at each size; weights alike share the array."""
        key = (replace(site, name="", weight=None), sizes)
        if key not in self._times:
            found = np.array([self.ns(site, rank) for rank in sizes], np.int64)
            found.setflags(write=False)
            self._times[key] = found
        return self._times[key]

    def ns(self, site: MatmulSite, rank: int | None) -> int:
        """Whole nanoseconds of all launches: the pair's two, or the dense one if rank is None."""
        return sum(self._ns(launch, site.name) for launch in launches(site, rank))

    def _ns(self, launch: Site, module: str) -> int:
        tier, latency = self.forecast(launch)
        if not isfinite(latency.us):
            raise PassError(f"limit-latency: {module}: {tier.reason}; no time can be forecast")
        return round(latency.us * 1000)

    def forecast(self, launch: Site) -> tuple[TierPrediction, Latency]:
        """Kernel and time of one launch, infinite where it is illegal; see :func:`launches`."""
        if launch not in self._known:
            tier = predict(launch, self.profile, self.workload)
            latency = estimate_us(launch, tier, self.profile, self.workload)
            self._known[launch] = tier, latency
        return self._known[launch]


def launches(site: Site, rank: int | None) -> tuple[Site, ...]:
    """What a site becomes at a rank, without names; itself if it has none or is no matmul."""
    if isinstance(site, AttentionSite):
        return (replace(site, name=""),)
    alike = replace(site, name="", weight=None)
    if rank is None:
        return (alike,)
    pair = replace(alike, layout=Layout.LINEAR)
    return replace(pair, n=Extent(rank), bias=False), replace(pair, k=Extent(rank))
