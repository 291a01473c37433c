"""Candidates that are legal and make no sense: no plan takes them, so somebody erred."""

import warnings
from collections.abc import Mapping

import numpy as np

from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE
from gacfx.core.offered import Candidates


class CandidateWarning(UserWarning):
    """Some candidates can never be chosen."""


def warn_of_doubtful(curves: Mapping[str, Curve], candidates: Mapping[str, Candidates]) -> None:
    """Warn of sizes that cost more than the dense weight, and of losses that rise with the rank."""
    above, rising = list[str](), list[str]()
    seen: dict[tuple[int, int, int], tuple[str, list[list[int]]]] = {}
    for name, curve in curves.items():
        key = (curve.rows, curve.columns, id(candidates[name]))
        if key not in seen:  # of one shape only once: there are many candidates
            seen[key] = (_above(curve, candidates[name]), _ranks(candidates[name]))
        costly, kinds = seen[key]
        above += [f"{costly.format(name)} (break-even {curve.break_even})"] if costly else []
        for ranks in kinds:
            losses = curve.loss_nats[ranks]
            for step in np.flatnonzero(losses[1:] > losses[:-1])[:1].tolist():
                rising.append(f"{name} from rank {ranks[step]} to {ranks[step + 1]}")
    if above:
        _warn(above, "are offered ranks with more parameters than the dense weight")
    if rising:
        _warn(rising, "have a loss that rises with the rank")


def _above(curve: Curve, offered: Candidates) -> str:
    """The largest candidate that is no smaller than a dense weight that is offered as well."""
    if DENSE not in offered:
        return ""
    shape, dense = (curve.rows, curve.columns), curve.rows * curve.columns
    costly = [each for each in offered if not each.is_dense and each.params(*shape) >= dense]
    return f"{costly[-1]} of {{}}" if costly else ""


def _ranks(offered: Candidates) -> list[list[int]]:
    """The ranks of each kind, in rising order, where there is a choice."""
    kinds = dict[str, list[int]]()
    for each in offered:
        if each.rank is not None:
            kinds.setdefault(each.kind, []).append(each.rank)
    return [sorted(ranks) for ranks in kinds.values() if len(offered) > 1]


def _warn(found: list[str], what: str) -> None:
    warnings.warn(
        f"solve: {len(found)} weights {what}, such as {found[0]}; these are never chosen",
        CandidateWarning,
        stacklevel=4,
    )
