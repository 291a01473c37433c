"""Losses of a study's weights at every rank, measured token by token on its held-back text.

Factors are those of the fitted text, so that what they lose on text that they have not seen is in
the curve, which moments of the fitted text do not tell.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gacfx.calibration.running import few_threads
from gacfx.calibration.tails import token_tails
from gacfx.compressors.curves import terms_of
from gacfx.compressors.protocol import Decomposition
from gacfx.compressors.values import TRIED
from gacfx.core.settings import file_name
from gacfx.core.store import Drawer
from gacfx.progress import Count

if TYPE_CHECKING:
    from gacfx.study import Study

TOKENS = 12_800
"""Held-back text that is read, about."""


def losses_on_text(study: "Study") -> Mapping[str, NDArray[np.float64]]:
    """Module -> [S + 1] losses at every rank, nats per token; measured once for each method.

    Raises:
        CalibrationError: logits are no numbers.
    """
    known = study.on_text.get(study.method)
    if known is None:
        # Decomposes them, and reads them once for all that auto tries.
        weights = study.curves(TRIED[0], study.fit, others=TRIED).facts.weights
        text, store = study.held_back.sample(TOKENS), study.fit.store
        names = tuple(weight.module for weight in weights if not weight.failed)
        terms = _Terms(study.fit.decompositions, names)
        with few_threads(study.model):
            found = token_tails(
                study.model,
                text,
                terms,
                seed=study.full.statistics.seed,
                progress=Count(study.progress, "measure", len(text.documents)),
                store=None if store is None else Drawer(store, f"tails.{file_name(study.method)}"),
                device=study.device,
            )
        known = {name: losses.numpy() for name, losses in found.items()}
        study.on_text[study.method] = known
    return known


@dataclass(frozen=True, eq=False)
class _Terms(Mapping[str, tuple[Tensor, Tensor]]):
    """Module -> (u [M, S], v [S, N]), each made when it is asked for."""

    decompositions: Mapping[str, Decomposition]
    weights: tuple[str, ...]

    def __getitem__(self, module: str) -> tuple[Tensor, Tensor]:
        found = self.decompositions[module]
        assert found.components is not None
        return terms_of(found.weight_MN, *found.components)

    @cached_property
    def _names(self) -> list[str]:
        """Those that are a sum of terms; other methods say by themselves what a rank costs."""
        known = self.decompositions
        return [name for name in self.weights if known[name].components is not None]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
