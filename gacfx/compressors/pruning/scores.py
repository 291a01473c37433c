"""Scores of the units of a structure, as other methods count them; the largest are most worth.

They are here to reproduce and to compare: an elimination knows what the units that stay can take
over (:mod:`gacfx.compressors.pruning.elimination`), a score sums what each unit does by itself.
Scores of all members count every row and column that belongs to a unit once, whatever the number of
query heads that share it; the others look at the inputs h of the closing weight W alone.
"""

# M outputs, N inputs, U units, J documents

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gacfx.core.statistics import Moments
from gacfx.core.structures import Positions, Structure
from gacfx.core.taylor import TaylorSums
from gacfx.errors import CalibrationError, DecompositionFailed, PipelineError


@dataclass(frozen=True, eq=False)
class Evidence:
    """What scores may look at: module -> what is known of its weight."""

    weights: Mapping[str, Tensor]
    """[M, N], outputs first, any floating dtype."""
    moments: Mapping[str, Moments]
    taylor: Mapping[str, TaylorSums] | None = None
    """From :func:`gacfx.calibration.taylor.taylor_sums`; only some scores need it."""

    def weight(self, module: str) -> Tensor:
        """W in float64."""
        return self.weights[module].detach().double()

    def gradients(self, module: str) -> TaylorSums:
        """Of a weight on text.

        Raises:
            CalibrationError: they were not gathered.
        """
        if self.taylor is None or module not in self.taylor:
            raise CalibrationError(
                f"{module}: this score needs gradients; gather them with taylor_sums"
            )
        return self.taylor[module]


@dataclass(frozen=True)
class Owners:
    """To which unit, or to which query head of which unit, positions belong."""

    structure: Structure
    by_head: bool

    def sums(self, positions: Positions, values: Tensor) -> Tensor:
        """[..., U] or [..., U x H]: sums of the last dim over what belongs together."""
        owner, count = positions.units, self.structure.units
        if self.by_head:
            count *= self.structure.heads
            alone = (owner >= 0) & (positions.heads >= 0)
            owner = np.where(alone, owner * self.structure.heads + positions.heads, -1)
        own = torch.from_numpy(np.flatnonzero(owner >= 0)).to(values.device)
        index = torch.from_numpy(owner[owner >= 0]).to(values.device)
        found = values.new_zeros(*values.shape[:-1], count)
        return found.index_add_(-1, index, values[..., own])


Units = Callable[[Owners, Evidence], Tensor]


@dataclass(frozen=True)
class Score:
    """One score by its name."""

    name: str
    what: str
    """As a formula; g and f are the gradient and its mean square over documents."""
    source: str
    units: Units
    """Scores of what :class:`Owners` tells apart."""


def unit_scores(
    name: str, structure: Structure, evidence: Evidence, *, by_head: bool = False
) -> Tensor:
    """[U] scores of the units, float64; the largest are most worth keeping.

    Args:
        name: of a score in :data:`SCORES`.
        structure: whose units.
        evidence: weights and moments of its members, and their gradients where the score has any.
        by_head: [U, H] scores of the query heads instead; what they share counts nowhere.

    Raises:
        PipelineError: no score has this name.
        CalibrationError: what it needs was not gathered.
        DecompositionFailed: scores are all zero or not finite.
    """
    if name not in SCORES:
        raise PipelineError(f"no score {name!r}; known: {', '.join(SCORES)}")
    found = SCORES[name].units(Owners(structure, by_head), evidence)
    if not bool(torch.isfinite(found).all() and found.any()):
        raise DecompositionFailed(structure.name, f"its scores by {name} are 0 or not finite")
    return found.reshape(structure.units, -1) if by_head else found


def _members(salience: Callable[[str, Evidence], Tensor], *, inside: bool = False) -> Units:
    """Sums of |Z| over the rows and columns of each unit, in all members.

    Args:
        salience: Z [M, N] of a module.
        inside: entries of a row (or column) are summed first, and |sum| counts.
    """

    def units(owners: Owners, evidence: Evidence) -> Tensor:
        parts = []
        for member in owners.structure.members:
            salience_MN = salience(member.module, evidence)
            for positions, axis in ((member.outputs, 1), (member.inputs, 0)):
                if positions is None:
                    continue
                kept = salience_MN.sum(axis).abs() if inside else salience_MN.abs().sum(axis)
                parts.append(owners.sums(positions, kept))
        return torch.stack(parts).sum(0)

    return units


def _closing(inputs: Callable[[str, Evidence], Tensor]) -> Units:
    """Sums over the columns of each unit of the closing weight.

    Args:
        inputs: scores [N] of the columns of a module.
    """

    def units(owners: Owners, evidence: Evidence) -> Tensor:
        member = owners.structure.closing
        assert member.inputs is not None
        return owners.sums(member.inputs, inputs(member.module, evidence))

    return units


def _first(module: str, evidence: Evidence) -> Tensor:
    return evidence.weight(module) * evidence.gradients(module).mean


def _second(module: str, evidence: Evidence) -> Tensor:
    return evidence.weight(module).square() * evidence.gradients(module).square_mean


def _variance(module: str, evidence: Evidence) -> Tensor:
    square_N = evidence.moments[module].input_square_mean
    mean_N = evidence.gradients(module).input_mean
    return (square_N - mean_N.square()).clamp_min(0) * evidence.weight(module).square().sum(0)


def _kfac(module: str, evidence: Evidence) -> Tensor:
    moments, weight_MN = evidence.moments[module], evidence.weight(module)
    if moments.wide:
        loss_N = moments.projected_moment.diagonal()
    else:
        loss_N = ((moments.side_moment @ weight_MN) * weight_MN).sum(0)
    return 0.5 * moments.input_square_mean * loss_N.clamp_min(0)


def _mask(owners: Owners, evidence: Evidence) -> Tensor:
    member = owners.structure.closing
    assert member.inputs is not None
    grads_JU = owners.sums(member.inputs, evidence.gradients(member.module).column_sums)
    return grads_JU.square().mean(0)


_PRUNER = "Ma et al. 2023, LLM-Pruner (arXiv 2305.11627)"

SCORES = {
    score.name: score
    for score in (
        Score(
            "magnitude-l1",
            "sum |W|",
            f"{_PRUNER}, l1",
            _members(lambda module, known: known.weight(module)),
        ),
        Score(
            "magnitude-l2",
            "sum W^2",
            f"{_PRUNER}, l2",
            _members(lambda module, known: known.weight(module).square()),
        ),
        Score(
            "activation",
            "E h^2",
            "second moment of what the closing weight reads",
            _closing(lambda module, known: known.moments[module].input_square_mean),
        ),
        Score(
            "wanda",
            "E h^2 |W_:n|^2",
            "Sun et al. 2024, Wanda (arXiv 2306.11695), summed over a column",
            _closing(
                lambda module, known: (
                    known.moments[module].input_square_mean * known.weight(module).square().sum(0)
                )
            ),
        ),
        Score(
            "flap",
            "Var h |W_:n|^2",
            "An et al. 2024, FLAP (arXiv 2312.11983), without its normalisation over layers",
            _closing(_variance),
        ),
        Score(
            "taylor-vector", "sum |sum W g|", f"{_PRUNER}, vector", _members(_first, inside=True)
        ),
        Score("taylor-first", "sum |W g|", f"{_PRUNER}, param_first", _members(_first)),
        Score("taylor-second", "sum |W f W|", f"{_PRUNER}, param_second", _members(_second)),
        Score(
            "taylor-mix",
            "sum |W g - W f W / 2|",
            f"{_PRUNER}, param_mix",
            _members(lambda module, known: _first(module, known) - _second(module, known) / 2),
        ),
        Score(
            "fisher-mask",
            "E (dL/dm)^2",
            "Kwon et al. 2022 (arXiv 2204.09656), a factor m at each unit, mean over documents",
            _mask,
        ),
        Score(
            "kfac-diagonal",
            "E h^2 (W^T G W)_nn / 2",
            "K-FAC (Martens and Grosse 2015), without what is shared between columns",
            _closing(_kfac),
        ),
    )
}
"""Name -> score."""
