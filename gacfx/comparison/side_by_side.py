"""The comparison itself: one checkpoint after the other, beside the dense one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gacfx.calibration.faults import no_numbers
from gacfx.calibration.paired import paired
from gacfx.calibration.running import borrowed, impossible, runnable
from gacfx.calibration.sliding import Slides, sliding_losses
from gacfx.calibration.text import usage
from gacfx.checkpoint.load import load_dense
from gacfx.comparison.results import Compared, Comparison, TextScores
from gacfx.comparison.sides import Side, Text, predicted_bytes, read_sides, read_texts, same
from gacfx.comparison.statistics import units_of
from gacfx.core.surroundings import plain_torch
from gacfx.errors import CalibrationError, CheckpointError
from gacfx.progress import Progress
from gacfx.zeroshot import Scores, TaskData, score
from gacfx.zeroshot.harness import BATCH, check_installed, harness_name


@dataclass(frozen=True, slots=True)
class Questions:
    """Zero-shot tasks that every model answers."""

    tasks: tuple[TaskData, ...]
    limit: int | None = None
    """Items of each task, its first ones; None takes all."""
    batch: int = BATCH
    data: str | None = None
    """Folder that the items are from, for the result."""


class _Read(NamedTuple):
    """What one model made of the text, token by token."""

    slides: Slides
    nats: list[Tensor]
    divergence: list[Tensor] | None = None


@dataclass
class _Run:
    """One comparison at work."""

    sides: tuple[Side, ...]
    slides: tuple[Slides, ...]
    """Of each side; empty without a text."""
    questions: Questions | None
    device: torch.device | None
    progress: Progress
    against: bool
    """The first side is dense."""
    dense: Any = None
    """The model of the first side, while it is needed."""
    first: _Read | None = None
    """What that made of the text."""

    def model(self, place: int) -> Compared:
        """Read, measure and forget one model."""
        side = self.sides[place]
        self.progress("models", place, len(self.sides))
        model, _ = load_dense(side.source)
        params = sum(parameter.numel() for parameter in model.parameters())
        apart = self._apart(place)
        text = self._text(model, place, apart) if self.slides else None
        tasks = self._tasks(model, side)
        if place == 0 and self.against and self.slides:
            self.dense = model
        self.progress("models", place + 1, len(self.sides))
        return Compared(
            name=side.name,
            source=side.source,
            params=params,
            nbytes=side.nbytes,
            compressed=side.compressed,
            text=text,
            tasks=tasks,
            apart=apart,
            no_kl=self._no_kl(place, apart),
        )

    def _apart(self, place: int) -> str:
        if not self.slides or same(self.slides[place], self.slides[0]):
            return ""
        return (
            f"its tokenizer cuts the text into other tokens than that of {self.sides[0].name}; "
            "compare nats per byte"
        )

    def _no_kl(self, place: int, apart: str) -> str:
        """Why a side has no KL; empty where it has one, or there is nothing to have one to."""
        if not self.slides or not self.against or place == 0:
            return ""
        if apart:
            return "other tokens"
        ours, theirs = self.sides[place].vocabulary, self.sides[0].vocabulary
        if ours is None or theirs is None or ours == theirs:
            return ""
        return f"vocabularies of {ours:,} and {theirs:,} tokens"

    def _text(self, model: Any, place: int, apart: str) -> TextScores:
        """Losses of a model, and how they and its predictions differ from the dense one's."""
        slides = self.slides[place]
        read = self._read(model, slides, place > 0 and not self._no_kl(place, apart))
        if place == 0:
            self.first = read
        units = units_of(slides)
        loss, change = units.mean(read.nats), None
        if place > 0 and self.against and not apart and self.first is not None:
            pairs = zip(read.nats, self.first.nats, strict=True)
            change = units.mean([ours.double() - theirs.double() for ours, theirs in pairs])
        nbytes = predicted_bytes(slides, self.sides[place].tokenizer)
        return TextScores(
            loss=loss,
            nats_per_byte=loss.mean * slides.tokens / nbytes,
            tokens=slides.tokens,
            windows=len(slides.scored),
            change=change,
            divergence=None if read.divergence is None else units.mean(read.divergence),
            problem=_problem(model, read),
        )

    def _read(self, model: Any, slides: Slides, beside: bool) -> _Read:
        """What a model makes of the text, ``beside`` the dense one if there is one."""
        if not beside or self.dense is None:
            return _Read(slides, sliding_losses(model, slides, device=self.device))
        found = paired(model, self.dense, slides.corpus, device=self.device)
        return _Read(slides, slides.last(found.nats), slides.last(found.divergence))

    def _tasks(self, model: Any, side: Side) -> Scores | None:
        asked = self.questions
        if asked is None:
            return None
        found = score(
            model,
            side.tokenizer,
            asked.tasks,
            limit=asked.limit,
            batch=asked.batch,
            device=self.device,
            name=side.name,
            progress=self.progress,
        )
        model.to("cpu")  # the next one may need the room
        return found


def _problem(model: Any, read: _Read) -> str:
    """Why the losses say nothing of the model: no numbers, or a token without probability."""
    corpus = read.slides.corpus
    for index, nats in enumerate(read.nats):
        ids_T = corpus.documents[index]
        if bool(nats.isnan().any()):
            with borrowed(model), torch.inference_mode():
                return no_numbers(runnable(model), ids_T, corpus.number(index))
        if why := impossible(nats, ids_T[len(ids_T) - len(nats) - 1 :], corpus.number(index)):
            return why
    return ""


@plain_torch()
def compare(
    sources: Sequence[str | Path],
    *,
    against: str | Path | None = None,
    text: Text | None = None,
    questions: Questions | None = None,
    device: torch.device | None = None,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Several checkpoints in one table; the dense one stays in memory beside one of the others.

    The dense model is ``against`` or, without it, the first one, if its configuration does not say
    that it is compressed or quantized. Without a dense model nothing is said of changes and KL. All
    folders are looked at, and the text is cut for each, before any weights are read.

    Args:
        sources: checkpoint folders or names, dense or compressed.
        against: the dense model; it may be among the sources, and comes first in the result.
        text: what every model reads; None for zero-shot scores alone.
        questions: zero-shot tasks that every model answers; None for losses alone.
        device: where models compute; None: a text where the weights are, the CPU, one decoder layer
            after the other elsewhere.
        progress: called with (stage, done, total).

    Raises:
        CheckpointError: fewer than two checkpoints, one named twice, a folder that is missing, not
            whole or without a tokenizer.
        CalibrationError: neither text nor questions, or a text that cannot be read or cut so.
        NoLmEval, TaskError: of the questions.
    """
    if text is None and questions is None:
        raise CalibrationError("nothing to compare by; give a text, or tasks")
    if questions is not None:
        check_installed()
    listed = [str(source) for source in sources]
    listed = listed if against is None else _first(str(against), listed)
    if len(listed) < 2:
        raise CheckpointError("a comparison needs at least two checkpoints; name another one")
    sides = read_sides(listed)
    slides = read_texts(sides, text) if text is not None else ()
    dense = against is not None or not sides[0].compressed
    run = _Run(sides, slides, questions, device, progress, dense)
    models = tuple(run.model(place) for place in range(len(sides)))
    return Comparison(
        models=models,
        against=dense,
        **_said(slides),
        harness="" if questions is None else harness_name(),
        data=None if questions is None else questions.data,
    )


@plain_torch()
def measure_text(
    source: str | Path, text: Text, *, device: torch.device | None = None
) -> tuple[TextScores, Slides]:
    """What one checkpoint makes of a text, and its windows.

    Args:
        source: checkpoint folder or name.
        text: what it reads.
        device: as for :func:`compare`.

    Raises:
        CheckpointError, CalibrationError: as for :func:`compare`.
    """
    sides = read_sides([source])
    slides = read_texts(sides, text)
    run = _Run(sides, slides, None, device, lambda *_: None, against=False)
    found = run.model(0).text
    assert found is not None  # there is a text
    return found, slides[0]


def _first(against: str, sources: list[str]) -> list[str]:
    """The dense model in front, once."""
    place = Path(against).resolve()
    others = [each for each in sources if each != against and Path(each).resolve() != place]
    if len(sources) - len(others) > 1:
        return [against, *sources]  # named twice: refused where all are looked at
    return [against, *others]


def _said(slides: tuple[Slides, ...]) -> dict[str, Any]:
    """What is said of the text: that of the first model."""
    if not slides:
        return {}
    first = slides[0]
    units = units_of(first)
    windows = len(first.scored)
    return {
        "usage": usage(first.text, "evaluation", windows),
        "window": first.window,
        "stride": first.stride,
        "errors_over": f"{units.count:,} {units.name}",
    }
