"""From a model and kinds of text to a model whose prompts pick their ranks, on disk.

routed = train(model, tokenizer, texts={"code": "code.jsonl", "prose": "prose.txt"}, removed="0.4")
save(routed, "small")
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from gacfx.api import Text, apply_, check_saves
from gacfx.calibration.text import Corpus, split
from gacfx.checkpoint.hf import declare_
from gacfx.checkpoint.save import save_checkpoint
from gacfx.compressors.methods import METHODS
from gacfx.core.asked import check_asked, check_module
from gacfx.core.defaults import GPU, METHOD
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CheckpointError, PlanError
from gacfx.hardware.contracts import chosen_align
from gacfx.hardware.profile import Profile, load_profile
from gacfx.modules.routing_hooks import attach_
from gacfx.progress import Progress
from gacfx.routing.kinds import check_kinds, kinds_of
from gacfx.routing.one_basis.choose_masks import STEPS, choose_masks
from gacfx.routing.own_ranks import choose_own_ranks
from gacfx.routing.planning import Budgets, active_share, check_shares, stored_share
from gacfx.routing.study import RoutingStudy
from gacfx.routing.trials import check_long
from gacfx.suitable import check_dtype
from gacfx.verification import verify
from gacfx.work import open_work

PROMPT_TOKENS = 96
"""Of a prompt, by which kinds of text are told apart. Shorter prompts are less sure of their kind,
and go to the static prefix more often."""
LEAST_BLOCK = 16
"""Ranks that are picked together, at least: the smallest tile of a Tensor Core along K."""
Picks = Literal["own", "static", "domain", "linear"]
PICKS: tuple[Picks, ...] = get_args(Picks)
ONE_KIND = ("static", "linear")
"""Those that need no kinds of text."""


@dataclass(frozen=True, eq=False)
class RoutedModel:
    """A model whose prompts pick their ranks, and what it was made of."""

    model: Any
    tokenizer: Any
    planned: Planned
    report: dict[str, Any]
    """Plain JSON values: kinds of text, budgets, what was promised."""


@plain_torch()
def train(
    model: Any,
    tokenizer: Any = None,
    *,
    texts: "Mapping[str, Text] | Text",
    clusters: int | None = None,
    removed: float | str = "0.4",
    stored: float | str | None = "1.25",
    block: int | None = None,
    gpu: str | Profile = GPU,
    method: str = METHOD,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    calibration_tokens: int | str | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
    picks: Picks = "own",
    steps: int = STEPS,
    progress: Progress = lambda *_: None,
    work: str | Path | None = None,
) -> RoutedModel:
    """Plan pools, verify them on the graph, and put them and their router into ``model``.

    Args:
        model: Hugging Face causal language model in eval mode, changed in place.
        tokenizer: the model's; not needed where texts are Corpora.
        texts: kind of text -> text, as :func:`gacfx.compress` takes it; or one text, whose kinds
            ``clusters`` finds.
        clusters: how many kinds to find in one text; None for one, where picks need no kinds.
        removed: share of the targeted weights that shall not run for a prompt.
        stored: most that may be stored, as a share of the targeted weights; None: no limit.
        block: ranks that are picked together; None: what the GPU likes, 16 at least.
        gpu: profile whose alignment blocks follow.
        method: whose components the static prefix is made of.
        skip: patterns of module names to leave dense.
        seed: of the sampled labels and of clusters.
        calibration_tokens: of each text, at most.
        prompt_tokens: of a prompt.
        picks: among what prompts pick. ``own``: ranks of the kind of text that a prompt is of. The
            others pick among the pieces of one basis, by masks that are trained while a copy of the
            model is in memory: ``static`` one for all, ``domain`` one for each kind of text,
            ``linear`` by a linear score of each block, as in the paper. Whichever loses more on
            held-back text than something simpler is not taken.
        steps: of the training of masks.
        progress: called with (stage, done, total).
        work: folder for statistics; a run that was stopped goes on from there.

    Raises:
        CalibrationError: too little text of a kind.
        PlanError, InfeasibleBudget: budgets that are none, or that no plan keeps.
        UnsupportedModel, CheckpointError: the result could not be saved and loaded again.
    """
    check_module(model)
    check_saves(model)
    check_asked(skip=skip, seed=seed)
    check_shares(removed, stored)
    if not METHODS.find(method).makes_ranks:
        raise PlanError(f"method {method} only prunes, and makes no ranks; gacfx methods lists all")
    if picks not in PICKS:
        raise PlanError(f"picks {picks!r}: one of {', '.join(PICKS)}")
    profile = load_profile(gpu)
    check_dtype(model, profile)
    least = {"prompt_tokens": prompt_tokens, "block": 1 if block is None else block, "steps": steps}
    for name, given in least.items():
        if type(given) is not int or given < 1:
            raise PlanError(f"{name} {given!r}: a whole number, at least 1")
    corpora = kinds_of(
        model, tokenizer, texts, clusters, calibration_tokens, seed, one=picks in ONE_KIND
    )
    parts = {name: split(corpus) for name, corpus in corpora.items()}
    fit, held = ({name: pair[at] for name, pair in parts.items()} for at in range(2))
    check_long(held, prompt_tokens)
    if picks != "own":
        check_long(fit, prompt_tokens, "is trained on")
    if picks in ("own", "domain"):
        check_kinds(fit, prompt_tokens)
    store = None
    if work is not None:
        together = Corpus(tuple(ids for each in corpora.values() for ids in each.documents))
        store = open_work(work, model, together, skip=skip, seed=seed)
    try:
        study = RoutingStudy.make(
            model,
            corpora,
            method=method,
            skip=skip,
            seed=seed,
            prompt_tokens=prompt_tokens,
            gpu=profile.name,
            progress=progress,
            store=store,
        )
        liked = chosen_align(Search(), profile, study.dtype)
        size = block or max(liked, LEAST_BLOCK)
        align = size if picks == "own" else math.lcm(size, liked)
        budgets = Budgets(removed, stored, size, align)
        if picks == "own":
            chosen = choose_own_ranks(study, held, budgets, prompt_tokens)
        else:
            chosen = choose_masks(
                study,
                fit,
                held,
                budgets,
                prompt_tokens,
                kind=picks,
                steps=steps,
                folder=None if work is None else Path(work),
            )
        planned, router = chosen.candidate.planned, chosen.candidate.router
        verify(study, planned, profile, Workload())
    finally:
        if store is not None:
            store.close()
    apply_(model, planned)
    if router is not None:
        attach_(model, router)
        declare_(model)
    report = {
        "routing": {
            "picks": picks,
            "kinds": list(corpora),
            "prompts": [len(each) for each in study.prompts.whole],
            "prompt_tokens": prompt_tokens,
            "block": size,
            "method": method,
            "gpu": profile.name,
            "active_share": active_share(planned.plan),
            "stored_share": stored_share(planned.plan),
            "plan": chosen.candidate.name,
            "trials": {trial.name: trial.nats_per_token for trial in chosen.trials},
            "decisions": planned.plan.counts,
        }
    }
    return RoutedModel(model, tokenizer, planned, report)


def save(routed: RoutedModel, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a Hugging Face folder, router included; plain transformers loads it after ``import
    gacfx``.

    Raises:
        CheckpointError: the folder exists and ``overwrite`` is false, or it cannot be written.
    """
    if not isinstance(routed, RoutedModel):
        raise CheckpointError(f"{type(routed).__name__} is not what gacfx.routing.train returns")
    check_saves(routed.model)
    return save_checkpoint(
        routed.model,
        routed.tokenizer,
        Path(out),
        plan=routed.planned.plan,
        factors=routed.planned.factors,
        report=routed.report,
        overwrite=overwrite,
    )
