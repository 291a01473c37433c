"""Candidates that are legal and make no sense: no plan takes them, so somebody erred."""

import warnings
from collections.abc import Mapping

import numpy as np

from gacfx.allocation.joint import Joint
from gacfx.core.curves import Curve, ListedCurve
from gacfx.core.decision import DENSE
from gacfx.core.offered import Candidates


class CandidateWarning(UserWarning):
    """Some candidates can never be chosen."""


def warn_of_costly(
    curves: Mapping[str, Curve | Joint | ListedCurve], candidates: Mapping[str, Candidates]
) -> None:
    """Warn of candidates that cost more than a dense weight that is offered as well."""
    seen: dict[tuple[int, int, int], str] = {}  # of one shape only once: there are many candidates
    found = []
    for name, curve in curves.items():
        if not isinstance(
            curve, Curve
        ):  # the beaten ones of a structure are gone, pools may be large
            continue
        key = (curve.rows, curve.columns, id(candidates[name]))
        if key not in seen:
            seen[key] = _costly(curve, candidates[name])
        if seen[key]:
            found.append(f"{seen[key]} of {name} (break-even {curve.break_even})")
    if found:
        _warn(found, "are offered ranks with more parameters than the dense weight")


def warn_of_rising(curves: Mapping[str, Curve], candidates: Mapping[str, Candidates]) -> None:
    """Warn of losses that rise with the rank; curves in a file or of a study cannot."""
    found = []
    for name, curve in curves.items():
        if name not in candidates:  # a weight of a structure; those curves never rise
            continue
        for ranks in _ranks(candidates[name]).values():
            losses = curve.loss_nats[ranks]
            for step in np.flatnonzero(losses[1:] > losses[:-1])[:1].tolist():
                found.append(f"{name} from rank {ranks[step]} to {ranks[step + 1]}")
    if found:
        _warn(found, "have a loss that rises with the rank")


def _costly(curve: Curve, offered: Candidates) -> str:
    """The largest rank of a kind that is no smaller than the dense weight; empty if all are."""
    if DENSE not in offered:
        return ""
    shape, dense = (curve.rows, curve.columns), curve.rows * curve.columns
    largest = {each.kind: each for each in sorted(offered, key=lambda d: d.rank or 0)}
    for each in largest.values():
        if not each.is_dense and each.params(*shape) >= dense:
            return str(each)
    return ""


def _ranks(offered: Candidates) -> dict[str, list[int]]:
    """Kind -> its ranks in rising order, where there is a choice."""
    kinds = dict[str, list[int]]()
    for each in offered if len(offered) > 1 else ():
        if each.rank is not None:
            kinds.setdefault(each.kind, []).append(each.rank)
    return {kind: sorted(ranks) for kind, ranks in kinds.items()}


def _warn(found: list[str], what: str) -> None:
    warnings.warn(
        f"solve: {len(found)} weights {what}, such as {found[0]}; these are never chosen",
        CandidateWarning,
        stacklevel=4,
    )
