"""PARSE's own form, as it is served: trained picks among the pieces of one basis.

    static          the first pieces of each weight, as the method orders them
    static mask     others in their place, the same for every prompt: a plain pair again
    domain masks    a pattern for each kind of text, chosen by the router of kinds
    linear router   a linear score for each block of each pool

Training one mask brings most of what the others seem to bring, so each is held against it behind
held-back prompts, and only what loses least is taken. Pools, masks and routers that are tried are
made of the other text; a learning rate is chosen on the held-back text as well, by KL. Pools are
stored best first by the static mask: prompts of no kind run it.
"""

# P prompts, T tokens, F features, B blocks, R ranks of a pool

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gacfx.applying import apply
from gacfx.calibration.text import Corpus
from gacfx.core.decision import LowRank
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.routed import Routed
from gacfx.modules.prompt_router import Projection
from gacfx.modules.routing_hooks import means_of
from gacfx.progress import Count
from gacfx.routing.classes import class_router, principal
from gacfx.routing.one_basis.mask_steps import MaskTraining
from gacfx.routing.one_basis.mask_training import best_learning_rate
from gacfx.routing.one_basis.masks import Kind, TrainedMasks, open_blocks
from gacfx.routing.one_basis.singular import singular_factors, widened
from gacfx.routing.planning import Budgets, share_of
from gacfx.routing.pools import PieceMoments, Pool
from gacfx.routing.study import RoutingStudy, static_plan
from gacfx.routing.trials import Candidate, Chosen, judged

STEPS = 60
"""Of a training, as in ``python -m benchmarks.parse.masks``."""
FEATURES = 8
"""Numbers of a prompt that linear scores look at."""
BATCH = 64
"""Prompts whose embeddings are in memory at once."""
Served = Literal["static", "domain", "linear"]
"""Kinds of masks that a router, or a plain pair, picks as they do."""
RATES = (0.0, 1.0)
"""Multiples of the learning rates that are tried; 0 keeps nothing worse than the start."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one length of all kinds, prompts in front, and what routers look at."""

    ids_PT: Tensor
    means_PF: Tensor
    """Mean embeddings of the prompts."""
    kinds_PC: Tensor
    """One-hot kind of text."""


@dataclass(frozen=True, eq=False)
class Training:
    """What masks are trained on."""

    study: RoutingStudy
    fit: Windows
    held: Windows
    prompt_tokens: int
    steps: int
    folder: Path | None
    """Where it goes on from."""

    def masks(
        self, pools: Planned, kind: Kind, projection: Projection, start: TrainedMasks | None = None
    ) -> TrainedMasks:
        """Masks over some pools, of the learning rate that does best on held-back windows.

        Args:
            pools: of a copy of the model.
            kind: of the masks.
            projection: to what linear scores look at.
            start: to go on from.
        """
        settings = MaskTraining(kind=kind, steps=self.steps, seed=self.study.seed)
        folder = self.folder
        if folder is not None:
            said = f"{pools.plan.to_json()} {settings} {self.prompt_tokens}"
            mixed = sha256(said.encode())
            folder = folder / "masks" / mixed.hexdigest()[:16]
        found = best_learning_rate(
            apply(self.study.model, pools),
            (self.fit.ids_PT, self.held.ids_PT),
            self.prompt_tokens,
            self.study.model,
            (features(self.fit, kind, projection), features(self.held, kind, projection)),
            settings,
            rates=RATES,
            start=start,
            checkpoints=folder,
            progress=self.study.progress,
        )
        return found.masks


def choose_masks(
    study: RoutingStudy,
    fit: Mapping[str, Corpus],
    held: Mapping[str, Corpus],
    budgets: Budgets,
    prompt_tokens: int,
    *,
    kind: Served,
    steps: int = STEPS,
    folder: Path | None = None,
) -> Chosen:
    """The picks that lose least behind held-back prompts.

    Args:
        study: of the model, which is the one that is right.
        fit: kind of text -> windows to train on.
        held: kind of text -> windows to choose learning rate and picks by.
        budgets: what runs decides the ranks, what is stored the size of the pools. With blocks of
            several ranks the first half of them always runs.
        prompt_tokens: of a prompt.
        kind: of the masks.
        steps: of the training of each kind of masks.
        folder: where trainings go on from; None to begin anew.

    Raises:
        PlanError, InfeasibleBudget: budgets that are none, or that no plan keeps.
        CalibrationError: no window of a kind is longer than a prompt, or too few prompts of a kind.
        CheckpointError: a harmed state of a training.
    """
    static = static_plan(study, budgets)
    plan = widened(
        static,
        pool=widest(static, budgets.stored),
        shared=0.5 if budgets.block > 1 else 0.0,
        block=budgets.block,
    )
    # Ranks that run are as the GPU likes them, and what a mixed batch picks is in steps of a block.
    plan = replace(plan, provenance=replace(plan.provenance, align=budgets.block))
    if budgets.stored is None:
        limit = plan.kept_params
        budget = replace(plan.budget, amount=str(limit), limit_params=limit)
        plan = replace(plan, budget=budget)
    candidates = [Candidate("static", study.planned(static, study.fit))]
    if any(isinstance(each, Routed) and open_blocks(each) for each in plan.decisions.values()):
        seen, other = (windows_of(study, part, prompt_tokens) for part in (fit, held))
        training = Training(study, seen, other, prompt_tokens, steps, folder)
        candidates += masked(training, plan, static, kind)
    count = Count(study.progress, "trials", len(candidates))
    trials = judged(study.model, candidates, held, prompt_tokens, count)
    taken = next(each for each in candidates if each.name == trials[0].name)
    return Chosen(with_all_text(study, taken), trials)


def with_all_text(study: RoutingStudy, taken: Candidate) -> Candidate:
    """A candidate as it is served: what masks do not hang on is made of all text.

    Args:
        study: of the model.
        taken: made of the part to fit.
    """
    if taken.name == "static":
        return replace(taken, planned=study.planned(taken.planned.plan))
    router = taken.router
    if router is None or router.shape.head != "classes":
        return taken
    rows = router.patterns().blocks
    patterns = [
        {n: found[at] for n, found in rows.items()} for at in range(1, len(study.names) + 1)
    ]
    return replace(taken, router=class_router(study.known_prompts(), router.routed, patterns))


def masked(training: Training, plan: Plan, static: Plan, kind: Served) -> Iterator[Candidate]:
    """The trained static mask, and what is trained from it.

    Args:
        training: of masks.
        plan: with pools of one basis.
        static: the plan of pairs that it was widened from.
        kind: of the masks.
    """
    study = training.study
    projection = principal(training.fit.means_PF, FEATURES)
    pools = study.planned(plan, study.fit, of_one_basis)
    one = training.masks(pools, "static", projection)
    pools, one = best_first(pools, one)
    yield Candidate("static mask", pairs_of(pools, static))
    if kind == "static":
        return
    masks = training.masks(pools, kind, projection, start=one)
    if kind == "linear":
        yield Candidate("linear router", pools, masks.router(projection))
        return
    rows = masks.pick(torch.eye(training.fit.kinds_PC.shape[1])).blocks
    patterns = [{name: found[at] for name, found in rows.items()} for at in range(len(study.names))]
    router = class_router(study.known_prompts(fit_only=True), masks.routed, patterns)
    yield Candidate("domain masks", pools, router)


def best_first(pools: Planned, masks: TrainedMasks) -> tuple[Planned, TrainedMasks]:
    """Pools that begin with what a static mask picks, and the mask over them.

    Args:
        pools: of one basis.
        masks: static ones.
    """
    factors, bias = FactorSet(), list[Tensor]()
    scores, picked = masks.scores(None), masks.pick().blocks
    for name, made in pools.factors.items():
        factors[name] = made
    for name, decision in masks.routed.items():
        made = pools.factors[name]
        chosen = picked[name][0].long()
        others = torch.ones(decision.blocks, dtype=torch.bool)
        others[chosen] = False
        order_B = torch.cat([chosen, others.nonzero().flatten()])
        ranks_R = (order_B[:, None] * decision.block + torch.arange(decision.block)).flatten()
        moved = {part: tensor[ranks_R].contiguous() for part, tensor in made.tensors.items()}
        factors[name] = Factors(decision, made.rows, made.columns, moved)
        if open_blocks(decision):
            bias.append(scores[name][0, order_B[decision.fixed :]])
    return Planned(pools.plan, factors), replace(masks, parameters={"bias": torch.cat(bias)})


def pairs_of(pools: Planned, static: Plan) -> Planned:
    """The first pieces of pools as plain pairs.

    Args:
        pools: of one basis.
        static: the plan of pairs of the same active ranks.
    """
    factors = FactorSet()
    for name, made in pools.factors.items():
        decision = made.decision
        factors[name] = made
        if isinstance(decision, Routed):
            down_RN, up_RM = (made.tensors[part][: decision.active] for part in ("down", "up"))
            factors[name] = Factors.pair(down_RN.contiguous(), up_RM.T.contiguous())
    return Planned(static, factors)


def widest(static: Plan, stored: float | str | None) -> float:
    """How many times the rank of its pairs a plan may store; infinite where there is no limit.

    Args:
        static: of pairs and dense weights.
        stored: most that may be stored, as a share of the targeted weights.
    """
    if stored is None:
        return math.inf
    pairs = sum(each.params for each in static.choices if isinstance(each.decision, LowRank))
    free = int(share_of(stored) * static.budget.targeted_params) - static.kept_params
    return 1 + max(free, 0) / max(pairs, 1)


def windows_of(study: RoutingStudy, parts: Mapping[str, Corpus], prompt_tokens: int) -> Windows:
    """Windows of a prompt and as much behind it, or as much as all kinds have.

    Args:
        study: of the model.
        parts: kind of text -> windows.
        prompt_tokens: of a prompt, which a window of each kind is longer than.
    """
    longest = [max(len(ids_T) for ids_T in each.documents) for each in parts.values()]
    tokens = min(2 * prompt_tokens, *longest)
    cut = [
        torch.stack(
            [
                part
                for ids_T in corpus.documents
                for part in ids_T.split(tokens)
                if len(part) == tokens
            ]
        )
        for corpus in parts.values()
    ]
    ids_PT = torch.cat(cut)
    counts = torch.tensor([len(each) for each in cut])
    return Windows(
        ids_PT,
        torch.cat([means_of(study.model, part) for part in ids_PT[:, :prompt_tokens].split(BATCH)]),
        torch.eye(len(cut)).repeat_interleave(counts, 0),
    )


def features(windows: Windows, kind: Kind, projection: Projection) -> Tensor | None:
    """What masks of a kind look at, float32 [P, features]; None for static ones."""
    if kind == "static":
        return None
    if kind == "domain":
        return windows.kinds_PC
    return projection(windows.means_PF.double())[0].float()


def of_one_basis(
    pool: Pool, _: Sequence[PieceMoments], decision: Routed, dtype: torch.dtype
) -> Factors:
    """The first pieces of a pool, whatever kinds of text there are."""
    return singular_factors(pool, decision, dtype)
