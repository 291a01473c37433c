"""Candidates that are legal and make no sense: no plan takes them, so somebody erred."""

import warnings
from collections.abc import Mapping

import numpy as np

from gacfx.core.curves import Curve
from gacfx.passes.planning.sweep_candidates import Sizes


class CandidateWarning(UserWarning):
    """Some candidates can never be chosen."""


def warn_of_doubtful(curves: Mapping[str, Curve], candidates: Mapping[str, Sizes]) -> None:
    """Warn of ranks that cost more than the dense weight, and of losses that rise with the rank."""
    offered = {
        name: np.sort([size for size in candidates[name] if size is not None])
        for name in curves
        if None in candidates[name] or len(candidates[name]) > 1
    }
    above = [
        f"rank {ranks[-1]} of {name} (break-even {curves[name].break_even})"
        for name, ranks in offered.items()
        if None in candidates[name] and len(ranks) and ranks[-1] > curves[name].break_even
    ]
    if above:
        _warn(above, "are offered ranks with more parameters than the dense weight")
    rising = []
    for name, ranks in offered.items():
        losses = curves[name].loss_nats[ranks] if len(ranks) else np.zeros(0)
        for step in np.flatnonzero(losses[1:] > losses[:-1])[:1].tolist():
            rising.append(f"{name} from rank {ranks[step]} to {ranks[step + 1]}")
    if rising:
        _warn(rising, "have a loss that rises with the rank")


def _warn(found: list[str], what: str) -> None:
    warnings.warn(
        f"solve: {len(found)} weights {what}, such as {found[0]}; these are never chosen",
        CandidateWarning,
        stacklevel=3,
    )
