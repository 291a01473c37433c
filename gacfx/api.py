"""The Python door: plan, apply, compress, save, load; ``inspect`` stands with inspections.

Every door leaves ``torch.inference_mode``: calibration needs gradients, and what is made inside
that mode cannot be used outside.

compressed = gacfx.compress(model, tokenizer, calibration="texts.jsonl", ratio=0.2, gpu="h200")
gacfx.save(compressed, "out")
model, tokenizer = gacfx.load("out")
"""

import copy
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import torch
from torch import nn

from gacfx import replan
from gacfx.applying import apply, apply_, apply_to_graph
from gacfx.calibration.counting import Counting
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
from gacfx.compressors.methods import METHODS
from gacfx.core.asked import check_asked, check_module
from gacfx.core.goal import Goal, as_goal
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.rise import check_rise, rise_of
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CalibrationError, CheckpointError, PlanError, UnsupportedModel
from gacfx.hardware.profile import Profile, load_profile
from gacfx.inspection import annotate_graph, inspect
from gacfx.passes.planning.measure_curves import PAPER
from gacfx.progress import Progress
from gacfx.request import Asked, Request, check_request
from gacfx.study import Study
from gacfx.suitable import check_dtype, check_tp
from gacfx.summary import Summary
from gacfx.tracing.capture import capture
from gacfx.tracing.skeleton import read_config, skeleton
from gacfx.verification import summarise, verify
from gacfx.work import Work, open_work

if TYPE_CHECKING:
    from gacfx.healing.door import Healed

__all__ = [
    "Compressed",
    "Request",
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
    source: "Text",
    model: nn.Module,
    tokenizer: Any,
    calibration_tokens: int | str | None = None,
    *,
    counting: Counting | None = None,
) -> Corpus:
    """Token ids of a text file, of texts or rows with a ``text``, or a corpus as it is.

    Long documents are cut into consecutive windows of the model's positions, at most 2048 tokens.

    Args:
        source: a .jsonl or .txt path, an iterable of texts or of rows, or a Corpus.
        model: whose positions count.
        tokenizer: the model's; not needed when ``source`` is a Corpus.
        calibration_tokens: tokens to use, at most: a number, text such as ``500k``, or ``all``; if
            None as many as 256 full windows have.
        counting: which of them count in second moments; None for all, or as a Corpus has it.

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
        return source if counting is None else replace(source, counting=counting)
    if tokenizer is None:
        raise CalibrationError("calibration text needs the model's tokenizer; pass tokenizer=...")
    window = max_positions(model)
    limit = token_limit(calibration_tokens, window)
    documents = read_documents(source) if isinstance(source, str | Path) else source
    return replace(tokenize(documents, tokenizer, window, limit), counting=counting or Counting())


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
    structures: bool = False,
    progress: Progress = lambda *_: None,
    force: bool = False,
    work: "Work | str | Path | None" = None,
) -> Study:
    """What calibration finds of a model, with its graph: plans are made of it in seconds.

    Arguments are those of :func:`plan`, ``seq``: tokens of a sequence for which attention calls are
    recorded, ``structures``: also gather what plans with pruning need, which takes longer, and
    ``work``: a folder for statistics, decompositions and curves, or a :class:`gacfx.Work` that also
    says how much disk it may take and who computes. The model is then calibrated one decoder layer
    at a time, memory holds one layer's statistics, and a run that was stopped goes on; None to hold
    all of them in memory.

    Raises:
        GacError: bad input; see gacfx.errors.
    """
    check_module(model)
    check_unquantized(model)
    check_asked(skip=skip, seed=seed, force=force)
    corpus = read_calibration(calibration, model, tokenizer, calibration_tokens)
    on, store = Work.of(work), None
    if on.folder is not None:
        prunes = structures or METHODS.find(method).prunes
        store = open_work(
            on.folder,
            model,
            corpus,
            skip=skip,
            seed=seed,
            structures=prunes,
            most_bytes=on.most_bytes,
            temporary=on.temporary,
        )
        # A folder that was begun for pruning is filled for it, whatever this plan wants.
        structures = structures or bool(store.key["pruning"])
    try:
        return Study.make(
            model,
            corpus,
            method=method,
            skip=skip,
            seed=seed,
            seq=seq,
            structures=structures,
            progress=progress,
            force=force,
            store=store,
            device=on.torch_device,
            executor=on.executor,
            shards=on.shards,
        )
    except BaseException:
        if store is not None:
            store.close()
        raise


@plain_torch()
def plan(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration: "Text",
    request: Request | None = None,
    progress: Progress = lambda *_: None,
    work: "Work | str | Path | None" = None,
    **asked: Unpack[Asked],
) -> Planned:
    """The best aligned plan under the budget, with its factors; the model is left as it was.

    Args:
        model: Hugging Face causal language model in eval mode.
        tokenizer: the model's; not needed when ``calibration`` is a Corpus.
        calibration: a .jsonl or .txt path, texts or rows with a ``text``, or a Corpus; a quarter of
            its windows is held back.
        request: what is asked for, as one value.
        progress: called with (stage, done, total).
        work: folder for what is computed on the way, or a :class:`gacfx.Work` that says more, see
            :func:`calibrate`; None for memory.
        asked: the fields of a :class:`gacfx.request.Request` by name instead, and ``ratio``: share
            of the targeted weights to remove, 0 <= ratio < 1; 0.2 if nothing is said.

    Raises:
        GacError: bad input; see gacfx.errors.
    """
    if judged := sorted({"workload", "max_loss"} & asked.keys()):
        raise PlanError(f"{judged[0]}: a plan alone is not judged; give it to gacfx.compress")
    check_module(model)
    request = Request.of(request, asked)
    made = study_of(model, tokenizer, calibration, request, progress, work)
    with closing(made) as study:
        return study.sized(
            request.sizes, request.goal, profile=request.profile, search=request.search
        )


def study_of(
    model: nn.Module,
    tokenizer: Any,
    calibration: "Text",
    request: Request,
    progress: Progress,
    work: "Work | str | Path | None" = None,
) -> Study:
    """The calibrated model, once it is known that the request can be for it."""
    check_tp(request.search.tp, getattr(model, "config", None))
    check_dtype(model, request.profile)
    return calibrate(
        model,
        tokenizer,
        calibration=calibration,
        calibration_tokens=request.calibration_tokens,
        method=request.method,
        skip=request.skip,
        seed=request.seed,
        seq=request.run.seq,
        structures=request.search.prune != "none",
        progress=progress,
        force=request.force,
        work=work,
    )


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
    check_request("svd", goal, Search(limits=search.limits))
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
    request: Request | None = None,
    progress: Progress = lambda *_: None,
    work: "Work | str | Path | None" = None,
    **asked: Unpack[Asked],
) -> Compressed:
    """Plan, verify on the graph, and apply to ``model`` in place.

    Arguments are those of :func:`plan`; of a request ``workload`` is for the forecast in the
    summary, ``max_loss`` and ``force`` for judging the result.

    Raises:
        PoorQuality: the dense model does not know the text, or the loss would rise too much. The
            model is left as it was.
        UnsupportedModel, CheckpointError: the result could not be saved and loaded again.
    """
    check_module(model)
    request = Request.of(request, asked)
    check_saves(model)
    profile = request.profile
    made = study_of(model, tokenizer, calibration, request, progress, work)
    with closing(made) as study:
        planned = study.sized(
            request.sizes, request.goal, profile=profile, search=request.search, tried=True
        )
        rise = rise_of(planned.plan)
        if rise is not None and not request.force:
            check_rise(rise, request.max_loss)
        name = "gacfx" if request.sizes == "planned" else "own sizes"
        summary = summarise(study, {name: planned}, profile, request.run)
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
def save(compressed: "Compressed | Healed", out: "str | Path", *, overwrite: bool = False) -> Path:
    """Write a Hugging Face folder: weights, config, tokenizer, plan folder, report, model card.

    Args:
        compressed: what :func:`compress` or ``gacfx.heal`` returns.
        out: the folder to make.
        overwrite: replace a checkpoint folder that is there.

    Raises:
        CheckpointError: the folder exists and ``overwrite`` is false, or it cannot be written.
        UnsupportedModel: the folder would not come back as this model.
    """
    from gacfx.healing.door import Healed

    if not isinstance(compressed, Compressed | Healed):
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
        report=(
            compressed.report if isinstance(compressed, Healed) else compressed.summary.to_dict()
        ),
        overwrite=overwrite,
    )


@plain_torch()
def load(source: "str | Path", *, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a dense or a gacfx checkpoint: safetensors only, no remote code.

    Raises:
        CheckpointError: missing or truncated files, a pickle checkpoint, missing weights.
    """
    return load_dense(source, dtype=dtype)
