"""Give every target a made-up loss curve, so that planning can be tried without weights.

Before:  layers.0.mlp.up_proj  [14336, 4096]  targeted, no weights
After:   layers.0.mlp.up_proj  a power-law spectrum; the values say nothing about any real model
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from gacfx.compressors.importance import linear_curve
from gacfx.core.curves import Curve
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass, register
from gacfx.graph.notes import Fact, state, target_sites

VALUES = ("energy", "paper")


@register
@dataclass(frozen=True)
class SyntheticCurves(GacPass):
    """Spectrum sigma_i ~ i^-decay, decay and importance drawn for each weight from ``seed``."""

    name = "synthetic-curves"
    needs = frozenset({Fact.SITES, Fact.TARGETS})
    gives = frozenset({Fact.CURVES})
    drops = frozenset({Fact.CANDIDATES, Fact.PLAN})

    decay: float = 0.5
    """Middle of the drawn decays; each weight gets one from 0.3 to 1.7 times this."""
    spread: float = 0.8
    """Standard deviation of the logarithm of the importances."""
    seed: int = 0
    value: str = "energy"
    """energy: the share of the spectrum that is gone; paper: a straight line, Eq. 4 of GAC-v2."""

    def check(self) -> None:
        """Raise PassError for an option out of its range."""
        if not 0 < self.decay < 10:
            raise PassError(
                f"{self.name}: decay {self.decay} is not above 0 and below 10; 0.5 is usual"
            )
        if not (isfinite(self.spread) and self.spread >= 0):
            raise PassError(f"{self.name}: spread {self.spread} is not a finite number from 0 on")
        if self.seed < 0:
            raise PassError(f"{self.name}: seed {self.seed} is not a whole number from 0 on")
        if self.value not in VALUES:
            raise PassError(f"{self.name}: no value {self.value!r}; known: {', '.join(VALUES)}")

    def run(self, gm: GraphModule) -> bool:
        self.check()
        draw = np.random.default_rng(self.seed)
        curves = {}
        for site in target_sites(gm).values():
            decay = self.decay * draw.uniform(0.3, 1.7)
            scale = 1e-2 * draw.lognormal(0.0, self.spread)
            rows, columns = site.n.times, site.k.times
            if self.value == "paper":
                curves[site.name] = linear_curve(site.name, rows, columns, scale, "paper:synthetic")
                continue
            loss = scale * tail(min(rows, columns), decay)
            curves[site.name] = Curve(site.name, rows, columns, loss, "synthetic")
        state(gm).curves, state(gm).structure_curves = curves, ()
        return False


def tail(size: int, decay: float) -> NDArray[np.float64]:
    """[size + 1]: share of sum i^(-2 decay) beyond every rank; from 1 down to 0."""
    energy = np.arange(1, size + 1, dtype=np.float64) ** (-2.0 * decay)
    beyond = np.append(np.cumsum(energy[::-1])[::-1], 0.0)
    return np.asarray(beyond / beyond[0])
