"""From a compressed folder, its dense model and a text to a healed model, and its report."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import gacfx
from gacfx.api import Text
from gacfx.calibration.readable import of_readable
from gacfx.calibration.running import runnable
from gacfx.calibration.sanity import check_reads
from gacfx.calibration.text import (
    MIN_TOKENS,
    Corpus,
    check_fits,
    max_positions,
    read_documents,
    split,
    tokenize,
)
from gacfx.checkpoint.card import HEALED, healings_in
from gacfx.core.planned import Planned
from gacfx.core.store import Store
from gacfx.core.surroundings import plain_torch
from gacfx.core.work_folder import WorkFolder
from gacfx.errors import CalibrationError, HealingError, NotHealed
from gacfx.healing.adapters import LoraLearner, check_peft
from gacfx.healing.settings import Healing
from gacfx.healing.source import Source, read_source
from gacfx.healing.trainable import Learner, Student, healed_plan, trained_names
from gacfx.healing.training import Healer, Outcome
from gacfx.progress import Progress
from gacfx.work import model_digest

HELD_BACK = 0.25


@dataclass(frozen=True, eq=False)
class Healed:
    """A healed model, ready to be saved, and what healing did."""

    model: Any
    tokenizer: Any
    planned: Planned
    """The plan of the checkpoint, with the factors that the model has now."""
    healing: dict[str, Any]
    """Plain JSON values: limits, learning rates, losses before and after."""
    report: dict[str, Any]
    """That of the checkpoint, with this healing as the last entry of ``healed``."""
    seconds: float
    """That this run took; not in the report, so that equal runs write equal files."""


@plain_torch()
def heal(
    checkpoint: str | Path,
    *,
    against: str | Path,
    calibration: "Text",
    settings: Healing | None = None,
    force: bool = False,
    work: str | Path | None = None,
    temporary: bool = False,
    progress: Progress = lambda *_: None,
    **asked: Any,
) -> Healed:
    """A compressed model whose factors and norms have learnt from the dense one.

    Every fourth window of the text judges. What comes back is better on it than the checkpoint was,
    in KL(dense || model) and no worse in its loss, in the dtype that is saved.

    Args:
        checkpoint: folder that gacfx wrote; it is left as it is.
        against: folder or hub name of the dense model that it was made of.
        calibration: a .jsonl or .txt path, texts or rows with a ``text``, or a Corpus.
        settings: limits and rates, as one value.
        force: go on where the dense model does not know the text.
        work: folder for what is done on the way; a run that was stopped goes on from there. None to
            keep nothing.
        temporary: ``gacfx.core.work_folder.remove_work`` may remove that folder.
        progress: called with (stage, done, total).
        asked: the fields of :class:`gacfx.healing.settings.Healing` by name instead.

    Raises:
        NotHealed: no training made the model better.
        PoorQuality: the dense model does not know the text.
        HealingError: limits that allow nothing, or nothing that could learn.
        CalibrationError: too little text, or text of another tokenizer.
        CheckpointError, PlanMismatch, UnsupportedModel: the folders are not what they should be.
    """
    settings, begin = asked_settings(settings, asked), time.perf_counter()
    if settings.lora is not None:
        check_peft()
    source = read_source(checkpoint, against)
    corpus = healing_text(calibration, source, settings)
    longest = max(map(len, corpus.documents))
    settings = replace(settings, step_tokens=max(settings.step_tokens, longest))
    with _opened(work, source, corpus, settings, temporary=temporary) as store:

        def trained(text: Corpus) -> Outcome:
            if not force:
                check_reads(source.dense, text, None, None)
            return _trained(source, text, settings, store, progress)

        found = of_readable(trained, source.dense, corpus, store=store)
    if found.best is None:
        raise NotHealed(_not_healed(found))
    said = healing_of(found, settings, source, corpus)
    report = {**source.report, HEALED: [*healings_in(source.report), said]}
    planned = healed_plan(source.planned, source.model)
    seconds = time.perf_counter() - begin
    return Healed(source.model, source.tokenizer, planned, said, report, seconds)


def _trained(
    source: Source, corpus: Corpus, settings: Healing, store: Store | None, progress: Progress
) -> Outcome:
    """What became of the source; it holds the best that was found."""
    names = trained_names(source.model)
    student = Student(source.model, names)
    learner = (
        Learner(source.model, names)
        if settings.lora is None
        else LoraLearner(source.model, names, settings.lora, settings.seed)
    )
    dense = runnable(source.dense).eval().requires_grad_(False)
    texts = split(corpus, HELD_BACK)
    return Healer(student, learner, dense, texts, settings, store=store, progress=progress).run()


def asked_settings(settings: Healing | None, asked: dict[str, Any]) -> Healing:
    """What is asked for, as one value or by name.

    Raises:
        HealingError: both, or a name that is no setting.
    """
    if settings is not None:
        if asked:
            raise HealingError(f"{min(asked)} and settings are both given; give one of them")
        return settings
    known = [each.name for each in fields(Healing)]
    for name in sorted(asked.keys() - set(known)):
        raise HealingError(f"{name} is no setting of a healing; known: {', '.join(known)}")
    if "rates" in asked:
        asked = {**asked, "rates": tuple(asked["rates"])}
    return Healing(**asked)


def healing_text(calibration: "Text", source: Source, settings: Healing) -> Corpus:
    """Windows of a text, of which three quarters are about as many tokens as are trained on.

    Raises:
        CalibrationError: it cannot be read, is too short, or does not fit the model.
    """
    window = min(settings.window, max_positions(source.model))
    if isinstance(calibration, Corpus):
        corpus = _cut(calibration, window)
    else:
        if source.tokenizer is None:
            raise CalibrationError(
                "the checkpoint has no tokenizer to read the text with; copy that of the dense "
                "model into it, or give a Corpus"
            )
        documents = (
            read_documents(calibration) if isinstance(calibration, str | Path) else calibration
        )
        most = max(math.ceil(settings.most_tokens / (1 - HELD_BACK)), MIN_TOKENS)
        corpus = tokenize(documents, source.tokenizer, window, most)
    check_fits(source.model, corpus)
    return corpus


def _cut(corpus: Corpus, window: int) -> Corpus:
    """The same text in windows of at most so many tokens."""
    found = [
        (corpus.number(at), piece)
        for at, ids_T in enumerate(corpus.documents)
        for piece in ids_T.split(window)
        if len(piece) >= MIN_TOKENS
    ]
    return Corpus(
        tuple(piece for _, piece in found),
        corpus.skipped,
        corpus.ends,
        corpus.given,
        corpus.given_is,
        tuple(number for number, _ in found),
    )


@contextmanager
def _opened(
    work: str | Path | None,
    source: Source,
    corpus: Corpus,
    settings: Healing,
    *,
    temporary: bool,
) -> Iterator[WorkFolder | None]:
    """The work folder of this healing, new or as it was left.

    Raises:
        CheckpointError: it is of other work, in use, or cannot be written.
    """
    if work is None:
        yield None
        return
    key = {
        "work": "heal",
        "checkpoint": model_digest(source.model),
        "dense model": model_digest(source.dense),
        "text": corpus.digest,
        **{f"setting {name}": said for name, said in _plain(settings).items()},
        "versions": {
            "gacfx": gacfx.__version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
    }
    with WorkFolder(work, key, temporary=temporary) as store:
        yield store


def _plain(settings: Healing) -> dict[str, Any]:
    said = {**asdict(settings), "tokens": settings.most_tokens, "rates": list(settings.offered)}
    said["searched"] = not settings.rates
    return said


def healing_of(found: Outcome, settings: Healing, source: Source, corpus: Corpus) -> dict[str, Any]:
    """What healing did, as plain JSON values; a rate that diverged has no numbers."""
    before, after = found.before, found.after
    return {
        "tokens": found.tokens,
        "steps": found.schedule.steps,
        "best_step": found.best_step,
        "step_tokens": settings.step_tokens,
        "rate": found.rate,
        "tried": [
            {"rate": rate, "kl": _finite(each.kl), "nats": _finite(each.nats)}
            for rate, each in found.tried.items()
        ],
        "lora": settings.lora,
        "seed": settings.seed,
        "trained_params": sum(each.numel() for each in (found.best or {}).values()),
        "before": asdict(before),
        "after": asdict(after),
        "seen": [
            {"step": step, "kl": _finite(each.kl), "nats": _finite(each.nats)}
            for step, each in found.seen
        ],
        "text_digest": corpus.digest,
        "text_tokens": corpus.tokens,
        "windows": len(corpus.documents),
        "method": source.planned.plan.provenance.method,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _not_healed(found: Outcome) -> str:
    rates = ", ".join(f"{rate:g}" for rate in (found.tried or (found.rate,)))
    if not found.seen:
        return (
            f"every learning rate diverged ({rates}); give smaller ones (--rate), or look at the "
            "weights of the checkpoint"
        )
    before, closest = found.before, min((each for _, each in found.seen), key=lambda one: one.kl)
    return (
        "the checkpoint is as good as it gets here: on held-back text KL to the dense model and "
        f"loss are {before.kl:.4f} and {before.nats:.4f} nats/token as it is, {closest.kl:.4f} and "
        f"{closest.nats:.4f} at best in {found.schedule.steps} steps (learning rates {rates}). "
        "Nothing is written; give more text, or smaller rates (--rate)"
    )
