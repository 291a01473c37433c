"""What calibration found on one text, and what is made of it: curves, and factors of a plan."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.calibration.cost import plan_bytes
from gacfx.calibration.evaluate import evaluate
from gacfx.calibration.few_tokens import warn_of_few_tokens
from gacfx.calibration.gather import gather_texts
from gacfx.calibration.running import device_of
from gacfx.calibration.scattered import gather_by_shards
from gacfx.calibration.taylor import taylor_sums
from gacfx.calibration.text import Corpus
from gacfx.compressors.kept import KeptDecompositions
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import Compressor, Decomposition, Statistic
from gacfx.compressors.pruning.factors import structure_factors
from gacfx.compressors.shared import SharedSvd, shared_factors
from gacfx.compressors.values import NATS, unit_of
from gacfx.core.curves import Curve
from gacfx.core.decision import Decision
from gacfx.core.kept_factors import keep
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Choice, Plan, Weight
from gacfx.core.pruning import GONE, Skip
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.shared_curves import SharedCurve
from gacfx.core.sites import MatmulSite
from gacfx.core.statistics import Moments, Statistics
from gacfx.core.store import Store
from gacfx.core.stored_gradients import Gradients, kept_gradients
from gacfx.core.stored_moments import merge
from gacfx.core.structure_curves import StructureCurve
from gacfx.core.structures import Structure
from gacfx.core.taylor import merge_gradients
from gacfx.errors import DecompositionFailed, UnsupportedModel
from gacfx.graph.notes import state, target_sites
from gacfx.modules.install import swapped
from gacfx.modules.make import make_factors
from gacfx.passes.planning.measure_bases import MeasureBases
from gacfx.passes.planning.measure_curves import MeasureCurves, dense_weight
from gacfx.passes.planning.measure_structures import MeasureStructures, measured_structure

PROBED = 12
"""Blocks that the model is measured without: those that are forecast to cost least."""
PROBE_TOKENS = 2048
"""Text on which that is measured."""

Failed = dict[str, str]
"""Module -> why it cannot have what a plan chose for it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Statistics of one text, and the curves and decompositions that were made of them so far."""

    statistics: Statistics
    decompositions: MutableMapping[str, Decomposition] = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Value model -> curves of all targets."""
    structures: dict[str, tuple[StructureCurve, ...]] = field(default_factory=dict)
    """Value model -> curves of all coupled structures."""
    shared: dict[str, tuple[tuple[SharedCurve, ...], dict[str, str]]] = field(default_factory=dict)
    """Value model -> curves of weights that may share a basis, and why others do not."""
    bases: dict[str, SharedSvd] = field(default_factory=dict)
    """Group -> decomposition of its weights; none is kept where decompositions live in a store."""
    gradients: Gradients = field(default_factory=dict)
    """Module -> gradients of its weight; empty unless the method asked for them."""
    store: Store | None = None
    """Where decompositions and factors live; None for memory."""
    home: torch.device | None = None
    """Where the model is, and factors are to be; None for where they were made."""
    executor: Executor | None = None
    """Whose workers decompose the weights; None for this process."""

    def afresh(self, method: str, heads: Mapping[str, int] | None = None) -> "Evidence":
        """The same statistics, with nothing made of them yet by another method.

        Args:
            method: its name.
            heads: module -> key-value heads that its outputs are, for a method that looks at them.
        """
        known = self.decompositions
        kept: MutableMapping[str, Decomposition] = {}
        if isinstance(known, KeptDecompositions):
            kept = known.by(METHODS.find(method), heads)
        return replace(self, decompositions=kept, curves={}, structures={}, shared={}, bases={})

    def measure(
        self,
        gm: GraphModule,
        method: str,
        value: str,
        skip_nats: Mapping[str, float] | None = None,
        others: Iterable[str] = (),
        measured: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        """Leave the curves of all targets in the graph.

        Args:
            gm: with its targets.
            method: whose factors the curves are of.
            value: name of the value model.
            skip_nats: structure -> rise without its block; None to leave structures alone.
            others: value models whose curves will be asked for, too: each weight is decomposed and
                read once for all of them.
            measured: module -> losses at every rank, for a value model that is measured on text.
        """
        if value not in self.curves:
            tables = {name: dict[str, Curve]() for name in others if name not in self.curves}
            MeasureCurves(
                method=method,
                value=value,
                statistics=self.statistics,
                decompositions=self.decompositions,
                executor=self.executor,
                others=tables,
                measured=measured,
            )(gm)
            self.curves.update({**tables, value: state(gm).curves or {}})
        about = state(gm)
        about.curves, about.structure_curves = self.curves[value], ()
        if value not in self.shared:
            self._bases(method, value)(gm)
            self.shared[value] = about.shared_curves, about.unshared
        about.shared_curves, about.unshared = self.shared[value]
        if skip_nats is None:
            return
        if value not in self.structures:
            MeasureStructures(
                method=method,
                value=value,
                statistics=self.statistics,
                skip_nats=dict(skip_nats),
                gradients=self.gradients,
            )(gm)
            self.structures[value] = state(gm).structure_curves
        state(gm).structure_curves = self.structures[value]

    def factors(
        self, plan: Plan, gm: GraphModule, structures: tuple[Structure, ...]
    ) -> tuple[FactorSet, Failed]:
        """The tensors of every decision, and why some weights cannot have theirs.

        Args:
            plan: whose method makes the factors.
            gm: the dense graph.
            structures: of the graph.
        """
        factors, failed = FactorSet(), Failed()
        several = {choice.group: choice for choice in plan.choices if len(choice.weights) > 1}
        for structure in structures:
            if structure.name in several:
                made, lost = self._structure(plan, gm, structure, several[structure.name])
                factors |= {
                    name: keep(self.store, name, one, self.home) for name, one in made.items()
                }
                failed |= lost
        for choice in several.values():
            if isinstance(choice.decision, SharedBasis):
                made, lost = self._shared(plan, gm, choice, choice.decision)
                factors |= made
                failed |= lost
        inside = {weight.module for choice in several.values() for weight in choice.weights}
        for module, decision in plan.decisions.items():
            if module in inside:
                continue
            try:
                factors[module] = self._single(plan.weights[module], decision)
            except DecompositionFailed as error:
                failed[module] = error.reason
        return factors, failed

    def _single(self, weight: Weight, decision: Decision) -> Factors:
        """The tensors of one weight, whose decomposition is in memory meanwhile."""
        source = self.decompositions[weight.module]
        made = make_factors(source, decision, weight.rows, weight.columns, source.weight_MN.dtype)
        return keep(self.store, weight.module, made, self.home)

    def _bases(self, method: str, value: str) -> MeasureBases:
        bases = self.bases if self.store is None else None
        return MeasureBases(method=method, value=value, statistics=self.statistics, bases=bases)

    def _shared(
        self, plan: Plan, gm: GraphModule, choice: Choice, decision: SharedBasis
    ) -> tuple[FactorSet, Failed]:
        """The tensors of one group that shares a basis."""
        bases = self._bases(plan.provenance.method, plan.provenance.value_model)
        modules = tuple(weight.module for weight in choice.weights)
        try:
            made = shared_factors(bases.decomposed(gm, choice.group, modules), decision)
        except DecompositionFailed as error:
            return {}, dict.fromkeys(modules, error.reason)
        return {name: keep(self.store, name, one, self.home) for name, one in made.items()}, {}

    def _structure(
        self, plan: Plan, gm: GraphModule, structure: Structure, choice: Choice
    ) -> tuple[FactorSet, Failed]:
        """The tensors of one structure that is pruned."""
        method = METHODS.find(plan.provenance.method)

        def decompose(weight: Tensor, moments: Moments, module: str) -> Decomposition:
            return method.decompose(weight, moments, module)

        measured = measured_structure(gm, structure, self.statistics)
        # Nats are those of an elimination, in which the inputs that stay take over.
        refits = method.compensates or unit_of(plan.provenance.value_model) == NATS
        measured = replace(measured, compensates=refits)
        return structure_factors(measured, choice, decompose, self.decompositions)


def gather_evidence(
    model: nn.Module,
    graph: GraphModule,
    texts: tuple[Corpus, Corpus],
    digest: str,
    method: Compressor,
    *,
    both_sides: frozenset[str],
    seed: int,
    progress: Callable[[float], None],
    store: Store | None = None,
    device: torch.device | None = None,
    executor: Executor | None = None,
    shards: int = 1,
) -> tuple[Evidence, Evidence, float]:
    """(evidence of the first text, of both texts together, loss of the model on the second).

    Args:
        model: dense.
        graph: of the model, with its targets.
        texts: to fit, and to judge.
        digest: of both together.
        method: whose decompositions are wanted; one that asks for gradients of the weights in
            structures gets them, which takes as long again and keeps 16 bytes for each of their
            parameters.
        both_sides: modules of structures, with second moments of both sides.
        seed: of the sampled labels.
        progress: called with the documents that were done.
        store: where statistics and decompositions live; None to hold all of them in memory.
        device: with a store, where layers compute and weights are decomposed; None for where the
            model is. What pruning needs is computed there in any case.
        executor: whose workers decompose the weights; None for this process.
        shards: parts of the texts that they gather; 1 to gather in this process.
    """
    sites = target_sites(graph)
    warn_of_few_tokens(model, texts, list(sites))
    gather = gather_texts
    if executor is not None and shards > 1:
        gather = partial(gather_by_shards, executor=executor, shards=shards)
    fit, rest = gather(
        model,
        texts,
        sites,
        both_sides=both_sides,
        seed=seed,
        progress=progress,
        store=store,
        device=device,
        read_on=None if both_sides else device,
    )
    full = merge((fit, rest), digest)

    def known(part: str, statistics: Statistics) -> MutableMapping[str, Decomposition]:
        if store is None:
            return {}
        weight_of = partial(_weight_of, graph, sites)
        spare = plan_bytes((*w.shape, w.itemsize) for w in map(weight_of, sites))
        return KeptDecompositions(store, part, method, weight_of, statistics.moments, spare)

    kept = known("fit", fit), known("full", full)
    made = partial(Evidence, store=store, home=device_of(model), executor=executor)
    if Statistic.WEIGHT_GRADIENTS not in method.needs:
        return made(fit, kept[0]), made(full, kept[1]), rest.dense_nats_per_token
    asked = [name for name in sites if name in both_sides]

    def gradients(part: str, text: Corpus) -> Gradients:
        make = partial(taylor_sums, model, text, asked, progress=lambda _: progress(1))
        return kept_gradients(store, f"gradients.{part}", asked, make)

    one, other = gradients("fit", texts[0]), gradients("rest", texts[1])
    tokens = texts[0].tokens, texts[1].tokens
    both = {name: merge_gradients(one[name], other[name], tokens) for name in asked}
    found = made(fit, kept[0], gradients=one), made(full, kept[1], gradients=both)
    return *found, rest.dense_nats_per_token


def _weight_of(graph: GraphModule, sites: Mapping[str, MatmulSite], module: str) -> Tensor:
    return dense_weight(graph, sites[module])


def skip_losses(
    model: nn.Module,
    structures: tuple[Structure, ...],
    statistics: Statistics,
    corpus: Corpus,
) -> dict[str, float]:
    """Structure -> measured rise of the loss without its block, nats per token.

    Of the blocks that can go, the :data:`PROBED` that are forecast to cost least; the forecast,
    1/2 tr(G W A W^T) of the closing weight, is too far off to plan by.

    Args:
        model: left as it was.
        structures: of the model.
        statistics: of their weights.
        corpus: about :data:`PROBE_TOKENS` of it are read.
    """
    free = [
        each
        for each in structures
        if not (each.refused or each.keeps_block) and statistics.moments.keys() >= {*each.modules}
    ]
    costs = {each.name: _whole_loss(each, statistics) for each in free}
    text, found = corpus.sample(PROBE_TOKENS), dict[str, float]()
    dense = evaluate(model, text).checked().nats_per_token
    for each in sorted(free, key=lambda one: costs[one.name])[:PROBED]:
        gone = {m.module: Factors(GONE, m.rows, m.columns, {}) for m in each.members}
        try:
            with swapped(model, gone, {each.name: Skip()}):
                rise = evaluate(model, text).nats_per_token - dense
        except UnsupportedModel:  # other code looks into the block, so it stays
            continue
        if isfinite(rise):
            found[each.name] = max(rise, 0.0)
    return found


def _whole_loss(structure: Structure, statistics: Statistics) -> float:
    """Forecast rise without the closing weight; infinite where nothing is known of it."""
    moments = statistics.moments.get(structure.closing.module)
    if moments is None or moments.problem():
        return inf
    return 0.5 * float((moments.projected_moment * moments.side_moment).sum())
