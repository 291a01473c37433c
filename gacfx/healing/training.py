"""The learning rate, the training, and the best state that was seen; each of them once.

With a store, every finished trial and the training between two judgements are kept, so that a run
that was stopped goes on and ends with the same bits.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import MOST_TOKENS
from gacfx.calibration.running import few_threads
from gacfx.calibration.text import Corpus
from gacfx.core.caches import cacheless
from gacfx.core.store import Store
from gacfx.errors import CalibrationError
from gacfx.healing.divergence import Judgement, judge, reading
from gacfx.healing.schedule import Schedule, Speed, plan_schedule, searched, steps_of
from gacfx.healing.settings import Healing
from gacfx.healing.steps import Training
from gacfx.healing.trainable import Learner, Student
from gacfx.progress import Progress

PROBING, TRAINING = "learning rates", "heal"
"""What a progress callback is told."""
BEST = "best."
"""Begins the names of the tensors of the best state, beside those of the training."""
TIMED_STEPS = 3
"""Steps whose median is the speed; one before them warms up."""
TIMED_TOKENS = 1024
"""Of held-back text, at least a window."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a healing."""

    schedule: Schedule
    tried: dict[float, Judgement]
    """Learning rate -> what became of its trial; infinite where it diverged. Empty where only one
    was asked for."""
    rate: float
    """That the training had."""
    before: Judgement
    """Of the model as it came."""
    seen: tuple[tuple[int, Judgement], ...]
    """Judgements of the training: steps that were done, and what held-back text says."""
    losses: tuple[float, ...]
    """KL of each step on the text that it learnt from, nats per token."""
    tokens: int
    """That were trained on, trials included."""
    best: dict[str, Tensor] | None
    """Parameters of the best judgement, in the model's dtype; None where the model as it came is
    not beaten."""

    @property
    def best_step(self) -> int:
        """Steps that were done when the best was found; 0 for the model as it came."""
        better = [(each.score, at) for at, each in self.seen if is_better(each, self.before)]
        return min(better)[1] if better else 0

    @property
    def after(self) -> Judgement:
        """The best judgement, that of the model as it came included."""
        return dict(self.seen).get(self.best_step, self.before)


class Healer:
    """All parts of one healing."""

    def __init__(
        self,
        student: Student,
        learner: Learner,
        dense: nn.Module,
        texts: tuple[Corpus, Corpus],
        settings: Healing,
        *,
        store: Store | None = None,
        progress: Progress = lambda *_: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Nothing runs yet.

        Args:
            student: that is judged, and in the end holds the best.
            learner: that moves; made of the student.
            dense: what is right, ready to run.
            texts: to learn from, and held back.
            settings: of the healing.
            store: for what is done; None to keep nothing.
            progress: called with (stage, done, total).
            clock: seconds.
        """
        self.student, self.learner, self.dense = student, learner, dense
        self.windows: Sequence[Tensor] = texts[0].documents
        self.held, self.settings = texts[1], settings
        self.store, self.progress, self.clock = store, progress, clock
        most = max(settings.step_tokens, max(map(len, self.windows)))
        self.reads = reading(learner.model, self.windows, most)
        self.judged_reads = reading(student.running, self.held.documents, MOST_TOKENS)

    def run(self) -> Outcome:
        """Everything in order.

        Raises:
            CalibrationError: a model that gives no numbers for held-back text as it comes.
            HealingError: tokens or minutes allow too few steps.
        """
        models = (self.dense, self.learner.model, self.student.running)
        for model in models:
            model.eval()
        with (
            few_threads(models[1]),
            cacheless(models[0]),
            cacheless(models[1]),
            cacheless(models[2]),
        ):
            schedule = self._schedule()
            text = self.held.sample(schedule.judged_tokens)
            before = self._judged("unhealed", text)
            if not math.isfinite(before.kl):
                raise CalibrationError(
                    "the compressed model gives no numbers, or no probability to what the dense "
                    "one holds possible, on held-back text; check it with gacfx eval"
                )
            tried = self._probes(schedule, text, before.score)
            rate = self.settings.offered[0]
            if tried:
                rate = min(tried, key=lambda one: tried[one].score)
            if tried and not math.isfinite(tried[rate].score):
                tokens = self._tokens(schedule, len(tried), 0)
                return Outcome(schedule, tried, rate, before, (), (), tokens, None)
            return self._train(schedule, text, before, tried, rate)

    def _schedule(self) -> Schedule:
        """As it was planned, or planned now by the speed of this machine."""
        known = self._known("schedule")
        if known is not None:
            return Schedule(*(int(known[name]) for name in ("steps", "probe_steps", "judged")))
        if self.store is not None:  # what was done under another schedule is of no use
            for name in ("unhealed", "training", *map(_probe, range(len(self.settings.offered)))):
                self.store.drop(name)
        made = plan_schedule(self.settings, self._speed(), self.held.tokens)
        self._keep(
            "schedule",
            {
                "steps": torch.tensor(made.steps),
                "probe_steps": torch.tensor(made.probe_steps),
                "judged": torch.tensor(made.judged_tokens),
            },
        )
        return made

    def _speed(self) -> Speed:
        """Of a few steps, which are undone, and of judging a few windows."""
        count = TIMED_STEPS + 1
        timed = Training(
            self.learner, self.dense, self.windows, self.reads, self.settings, 1e-9, count
        )
        taken = []
        for _ in range(count):
            begin = self.clock()
            timed.step()
            taken.append(self.clock() - begin)
        text = self.held.sample(TIMED_TOKENS)
        begin = self.clock()
        judge(self.dense, self.student.running, text, self.judged_reads)
        judged = (self.clock() - begin) / text.tokens
        self.learner.restart()
        return Speed(sorted(taken[1:])[TIMED_STEPS // 2], judged)

    def _probes(self, schedule: Schedule, text: Corpus, unhealed: float) -> dict[float, Judgement]:
        """Learning rate -> what a short training with it gives, from the same start on the same
        windows."""
        rates, steps = self.settings.offered, schedule.probe_steps
        found: dict[int, Judgement] = {}

        def score_of(at: int) -> float:
            name = _probe(at)
            training = None if self._known(name) else self._training(rates[at], steps)
            while training is not None and not training.finished:
                training.step()
                total = self.settings.trials * steps
                self.progress(PROBING, len(found) * steps + training.done, total)
            broken = training is not None and training.diverged
            found[at] = self._judged(name, text, broken=broken)
            return found[at].score

        if not steps:
            return {}
        if self.settings.rates:
            for at in range(len(rates)):
                score_of(at)
        else:
            searched(len(rates), score_of, unhealed)
        return {rates[at]: each for at, each in found.items()}

    def _train(
        self,
        schedule: Schedule,
        text: Corpus,
        before: Judgement,
        tried: dict[float, Judgement],
        rate: float,
    ) -> Outcome:
        training = self._training(rate, schedule.steps)
        seen, best = self._resume(training)
        while not training.finished:
            training.step()
            self.progress(TRAINING, training.done, schedule.steps)
            if training.diverged or not schedule.judged_after(training.done):
                continue
            self.student.take(self.learner.values())
            found = self._judge(text)
            if is_better(found, before) and found.score < _least(before, seen):
                best = self.student.holds()
            seen.append((training.done, found))
            held = {f"{BEST}{name}": value for name, value in (best or {}).items()}
            self._keep("training", {**training.state(), "judged": _rows(seen), **held})
        if best is not None:
            self.student.take(best)
        tokens = self._tokens(schedule, len(tried), training.done)
        return Outcome(
            schedule, tried, rate, before, tuple(seen), tuple(training.losses), tokens, best
        )

    def _training(self, rate: float, steps: int) -> Training:
        return Training(
            self.learner, self.dense, self.windows, self.reads, self.settings, rate, steps
        )

    def _resume(
        self, training: Training
    ) -> tuple[list[tuple[int, Judgement]], dict[str, Tensor] | None]:
        """Go on where a training was stopped: (its judgements, its best if there was one)."""
        state = self._known("training")
        if state is None:
            return [], None
        training.restore(state)
        seen = [
            (int(step), Judgement(kl, nats, int(tokens)))
            for step, kl, nats, tokens in state["judged"].tolist()
        ]
        best = {n.removeprefix(BEST): t for n, t in state.items() if n.startswith(BEST)}
        return seen, best or None

    def _judged(self, name: str, text: Corpus, *, broken: bool = False) -> Judgement:
        """A judgement that is made once, of what the learner holds.

        Args:
            name: under which it is kept.
            text: held-back.
            broken: the learner diverged, and is not read.
        """
        known = self._known(name)
        if known is not None:
            kl, nats, tokens = known["judgement"].tolist()
            return Judgement(kl, nats, int(tokens))
        found = Judgement(math.inf, math.inf, 0)
        if not broken:
            self.student.take(self.learner.values())
            found = self._judge(text)
        row = [found.kl, found.nats, float(found.tokens)]
        self._keep(name, {"judgement": torch.tensor(row, dtype=torch.float64)})
        return found

    def _judge(self, text: Corpus) -> Judgement:
        return judge(self.dense, self.student.running, text, self.judged_reads)

    def _tokens(self, schedule: Schedule, trials: int, done: int) -> int:
        """That were trained on, trials included."""
        settings = self.settings
        order = steps_of(self.windows, settings.step_tokens, settings.seed, schedule.steps)
        each = [sum(len(self.windows[place]) for place in step) for step in order]
        probes = trials * sum(each[: schedule.probe_steps])
        return probes + sum(each[:done])

    def _known(self, name: str) -> dict[str, Tensor] | None:
        if self.store is None or name not in self.store:
            return None
        return {key: self.store.get(name, key) for key in self.store.keys(name)}

    def _keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        if self.store is not None:
            self.store.put(name, tensors)


def _probe(at: int) -> str:
    return f"probe.{at}"


def is_better(found: Judgement, before: Judgement) -> bool:
    """It is closer to the dense model than before, and pays no more for the text itself."""
    return found.kl < before.kl and found.nats <= before.nats


def _least(before: Judgement, seen: Sequence[tuple[int, Judgement]]) -> float:
    """Score of the best so far."""
    return min([before.score, *(each.score for _, each in seen if is_better(each, before))])


def _rows(seen: Sequence[tuple[int, Judgement]]) -> Tensor:
    rows = [[float(step), found.kl, found.nats, float(found.tokens)] for step, found in seen]
    return torch.tensor(rows, dtype=torch.float64)
