"""The Python door: plan, apply, compress, save, load; ``inspect`` stands with inspections.

Every door leaves ``torch.inference_mode``: calibration needs gradients, and what is made inside
that mode cannot be used outside.

compressed = gacfx.compress(model, tokenizer, calibration="texts.jsonl", ratio=0.2, gpu="h200")
gacfx.save(compressed, "out")
model, tokenizer = gacfx.load("out")
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from gacfx import replan
from gacfx.applying import apply, apply_, apply_to_graph
from gacfx.calibration.text import (
    Corpus,
    max_positions,
    read_documents,
    token_limit,
    tokenize,
)
from gacfx.checkpoint.hf import check_unquantized
from gacfx.checkpoint.load import load_dense
from gacfx.checkpoint.rehearsal import check_comes_back
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.asked import check_asked, check_module
from gacfx.core.goal import Goal, as_goal
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.rise import MAX_LOSS_NATS, check_rise, rise_of
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.sites import Workload
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CalibrationError, CheckpointError, PlanError, UnsupportedModel
from gacfx.hardware.profile import Profile
from gacfx.inspection import (
    annotate_graph,
    capture,
    inspect,
    load_profile,
)
from gacfx.passes.planning.measure_curves import PAPER
from gacfx.study import Progress, Study, check_dtype, check_request, check_tp
from gacfx.summary import Summary
from gacfx.tracing.skeleton import read_config, skeleton
from gacfx.verification import summarise, verify

__all__ = [
    "Compressed",
    "annotate_graph",
    "apply",
    "apply_",
    "apply_to_graph",
    "calibrate",
    "capture",
    "check_dtype",
    "check_request",
    "compress",
    "inspect",
    "load",
    "load_profile",
    "plan",
    "plan_synthetic",
    "read_calibration",
    "save",
    "summarise",
    "verify",
]

Text: TypeAlias = "str | Path | Iterable[str | Mapping[str, object]] | Corpus"
"""A .jsonl or .txt path, texts or rows of a data set with a ``text``, or a corpus."""


def read_calibration(
    source: "Text", model: nn.Module, tokenizer: Any, calibration_tokens: int | str | None = None
) -> Corpus:
    """Token ids of a text file, of texts or rows with a ``text``, or a corpus as it is.

    Long documents are cut into consecutive windows of the model's positions, at most 2048 tokens.

    Args:
        source: a .jsonl or .txt path, an iterable of texts or of rows, or a Corpus.
        model: whose positions count.
        tokenizer: the model's; not needed when ``source`` is a Corpus.
        calibration_tokens: tokens to use, at most: a number, text such as ``500k``, or ``all``; if
            None as many as 256 full windows have.

    Raises:
        CalibrationError: the text cannot be read or is too short, a tokenizer is missing or gives
            no token ids, or a number of tokens is asked for that cannot be.
    """
    if isinstance(source, Corpus):
        if calibration_tokens is not None:
            raise CalibrationError(
                f"calibration_tokens {calibration_tokens}: a Corpus has its tokens already; leave "
                "it out, or give the text"
            )
        return source
    if tokenizer is None:
        raise CalibrationError("calibration text needs the model's tokenizer; pass tokenizer=...")
    window = max_positions(model)
    limit = token_limit(calibration_tokens, window)
    documents = read_documents(source) if isinstance(source, str | Path) else source
    return tokenize(documents, tokenizer, window, limit)


@plain_torch()
def calibrate(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration: "Text",
    calibration_tokens: int | str | None = None,
    method: str = "gfwsvd",
    skip: tuple[str, ...] = (),
    seed: int = 0,
    seq: int = 1024,
    progress: Progress = lambda *_: None,
    force: bool = False,
) -> Study:
    """What calibration finds of a model, with its graph: plans are made of it in seconds.

    Arguments are those of :func:`plan`, and ``seq``: tokens of a sequence for which attention calls
    are recorded.

    Raises:
        GacError: bad input; see gacfx.errors.
    """
    check_module(model)
    check_asked(skip=skip, seed=seed, force=force)
    corpus = read_calibration(calibration, model, tokenizer, calibration_tokens)
    return Study.make(
        model, corpus, method=method, skip=skip, seed=seed, seq=seq, progress=progress, force=force
    )


@plain_torch()
def plan(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration: "Text",
    calibration_tokens: int | str | None = None,
    method: str = "gfwsvd",
    ratio: float | str | None = None,
    goal: Goal | None = None,
    gpu: str | Profile = "h200",
    search: Search = DEFAULT_SEARCH,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    progress: Progress = lambda *_: None,
    force: bool = False,
) -> Planned:
    """The best aligned plan under the budget, with its factors; the model is left as it was.

    Args:
        model: Hugging Face causal language model in eval mode.
        tokenizer: the model's; not needed when ``calibration`` is a Corpus.
        calibration: a .jsonl or .txt path, texts or rows with a ``text``, or a Corpus; a quarter of
            its windows is held back.
        calibration_tokens: tokens to use, at most: a number, ``500k`` or ``all``; if None as many
            as 256 windows of min(2048, the model's positions) tokens have.
        method: metric of the factors: svd, asvd, svd-llm, gfwsvd, or another of ``gacfx methods``.
        ratio: share of the targeted weights to remove, 0 <= ratio < 1; 0.2 (20 %) if nothing is
            said here or with ``goal``.
        goal: the budget in other words: of the whole model, as parameters, or in bytes.
        gpu: profile whose alignment the ranks follow.
        search: which sizes, what they are worth, limits, and who chooses.
        skip: patterns of module names to leave dense.
        seed: of the sampled labels.
        progress: called with (stage, done, total).
        force: go on with a model that predicts the text worse than guessing.

    Raises:
        GacError: bad input; see gacfx.errors.
    """
    check_module(model)
    check_asked(search=search)
    goal = as_goal(ratio, goal)
    check_request(method, goal, search.value, search.limits, search.form)
    check_tp(search.tp, getattr(model, "config", None))
    profile = load_profile(gpu)
    check_dtype(model, profile)
    study = calibrate(
        model,
        tokenizer,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        method=method,
        skip=skip,
        seed=seed,
        progress=progress,
        force=force,
    )
    return study.plan(goal, profile=profile, search=search)


@plain_torch()
def plan_synthetic(
    source: "str | Path",
    *,
    goal: Goal | str | float = "0.2",
    gpu: str | Profile = "h200",
    search: Search = DEFAULT_SEARCH,
    skip: tuple[str, ...] = (),
    decay: float = 0.5,
    seed: int = 0,
) -> Plan:
    """A plan for a configuration alone, with made-up power-law spectra instead of weights.

    It shows what planning does at full size; it says nothing about the quality of any model.

    Raises:
        PlanError: a value model that needs calibration, or a budget that cannot be kept.
    """
    if search.value not in ("auto", PAPER):
        raise PlanError(f"made-up spectra have no value model {search.value!r}; auto or {PAPER}")
    check_request("svd", goal, limits=search.limits)
    check_tp(search.tp, read_config(source))
    value = PAPER if search.value == PAPER else ""
    curves = replan.synthetic_curves(source, skip=skip, decay=decay, seed=seed, value=value)
    return replan.plan_from_curves(curves, goal=as_goal(goal), gpu=gpu, search=search)


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed model with the plan that made it and a summary of what changed."""

    model: Any
    tokenizer: Any
    planned: Planned
    summary: Summary


@plain_torch()
def compress(
    model: Any,
    tokenizer: Any = None,
    *,
    calibration: "Text",
    calibration_tokens: int | str | None = None,
    method: str = "gfwsvd",
    ratio: float | str | None = None,
    goal: Goal | None = None,
    gpu: str | Profile = "h200",
    search: Search = DEFAULT_SEARCH,
    workload: Workload | None = None,
    skip: tuple[str, ...] = (),
    seed: int = 0,
    progress: Progress = lambda *_: None,
    max_loss: float = MAX_LOSS_NATS,
    force: bool = False,
) -> Compressed:
    """Plan, verify on the graph, and apply to ``model`` in place.

    Arguments are those of :func:`plan`, and:

    Args:
        workload: for the forecast in the summary.
        max_loss: most nats per token that the loss may rise on held-back text.
        force: go on whatever the losses are.

    Raises:
        PoorQuality: the dense model does not know the text, or the loss would rise too much. The
            model is left as it was.
        UnsupportedModel, CheckpointError: the result could not be saved and loaded again.
    """
    check_module(model)
    check_asked(
        search=search, workload=workload, skip=skip, seed=seed, max_loss=max_loss, force=force
    )
    goal = as_goal(ratio, goal)
    check_request(method, goal, search.value, search.limits, search.form)
    check_saves(model)
    check_tp(search.tp, getattr(model, "config", None))
    workload = workload or Workload()
    profile = load_profile(gpu)
    check_dtype(model, profile)
    study = calibrate(
        model,
        tokenizer,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        method=method,
        skip=skip,
        seed=seed,
        seq=workload.seq,
        progress=progress,
        force=force,
    )
    planned = study.plan(goal, profile=profile, search=search, tried=True)
    rise = rise_of(planned.plan)
    if rise is not None and not force:
        check_rise(rise, max_loss)
    summary = summarise(study, {"gacfx": planned}, profile, workload)
    apply_(model, planned)
    return Compressed(model, tokenizer, planned, summary)


def check_saves(model: Any) -> None:
    """Nothing when a folder written from ``model`` would be loaded as this very model.

    Raises:
        UnsupportedModel: adapters are attached, or the configuration describes another model.
        CheckpointError: it is quantized, or transformers refuses to save it.
    """
    check_module(model)
    if not hasattr(model, "config"):
        raise UnsupportedModel(
            f"{type(model).__name__} has no configuration, so no folder would bring it back; give "
            "a Hugging Face model"
        )
    check_unquantized(model)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    check_comes_back(model, skeleton(config, model.dtype))


@plain_torch()
def save(compressed: Compressed, out: "str | Path", *, overwrite: bool = False) -> Path:
    """Write a Hugging Face folder: weights, config, tokenizer, plan folder, report, model card.

    Raises:
        CheckpointError: the folder exists and ``overwrite`` is false, or it cannot be written.
        UnsupportedModel: the folder would not come back as this model.
    """
    if not isinstance(compressed, Compressed):
        raise CheckpointError(
            f"{type(compressed).__name__} is not what gacfx.compress returns; save that, or "
            "a model with a plan applied by its save_pretrained"
        )
    check_saves(compressed.model)
    return save_checkpoint(
        compressed.model,
        compressed.tokenizer,
        Path(out),
        plan=compressed.planned.plan,
        factors=compressed.planned.factors,
        report=compressed.summary.to_dict(),
        overwrite=overwrite,
    )


@plain_torch()
def load(source: "str | Path", *, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a dense or a gacfx checkpoint: safetensors only, no remote code.

    Raises:
        CheckpointError: missing or truncated files, a pickle checkpoint, missing weights.
    """
    return load_dense(source, dtype=dtype)
