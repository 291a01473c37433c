"""Which larger size a GPU likes: (sites that have a size, profile, workload) -> the size.

Sizes from the old one up are forecast, each with all products and attentions that it is a part of;
the cheapest wins, and of equals the smallest. That is the old one where nothing can be gained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gacfx.core.sites import AttentionSite, Extent, MatmulSite, Workload
from gacfx.hardware.gemm import round_up
from gacfx.hardware.latency import estimate_us
from gacfx.hardware.predict import predict
from gacfx.hardware.profile import Profile

REACH = 256
"""How far above the old size is looked. Beyond it more work costs what better kernels gain."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A site that has the size as a factor of some of its own."""

    site: MatmulSite | AttentionSite
    outputs: bool = False
    """N of a product is a multiple of it."""
    inputs: bool = False
    """K of a product is a multiple of it."""

    def at(self, old: int, new: int) -> MatmulSite | AttentionSite:
        """The site once the size is another."""
        site = self.site
        if isinstance(site, AttentionSite):
            return replace(site, d_qk=new, d_v=new)
        return replace(
            site,
            n=_scaled(site.n, old, new) if self.outputs else site.n,
            k=_scaled(site.k, old, new) if self.inputs else site.k,
        )


@dataclass(frozen=True, slots=True)
class Fitting:
    """What becomes of a size."""

    old: int
    new: int
    old_us: float
    """Forecast of all sites that have it, microseconds."""
    new_us: float


def best_size(
    sites: Sequence[Sized], old: int, profile: Profile, workload: Workload, align: int | None = None
) -> Fitting:
    """The cheapest size at or above ``old``.

    Args:
        sites: that have the size; not empty.
        old: what they have now.
        profile: of the GPU.
        workload: what runs there.
        align: only multiples of this are taken; None: the old size, or multiples that the profile
            prefers.
    """

    def cost(size: int) -> float:
        return sum(_us(each.at(old, size), profile, workload) for each in sites)

    costs = {size: cost(size) for size in _sizes(old, sites[0].site.dtype, profile, align)}
    new = min(costs, key=lambda size: (costs[size], size))
    return Fitting(old, new, costs.get(old, cost(old)), costs[new])


def _sizes(old: int, dtype: str, profile: Profile, align: int | None) -> Iterator[int]:
    step = align or profile.align_for(dtype)
    if align is None:
        yield old
    first = round_up(old, step)
    yield from range(first, max(first, old + REACH) + 1, step)


def _us(site: MatmulSite | AttentionSite, profile: Profile, workload: Workload) -> float:
    return estimate_us(site, predict(site, profile, workload), profile, workload).us


def _scaled(extent: Extent, old: int, new: int) -> Extent:
    return replace(extent, times=extent.times // old * new)
