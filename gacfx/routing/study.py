"""A study of prompt-aware ranks: a model, kinds of text, and what each does in every weight.

study = RoutingStudy.make(model, {"code": corpus, "stories": corpus})
plan = study.plan(removed="0.4", stored="1.25", block=16)
apply_(model, study.planned(plan)); attach_(model, study.router(plan))
"""

# P prompts, F features, S pieces of a weight

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version

import torch
from torch import nn
from torch.fx import GraphModule

import gacfx
from gacfx.calibration.gather import gather_texts
from gacfx.calibration.text import Corpus, split
from gacfx.captured import captured
from gacfx.compressors.methods import METHODS
from gacfx.core.curves import ListedCurve
from gacfx.core.decision import Decision, LowRank
from gacfx.core.locks import fingerprint
from gacfx.core.materialise import Factors
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.provenance import Provenance
from gacfx.core.routed import Routed
from gacfx.core.sites import MatmulSite
from gacfx.core.statistics import Statistics
from gacfx.core.store import Store
from gacfx.core.stored_moments import merge
from gacfx.errors import DecompositionFailed, InfeasibleBudget
from gacfx.graph.notes import target_sites
from gacfx.graph.ops import DTYPES
from gacfx.modules.prompt_router import PromptRouter
from gacfx.passes.planning.measure_curves import dense_weight
from gacfx.progress import Count, Progress
from gacfx.routing.bases import SHARED_LEVELS, pair_factors, pool_factors, pool_losses
from gacfx.routing.classes import class_router, own_patterns
from gacfx.routing.planning import Budgets, plan_pools
from gacfx.routing.pools import PieceMoments, Pool
from gacfx.routing.prompts import Prompts, prompts_in
from gacfx.suitable import check_model

PoolMaker = Callable[[Pool, Sequence[PieceMoments], Routed, torch.dtype], Factors]
"""Makes the tensors of a pool: of a weight, of what each kind of text does in it."""


def is_static(decision: Decision) -> bool:
    """Candidates of a plan without routing."""
    return not isinstance(decision, Routed)


@dataclass(frozen=True, eq=False)
class RoutingStudy:
    """What calibration found of each kind of text, on a part to fit and on one that is held back.

    Sizes are chosen by what pools of the first part lose on the second; the factors of a plan are
    then made of both.
    """

    model: nn.Module
    graph: GraphModule
    method: str
    names: tuple[str, ...]
    """Of the kinds of text."""
    fit: tuple[Statistics, ...]
    held: tuple[Statistics, ...]
    prompts: Prompts
    """By which kinds are told apart."""
    progress: Progress = lambda *_: None
    remember: bool = False
    """Keep pools of all text in memory, 8 S (M + N + (1 + kinds) S) bytes for a weight [M, N] of
    rank S: for many plans of one study."""
    fit_prompts: Prompts | None = None
    """Those of the part to fit, for a router that is judged on the other; None: not known."""
    gpu: str = ""
    """Profile that plans are for."""
    _curves: dict[tuple[int, bool], dict[str, ListedCurve]] = field(default_factory=dict)
    _pools: dict[tuple[str, int], tuple[Pool, list[PieceMoments]]] = field(default_factory=dict)

    @staticmethod
    def make(
        model: nn.Module,
        texts: Mapping[str, Corpus],
        *,
        method: str = "gfwsvd",
        skip: tuple[str, ...] = (),
        seed: int = 0,
        prompt_tokens: int = 96,
        gpu: str = "",
        progress: Progress = lambda *_: None,
        store: Store | None = None,
    ) -> "RoutingStudy":
        """Capture the model and gather statistics of each kind of text.

        Args:
            model: dense, in evaluation mode, with input embeddings.
            texts: kind -> calibration text; a quarter of the windows of each is held back.
            method: metric of the factors.
            skip: patterns of module names to leave dense.
            seed: of the sampled labels.
            prompt_tokens: of a prompt, by which kinds of text are told apart.
            gpu: profile that plans are for.
            progress: called with (stage, done, total).
            store: where statistics live; None to hold all of them in memory.

        Raises:
            CalibrationError: too little text of a kind, or weights that are not finite.
            UnsupportedModel: no weight of the model can be compressed.
        """
        check_model(model)
        method = METHODS.find(method).name
        graph = captured(model, skip=skip).graph
        parts = [split(corpus) for corpus in texts.values()]
        windows = sum(len(corpus.documents) for corpus in texts.values())
        found = gather_texts(
            model,
            tuple(part for pair in parts for part in pair),
            target_sites(graph),
            seed=seed,
            progress=Count(progress, "calibrate", windows),
            store=store,
        )
        seen, other = (
            Prompts.of(
                model,
                [prompts_in(pair[at].documents, prompt_tokens) for pair in parts],
                prompt_tokens,
            )
            for at in range(2)
        )
        return RoutingStudy(
            model,
            graph,
            method,
            tuple(texts),
            found[::2],
            found[1::2],
            seen.with_more(other),
            progress,
            fit_prompts=seen,
            gpu=gpu,
        )

    @cached_property
    def sites(self) -> dict[str, MatmulSite]:
        """Module -> its product, of all targets."""
        return dict(target_sites(self.graph))

    @cached_property
    def full(self) -> tuple[Statistics, ...]:
        """Statistics of each kind, of both parts together."""
        pairs = zip(self.fit, self.held, strict=True)
        return tuple(merge(pair, _digest(pair)) for pair in pairs)

    def pool(self, module: str, texts: Sequence[Statistics]) -> Pool:
        """The pool of a weight in the metric of all these texts together.

        Raises:
            DecompositionFailed: it has none.
        """
        pooled = merge(tuple(texts), _digest(texts)) if len(texts) > 1 else texts[0]
        weight = dense_weight(self.graph, self.sites[module])
        return Pool.of(weight, pooled.moments[module], METHODS.find(self.method), module)

    def curves(self, block: int, *, static: bool = False) -> dict[str, ListedCurve]:
        """Module -> what each pair and each pool of it costs on held-back text.

        Args:
            block: every size is a multiple of it.
            static: pairs alone will do, which take a tenth of the time.
        """
        if (block, False) in self._curves:
            static = False
        if (block, static) not in self._curves:
            count = Count(self.progress, "pairs" if static else "pools", len(self.sites))
            self._curves[block, static] = dict(self._listed(block, count, static=static))
        return self._curves[block, static]

    def _listed(
        self, block: int, count: Callable[[float], None], *, static: bool
    ) -> Iterator[tuple[str, ListedCurve]]:
        for module in self.sites:
            rows, columns = dense_weight(self.graph, self.sites[module]).shape
            try:
                pool = self.pool(module, self.fit)
            except DecompositionFailed as error:
                yield module, ListedCurve(module, rows, columns, {}, error.reason)
            else:
                fit, held = (
                    [pool.seen(each.moments[module]) for each in part]
                    for part in (self.fit, self.held)
                )
                levels = () if static else SHARED_LEVELS
                losses = pool_losses(fit, held, rows, columns, block, levels)
                yield module, ListedCurve(module, rows, columns, losses)
            count(1)

    def plan(
        self,
        *,
        removed: str | float,
        stored: str | float | None = None,
        block: int,
        offered: Callable[[Decision], bool] = lambda _: True,
    ) -> Plan:
        """The plan of least loss under both budgets; see :func:`gacfx.routing.planning.plan_pools`.

        Args:
            removed: share of the targeted weights that shall not run.
            stored: most that may be stored, as a share of the targeted weights; None: no limit.
            block: every size is a multiple of it.
            offered: which candidates may be taken; :func:`is_static` for pairs only.

        Raises:
            PlanError, InfeasibleBudget: as there.
        """
        made = plan_pools(
            self.curves(block, static=offered is is_static),
            removed=removed,
            stored=stored,
            model_params=sum(each.numel() for each in self.model.parameters()),
            provenance=self._provenance(block),
            offered=offered,
        )
        locks = {name: value for each in self.fit for name, value in each.digests.items()}
        digests = {name: locks[name] for name in made.weights if name in locks}
        return replace(made, fingerprint=fingerprint(self.model), digests=digests)

    def planned(
        self,
        plan: Plan,
        texts: Sequence[Statistics] | None = None,
        make: PoolMaker = pool_factors,
    ) -> Planned:
        """A plan with its factors.

        Args:
            plan: of this study.
            texts: statistics of each kind of text; None for all text of each.
            make: what a pool holds behind its static prefix; own directions, if nothing is said.
        """
        texts = self.full if texts is None else texts
        count = Count(self.progress, "factors", len(plan.decisions))
        factors = dict[str, Factors]()
        for module, decision in plan.decisions.items():
            pool, kinds = self._known(module, texts)
            dtype = self.model_dtype
            if isinstance(decision, Routed):
                factors[module] = make(pool, kinds, decision, dtype)
            else:
                assert isinstance(decision, LowRank)
                factors[module] = pair_factors(pool, decision.rank, dtype)
            count(1)
        return Planned(plan, factors)

    def _known(self, module: str, texts: Sequence[Statistics]) -> tuple[Pool, list[PieceMoments]]:
        """(pool of a weight, what each kind of text does in it), remembered if that was asked."""
        key = module, id(texts)
        if key not in self._pools:
            pool = self.pool(module, texts)
            made = pool, [pool.seen(each.moments[module]) for each in texts]
            if not self.remember or texts is not self.full:
                return made
            self._pools[key] = made
        return self._pools[key]

    def router(self, plan: Plan, *, fit_only: bool = False) -> PromptRouter | None:
        """The router that chooses among the own directions of a plan; None where it has none.

        Args:
            plan: of this study.
            fit_only: it knows the prompts of the part to fit alone.
        """
        routed = {n: each for n, each in plan.decisions.items() if isinstance(each, Routed)}
        if not routed:
            return None
        patterns = own_patterns(routed, len(self.names))
        return class_router(self.known_prompts(fit_only=fit_only), routed, patterns)

    def known_prompts(self, *, fit_only: bool = False) -> Prompts:
        """What a router knows of each kind.

        Args:
            fit_only: those of the part to fit alone.
        """
        return self.fit_prompts if fit_only and self.fit_prompts is not None else self.prompts

    @property
    def seed(self) -> int:
        """Of the sampled labels."""
        return self.fit[0].seed

    @property
    def dtype(self) -> str:
        """Of the model's parameters, as profiles name it."""
        return DTYPES[self.model_dtype]

    @property
    def model_dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        return next(self.model.parameters()).dtype

    def _provenance(self, block: int) -> Provenance:
        return Provenance(
            method=self.method,
            value_model=f"pools:{len(self.names)}",
            gpu=self.gpu,
            align=block,
            dtype=self.dtype,
            versions={
                "gacfx": gacfx.__version__,
                "torch": torch.__version__,
                "transformers": version("transformers"),
            },
            calibration_tokens=sum(each.tokens for each in (*self.fit, *self.held)),
            calibration_digest=_digest((*self.fit, *self.held)),
            seed=self.seed,
        )


def static_plan(study: RoutingStudy, budgets: Budgets) -> Plan:
    """The plan of pairs alone, under the same budgets.

    Raises:
        InfeasibleBudget: no plan keeps them.
    """
    removed, stored, align = budgets.removed, budgets.stored, budgets.align
    try:
        return study.plan(removed=removed, stored=stored, block=align, offered=is_static)
    except InfeasibleBudget as error:
        less = "a smaller block reaches less" if align == budgets.block else "as the GPU likes"
        error.add_note(f"a weight has {align} ranks or a multiple of it, or stays dense: {less}")
        raise


def _digest(texts: Sequence[Statistics]) -> str:
    return sha256("".join(each.text_digest for each in texts).encode()).hexdigest()
