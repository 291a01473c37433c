"""What the experts of one layer run: one grouped product each, or a loop over the chosen ones.

one size for all     fc1 of 8 experts, 2 for each of 1024 tokens: one product over 2048 rows
sizes of their own   a product for each expert that any token chose, over 256 rows on average
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gacfx.allocation.latency import Clock, Launch, chosen_share
from gacfx.allocation.ties import expert_of
from gacfx.core.decision import DENSE, Decision
from gacfx.core.sites import Extent, Layout, MatmulSite, Site


def by_layer(sites: Iterable[Site]) -> list[tuple[Site, ...]]:
    """Sites that run together: those of the experts of one layer, and every other by itself."""
    found: dict[object, list[Site]] = {}
    for number, site in enumerate(sites):
        found.setdefault(expert_of(site.name) if is_routed(site) else number, []).append(site)
    return [tuple(own) for own in found.values()]


def is_routed(site: Site) -> bool:
    """A router sends it a share of the tokens."""
    return isinstance(site, MatmulSite) and site.m.per > 1


def launches(
    clock: Clock, experts: Sequence[MatmulSite], decisions: Mapping[str, Decision]
) -> tuple[Launch, ...]:
    """Kernel and time of each product of the experts of one layer.

    Args:
        clock: whose workload it is.
        experts: the same weight of each.
        decisions: module -> what becomes of it; dense where nothing is said.
    """
    steps = [clock.steps(site, decisions.get(site.name, DENSE)) for site in experts]
    first = steps[0]
    if set(steps) == {first}:
        grouped = [_grouped(step, experts[0]) for step in first if isinstance(step, MatmulSite)]
        if len(grouped) == len(first):
            return tuple(map(clock.forecast, grouped))
    share = chosen_share(experts[0], clock.workload)
    counts = Counter(step for own in steps for step in own)
    return tuple(_times(clock.forecast(step), share * count) for step, count in counts.items())


def is_grouped(launch: Launch) -> bool:
    """One product for all experts of a layer."""
    return launch.tier.kernel.startswith("grouped")


def _grouped(step: MatmulSite, expert: MatmulSite) -> MatmulSite:
    """One product for all experts; each row of the layer is of as many as are chosen."""
    rows = Extent(expert.m.times, expert.m.of)
    return replace(step, m=rows, layout=Layout.EXPERTS, experts=expert.m.per)


def _times(launch: Launch, times: float) -> Launch:
    one = launch.latency
    return replace(
        launch,
        latency=replace(
            one,
            us=one.us * times,
            floor_us=one.floor_us * times,
            flops=round(one.flops * times),
            bytes=round(one.bytes * times),
            compute_us=one.compute_us * times,
            memory_us=one.memory_us * times,
            launch_us=one.launch_us * times,
        ),
    )
