"""Time as a further budget: what every candidate of a weight takes on a GPU, in nanoseconds.

layers.0.mlp.up_proj   8, 16, ..., dense:  9.1, 9.1, ..., 35.1 us; all together at most 0.9 of the
                       dense weights, rule-based, prefill, 1 x 1024 tokens
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from math import isfinite

import numpy as np

from gacfx.core.decision import DENSE, Copy, Decision, Gemm, Work
from gacfx.core.offered import Candidates, Offered
from gacfx.core.pruning import Sliced
from gacfx.core.sites import CopySite, Extent, Layout, MatmulSite, Site, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.errors import PassError
from gacfx.hardware.latency import Latency, estimate_us
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import Profile
from gacfx.knapsack.arrays import IntArray
from gacfx.knapsack.limits import Limit

BY = "limit-latency"


@dataclass(frozen=True, eq=False)
class ShareOfDense(Limit):
    """A limit that was asked for as a share of what the dense weights cost."""

    dense: int = 0
    """What all groups cost dense."""
    unit: str = ""
    source: str = ""
    """Where the costs come from, and for which workload."""


def latency_limit(
    sites: Mapping[str, MatmulSite],
    offered: Offered,
    profile: Profile,
    workload: Workload,
    *,
    share: float = 1.0,
    us: float = 0.0,
) -> ShareOfDense:
    """The time of all weights together: at most ``share`` of dense, or ``us`` microseconds.

    Raises:
        PassError: no time can be forecast for a candidate.
    """
    assert offered.candidates is not None
    clock, costs = Clock(profile, workload), {}
    for name, candidates in offered.candidates.items():
        own = [sites[module] for module in offered.modules(name)]
        costs[name] = clock.times_of(own, candidates)
    dense = sum(clock.ns(site, DENSE) for site in sites.values())
    run = f"{workload.mode}, {workload.batch} x {workload.seq} tokens, {profile.name}"
    most = Fraction(repr(us)) * 1000 if us else Fraction(repr(share)) * dense
    return ShareOfDense(
        # Prefill and decode may be limited both; one of a kind replaces the other.
        name=f"{workload.mode} latency",
        most=int(most),
        costs=costs,
        dense=dense,
        unit="ns",
        source=f"{profile.forecast}, {run}",
    )


@dataclass(frozen=True, slots=True)
class Launch:
    """One product of a decision, or the copies between two of them, with its forecast."""

    latency: Latency
    tier: TierPrediction


class Clock:
    """Forecasts of a weight under a decision; equal shapes are asked for once."""

    def __init__(self, profile: Profile, workload: Workload) -> None:
        self.profile, self.workload = profile, workload
        self._known: dict[Site, Launch] = {}
        self._times: dict[tuple[MatmulSite, Candidates], IntArray] = {}
        self._parts: dict[tuple[MatmulSite, Decision], int] = {}

    def times(self, site: MatmulSite, candidates: Candidates) -> IntArray:
        """[candidates] whole nanoseconds of a weight; weights alike share the array."""
        key = (bare(site), candidates)
        if key not in self._times:
            found = np.array([self.ns(site, decision) for decision in candidates], np.int64)
            found.setflags(write=False)
            self._times[key] = found
        return self._times[key]

    def times_of(self, sites: Sequence[MatmulSite], candidates: Candidates) -> IntArray:
        """[candidates] whole nanoseconds of all weights of a group together."""
        if len(sites) == 1:
            return self.times(sites[0], candidates)
        parts = [tuple(each.of(at) for each in candidates) for at in range(len(sites))]
        found = np.zeros(len(candidates), np.int64)
        for site, own in zip(sites, parts, strict=True):
            found += np.array([self._part(site, part) for part in own], np.int64)
        return found

    def _part(self, site: MatmulSite, part: Decision) -> int:
        """As :meth:`ns`; candidates of a structure repeat the parts of its weights."""
        key = (bare(site), part)
        if key not in self._parts:
            self._parts[key] = self.ns(site, part)
        return self._parts[key]

    def ns(self, site: MatmulSite, decision: Decision) -> int:
        """Whole nanoseconds of all launches of a weight under a decision; an expert runs alone, and
        only where a token chooses it.

        Raises:
            PassError: the GPU cannot run one of them.
        """
        share = chosen_share(site, self.workload)
        once = sum(_ns(launch, site.name, share) for launch in self.launches(site, decision))
        return site.runs * once

    def launches(self, site: Site, decision: Decision) -> tuple[Launch, ...]:
        """What a site runs under a decision, infinite where it is illegal; nothing if it is gone.

        Everything but a matmul runs as it is.
        """
        return tuple(map(self.forecast, self.steps(site, decision)))

    def steps(self, site: Site, decision: Decision) -> tuple[Site, ...]:
        """The nameless sites that stand for a site under a decision, in the order they run."""
        if not isinstance(site, MatmulSite):
            return (replace(site, name=""),)
        if isinstance(decision, Sliced):  # a smaller weight, stored as the dense one is
            left = replace(site, n=Extent(decision.outputs), k=Extent(decision.inputs))
            return self.steps(left, decision.rest)
        if decision.is_dense:
            return (bare(site),)
        return tuple(self._steps(site, decision.work(site.n.times, site.k.times, site.bias)))

    def forecast(self, site: Site) -> Launch:
        """Kernel and time of one site, infinite where it is illegal."""
        if site not in self._known:
            tier = predict(site, self.profile, self.workload)
            latency = estimate_us(site, tier, self.profile, self.workload)
            self._known[site] = Launch(latency, tier)
        return self._known[site]

    def _steps(self, site: MatmulSite, work: Work) -> Iterator[Site]:
        """The sites that a graph has where the work stands for a weight."""
        product = replace(bare(site), layout=Layout.LINEAR)
        times = site.count.at(self.workload)
        for kind, steps in groupby(work, type):
            if kind is Copy:
                elements = tuple(times * step.elements for step in steps if isinstance(step, Copy))
                yield CopySite("", site.m, elements, site.dtype)
                continue
            for step in steps:
                assert isinstance(step, Gemm)
                count = replace(site.count, times=site.count.times * step.count)
                yield replace(
                    product, k=Extent(step.k), n=Extent(step.n), bias=step.bias, count=count
                )


def bare(site: MatmulSite) -> MatmulSite:
    """The site without names, so that equal shapes are equal."""
    return replace(site, name="", weight=None)


def chosen_share(site: MatmulSite, workload: Workload) -> float:
    """Of the experts, those that any token chooses, when tokens spread evenly; 1 for any other."""
    unit = replace(site.m, times=1, per=1).at(workload)
    return min(1.0, site.m.times * unit / site.m.per) if site.m.per > 1 else 1.0


def _ns(launch: Launch, module: str, share: float) -> int:
    if not isfinite(launch.latency.us):
        raise PassError(f"{BY}: {module}: {launch.tier.reason}; no time can be forecast")
    return round(share * launch.latency.us * 1000)
