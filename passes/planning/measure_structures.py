"""Give every coupled structure a loss for each of its sizes: statistics of both sides -> nats.

Before:  layers.0.mlp  352 channels: gate_proj, up_proj -> down_proj
After:   layers.0.mlp  width 64: 0.021, ..., width 344: 0.0001 nats; ranks of what is left at some
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from gacfx.compressors.curves import OutputWeight
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import Decomposition
from gacfx.compressors.pruning.scores import Evidence
from gacfx.compressors.pruning.structures import (
    Measured,
    refused_curve,
    scored_curve,
    structure_curve,
)
from gacfx.compressors.values import VALUES
from gacfx.core.statistics import Moments, Statistics
from gacfx.core.structure_curves import Losses, StructureCurve
from gacfx.core.structures import Structure
from gacfx.core.taylor import TaylorSums
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import DecompositionFailed, PipelineError
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, state, target_nodes, target_sites
from gacfx.passes.planning.measure_curves import dense_weight


@register
@dataclass(frozen=True)
class MeasureStructures(GacPass):
    """Eliminate the units of every structure once, or add up the scores of a method that prunes; a
    failure keeps the structure as it is."""

    name = "measure-structures"
    needs = frozenset({Fact.SITES, Fact.TARGETS, Fact.CURVES})
    drops = frozenset({Fact.CANDIDATES, Fact.PLAN})
    required = frozenset({"statistics"})

    method: str = "gfwsvd"
    """Metric of the factors of what is left; see ``gacfx methods``."""
    value: str = "two-sided"
    """Value model: two-sided, fisher, or paper for the method's own scores."""
    ranks: bool = True
    """Also measure ranks of what is left, at some sizes."""
    statistics: Statistics | None = given()
    skip_nats: dict[str, float] | None = given()
    """Structure -> rise without its block; those that are not named must stay."""
    gradients: Mapping[str, TaylorSums] | None = given()
    """Module -> gradients of its weight, for methods whose scores need them."""

    def run(self, gm: GraphModule) -> bool:
        assert self.statistics is not None
        check_value(self.method, self.value)
        label = VALUES.find(self.value).label(METHODS.find(self.method))
        found = list[StructureCurve]()
        for structure in coupled_structures(gm):
            reason = untreated(gm, structure)
            if not reason:
                try:
                    measured = measured_structure(gm, structure, self.statistics)
                    found.append(self._curve(measured, label))
                    continue
                except DecompositionFailed as error:
                    reason = error.reason
            found.append(refused_curve(structure, label, reason))
        state(gm).structure_curves = tuple(found)
        return False

    def _curve(self, measured: Measured, label: str) -> StructureCurve:
        structure, method = measured.structure, METHODS.find(self.method)
        if VALUES.find(self.value).by_proxy:
            known = Evidence(measured.weights, measured.moments, self.gradients)
            return scored_curve(structure, method.scores(structure, known), label)
        return structure_curve(
            measured,
            label,
            structure_output(self.value),
            self._losses if self.ranks and method.makes_ranks else None,
            skip_nats=(self.skip_nats or {}).get(structure.name),
        )

    def _losses(self, module: str, weight: Tensor, moments: Moments) -> Losses:
        return self.decompose(weight, moments, module).curve(self.value).loss_nats

    def decompose(self, weight: Tensor, moments: Moments, module: str) -> Decomposition:
        """What is left of a weight in the metric of the method."""
        return METHODS.find(self.method).decompose(weight, moments, module)


def check_value(method: str, value: str) -> None:
    """Nothing when a value model says what pruning costs, or the method does in its place.

    Raises:
        PipelineError: neither does.
    """
    if not (VALUES.find(value).by_proxy and METHODS.find(method).prunes):
        structure_output(value)


def structure_output(value: str) -> OutputWeight:
    """What stands in the place of G under a value model.

    Raises:
        PipelineError: the value model says nothing of structures.
    """
    found = VALUES.find(value).structures
    if not found:
        able = ", ".join(model.name for model in VALUES.values() if model.structures)
        raise PipelineError(
            f"value model {value!r} says nothing of what pruning costs; take one of {able}"
        )
    return OutputWeight(found)


def untreated(gm: GraphModule, structure: Structure) -> str:
    """Why nothing of a structure may be pruned; empty if it may."""
    if structure.refused:
        return structure.refused
    targeted = target_nodes(gm)
    missing = [module for module in structure.modules if module not in targeted]
    return f"{missing[0]} is left out of the plan" if missing else ""


def measured_structure(gm: GraphModule, structure: Structure, statistics: Statistics) -> Measured:
    """A structure with its weights and their moments.

    Raises:
        DecompositionFailed: a weight has no statistics that can be used.
    """
    sites = target_sites(gm)
    weights = dict[str, Tensor]()
    for module in structure.modules:
        if module not in statistics.moments:
            raise DecompositionFailed(module, "no calibration statistics")
        weights[module] = dense_weight(gm, sites[module])
        if not bool(torch.isfinite(weights[module]).all()):
            raise DecompositionFailed(module, "NaN or infinite weight")
        if problem := statistics.moments[module].problem():
            raise DecompositionFailed(module, problem)
    moments = {module: statistics.moments[module] for module in structure.modules}
    return Measured(structure, weights, moments)
