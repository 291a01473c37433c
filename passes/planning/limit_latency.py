"""Limit the time of all targeted weights together: candidates -> a second budget, in nanoseconds.

Before:  layers.0.mlp.up_proj  8, 16, ..., 3184, dense
After:   layers.0.mlp.up_proj  9.1, 9.1, ..., 37.5, 35.1 us; all together at most 0.9 of the dense
         weights, rule-based, prefill, 1 x 1024 tokens
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import get_args

from gacfx.allocation.latency import latency_limit
from gacfx.core.offered import Offered
from gacfx.core.sites import MatmulSite, Mode, Workload
from gacfx.errors import PassError
from gacfx.graph.gacpass import given, register
from gacfx.graph.limiting import LimitingPass
from gacfx.hardware.profile import Profile


@register
@dataclass(frozen=True)
class LimitLatency(LimitingPass):
    """Limit the time of all targets: to a share of dense or to microseconds; rule-based."""

    name = "limit-latency"
    required = frozenset({"profile"})

    share: float = 1.0
    """Of the time of the dense weights; 1 means no slower than dense."""
    us: float = 0.0
    """Microseconds, instead of a share; 0 for the share."""
    mode: str = "prefill"
    batch: int = 1
    seq: int = 1024
    profile: Profile | None = given()

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        assert self.profile is not None
        about = {"share": self.share, "us": self.us}
        offered.limit(latency_limit(sites, offered, self.profile, self.workload(), **about))

    def check(self) -> None:
        """Raise PassError for an option out of its range."""
        self.workload()

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
