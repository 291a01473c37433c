"""From a model and kinds of text to a model whose prompts pick their ranks, on disk.

routed = train(model, tokenizer, texts={"code": "code.jsonl", "prose": "prose.txt"}, removed="0.4")
save(routed, "small")
"""

# P prompts, T tokens, F features

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gacfx.api import Text, apply_, check_saves, read_calibration
from gacfx.calibration.text import Corpus, split
from gacfx.checkpoint.hf import declare_
from gacfx.checkpoint.save import save_checkpoint
from gacfx.compressors.methods import METHODS
from gacfx.core.asked import check_asked, check_module
from gacfx.core.defaults import GPU, METHOD
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CalibrationError, CheckpointError, InfeasibleBudget, PlanError
from gacfx.hardware.contracts import chosen_align
from gacfx.hardware.profile import Profile, load_profile
from gacfx.modules.routing_hooks import attach_, means_of
from gacfx.progress import Progress
from gacfx.routing.clusters import cluster_prompts
from gacfx.routing.planning import active_share, check_shares, stored_share, with_own_ranks
from gacfx.routing.study import RoutingStudy, is_static
from gacfx.routing.trials import check_long, judged
from gacfx.suitable import check_dtype
from gacfx.verification import verify
from gacfx.work import open_work

PROMPT_TOKENS = 96
"""Of a prompt, by which kinds of text are told apart. Shorter prompts are less sure of their kind,
and go to the static prefix more often."""
LEAST_WINDOWS = 4
"""Of a kind of text that is found: its prompts are told apart on four parts in turn."""
LEAST_BLOCK = 16
"""Ranks that are picked together, at least: the smallest tile of a Tensor Core along K."""


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
    progress: Progress = lambda *_: None,
    work: str | Path | None = None,
) -> RoutedModel:
    """Plan pools with own ranks of each kind of text, verify them on the graph, and put them and
    their router into ``model``.

    Args:
        model: Hugging Face causal language model in eval mode, changed in place.
        tokenizer: the model's; not needed where texts are Corpora.
        texts: kind of text -> text, as :func:`gacfx.compress` takes it; or one text, whose kinds
            ``clusters`` finds.
        clusters: how many kinds to find in one text.
        removed: share of the targeted weights that shall not run for a prompt.
        stored: most that may be stored, as a share of the targeted weights; None: no limit.
        block: ranks that are picked together; None: what the GPU likes, 16 at least.
        gpu: profile whose alignment blocks follow.
        method: whose components the static prefix is made of.
        skip: patterns of module names to leave dense.
        seed: of the sampled labels and of clusters.
        calibration_tokens: of each text, at most.
        prompt_tokens: of a prompt.
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
    profile = load_profile(gpu)
    check_dtype(model, profile)
    for name, given in (("prompt_tokens", prompt_tokens), ("block", 1 if block is None else block)):
        if given < 1:
            raise PlanError(f"{name} {given}: at least 1")
    corpora = kinds_of(model, tokenizer, texts, clusters, calibration_tokens, seed)
    held = {name: split(corpus)[1] for name, corpus in corpora.items()}
    check_long(held, prompt_tokens)
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
        size = block or max(chosen_align(Search(), profile, study.dtype), LEAST_BLOCK)
        plans = plans_to_try(study, removed, stored, size)
        trials = judged(study, plans, [*held.values()], prompt_tokens, progress)
        plan = plans[trials[0].name]
        planned = study.planned(plan)
        verify(study, planned, profile, Workload())
        router = study.router(plan)
    finally:
        if store is not None:
            store.close()
    apply_(model, planned)
    if router is not None:
        attach_(model, router)
        declare_(model)
    report = {
        "routing": {
            "kinds": list(corpora),
            "prompts": [len(each) for each in study.prompts],
            "prompt_tokens": prompt_tokens,
            "block": size,
            "method": method,
            "gpu": profile.name,
            "active_share": active_share(plan),
            "stored_share": stored_share(plan),
            "plan": trials[0].name,
            "trials": {trial.name: trial.nats_per_token for trial in trials},
            "decisions": plan.counts,
        }
    }
    return RoutedModel(model, tokenizer, planned, report)


def plans_to_try(
    study: RoutingStudy, removed: float | str, stored: float | str | None, block: int
) -> dict[str, Plan]:
    """Name -> plan: the static one, pools by the curves, and the static ranks with own ones."""
    study.curves(block)  # of pairs and pools at once
    try:
        static = study.plan(removed=removed, stored=stored, block=block, offered=is_static)
    except InfeasibleBudget as error:
        error.add_note(
            f"a weight has {block} ranks or a multiple of it, or stays dense: a smaller block "
            "reaches less"
        )
        raise
    plans = {
        "static": static,
        "planned pools": study.plan(removed=removed, stored=stored, block=block),
    }
    for name, share in (("own ranks", 0.0), ("own ranks, half shared", 0.5)):
        made = with_own_ranks(static, share, block, len(study.names))
        made = replace(made, budget=plans["planned pools"].budget)
        if stored is None or made.kept_params <= made.budget.limit_params:
            plans[name] = made
    return plans


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


def kinds_of(
    model: nn.Module,
    tokenizer: Any,
    texts: "Mapping[str, Text] | Text",
    clusters: int | None,
    calibration_tokens: int | str | None,
    seed: int,
) -> dict[str, Corpus]:
    """Kind of text -> its windows; found by k-means where one text is given.

    Raises:
        CalibrationError: one text without a number of kinds, or several with one; too little text
            of a kind.
    """
    if isinstance(texts, Mapping):
        if clusters is not None:
            raise CalibrationError("clusters are found in one text; here are several, by name")
        if len(texts) < 2:
            raise CalibrationError("one kind of text leaves nothing to route; name two at least")
        return {
            name: _read(text, model, tokenizer, calibration_tokens, name)
            for name, text in texts.items()
        }
    if clusters is None or clusters < 2:
        raise CalibrationError(f"clusters {clusters}: say how many kinds one text has, 2 at least")
    whole = read_calibration(texts, model, tokenizer, calibration_tokens)
    count = len(whole.documents)
    if clusters * LEAST_WINDOWS > count:
        raise CalibrationError(
            f"clusters {clusters}: the text has {count} windows, and a kind needs {LEAST_WINDOWS}; "
            "take fewer clusters or more text"
        )
    means_PF = torch.cat([means_of(model, ids_T[None]) for ids_T in whole.documents])
    cluster_P = cluster_prompts(means_PF, clusters, seed=seed)
    found = {}
    for at in range(clusters):
        places = torch.nonzero(cluster_P == at).flatten().tolist()
        if len(places) < LEAST_WINDOWS:
            raise CalibrationError(
                f"clusters {clusters}: the windows of kind {at + 1} are {len(places)}, and a kind "
                f"needs {LEAST_WINDOWS}; take fewer clusters or more text"
            )
        found[f"kind {at + 1}"] = whole.part(places)
    return found


def _read(
    text: "Text", model: nn.Module, tokenizer: Any, calibration_tokens: int | str | None, kind: str
) -> Corpus:
    """The windows of a kind of text, two at least, as a part of them is held back."""
    try:
        found = read_calibration(text, model, tokenizer, calibration_tokens)
        split(found)
    except CalibrationError as error:
        error.add_note(f"this is the text of {kind}")
        raise
    return found
