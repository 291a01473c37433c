"""Statistics of a model one decoder layer at a time: forward to the head, and back.

    hidden.0 -> hidden.1 -> ... -> hidden.L -> grads.L      labels sampled at the head
    hidden.i, grads.i+1 -> moments.i, grads.i               recompute, and go back

Each arrow is a step between sets of a store, so that memory holds one layer's sums and little else,
and a run that was stopped goes on. Numbers are those of :func:`gacfx.calibration.gather.gather`.
"""

# B documents of a batch, T tokens of the longest, D width of the model, V vocabulary, L layers

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Batch, Reads, batches, how_read
from gacfx.calibration.cost import Shape, calibration_bytes, moment_bytes, plan_bytes
from gacfx.calibration.labels import check_logits, generator_of, sample_labels
from gacfx.calibration.layered import Layered
from gacfx.calibration.predictions import positions
from gacfx.calibration.running import device_of, impossible
from gacfx.calibration.sums import InputSums, LinearSums
from gacfx.calibration.text import Corpus
from gacfx.core.steps import Step, make
from gacfx.core.store import Store
from gacfx.core.stored_moments import StoredMoments, moments_tensors
from gacfx.errors import CalibrationError, NoRoom, UnsupportedModel
from gacfx.modules.dense import dense_weight

SHARD_TOKENS = 16_384
"""Text whose hidden states are one set of the store: so much of a layer is in memory at once."""
NATS = "nats"
"""Set of the losses: for each text its sum over predicted tokens."""
READS = "reads"
"""Set of how documents were batched in hidden states and gradients that are on the way."""


@dataclass(frozen=True)
class _Shard:
    """Some batches of one text."""

    number: int
    text: int
    batches: tuple[Batch, ...]


@dataclass(eq=False)
class ByLayer:
    """What is done to each layer, and in which order."""

    layered: Layered
    texts: tuple[Corpus, ...]
    names: dict[int, list[str]]
    """Layer -> its targeted modules."""
    both_sides: Container[str]
    seed: int
    store: Store
    progress: Callable[[float], None]
    """Called with the documents that were done: each step does a part of all."""
    reads: Reads = Reads.ALONE
    """Which documents the model reads together; known when it was tried."""

    def moments(self, device: torch.device) -> tuple[tuple[StoredMoments, float], ...]:
        """For each text, its moments and the loss of the model on it, nats per token.

        Args:
            device: where the moments are when they are read.

        Raises:
            NoNumbers: logits that are not finite.
            CalibrationError: a token without probability.
            NoRoom: the store has none for all that.
            UnsupportedModel: the layers do not run one at a time; nothing was measured.
        """
        sets = self.walk()
        return tuple(
            (
                StoredMoments(self.store, str(text), sets, device),
                float(self.store.get(NATS, str(text))) / (each.tokens - len(each.documents)),
            )
            for text, each in enumerate(self.texts)
        )

    def walk(self) -> dict[str, str]:
        """Do all of it; module -> set of the store with what was measured of it.

        Raises:
            CalibrationError, NoRoom, UnsupportedModel: as :meth:`moments`.
        """
        measured = [index for index, names in self.names.items() if names]
        wanted = [NATS, *(_measured(index) for index in sorted(measured, reverse=True))]
        try:
            with self.layered.parted(self.texts[0].documents[0]):
                self.reads = self._how_read()
                self._check_room(wanted)
                if any(name not in self.store for name in wanted):
                    self._leave_what_was_batched_otherwise()
                make(self.store, self._steps(min(measured)), wanted)
        except UnsupportedModel:
            self._tidy()
            raise
        self._tidy()
        return {name: _measured(index) for index in sorted(measured) for name in self.names[index]}

    def _sums_of(self, name: str, module: nn.Module, inputs: InputSums) -> Any:
        """What is to be counted of a module, ready to be attached to it."""
        return LinearSums(name, module, inputs, both_sides=name in self.both_sides)

    def _tensors(self, text: int, sums: dict[str, Any], tokens: int) -> dict[str, Tensor]:
        """What is kept of the sums of one layer on one text, which are spent."""
        found = {name: sums.pop(name).moments(tokens) for name in list(sums)}
        return moments_tensors(str(text), found)

    def _shapes(self) -> list[list[Shape]]:
        """Of the weights whose sums are kept, by layer."""
        model = self.layered.model
        return [
            [
                (*dense_weight(model.get_submodule(name)).shape, name in self.both_sides)
                for name in names
            ]
            for _, names in sorted(self.names.items())
        ]

    def _how_read(self) -> Reads:
        model, top = self.layered.model, len(self.layered.layers) + 1
        documents = [each for text in self.texts for each in text.documents]
        names = [name for some in self.names.values() for name in some]
        logits = partial(self.layered.between, at=-1, until=top, finite=False)
        return how_read(model, documents, map(model.get_submodule, names), logits)

    def _check_room(self, wanted: list[str]) -> None:
        """Nothing when the store has room for all of this, with what a run that was stopped left of
        it; nothing is asked for where all is there."""
        room, model = self.store.room(), self.layered.model
        if math.isinf(room) or all(name in self.store for name in wanted):
            return
        room += sum(map(self.store.size, [*wanted, *self._on_the_way()]))
        weights = {
            name: dense_weight(model.get_submodule(name))
            for names in self.names.values()
            for name in names
        }
        shapes = self._shapes()
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]  # transformers
        weight, tokens = embedding.weight, sum(text.tokens for text in self.texts)
        number = (self.layered.dtype or weight.dtype).itemsize
        sizes = len(self.texts), tokens, weight.shape[1], number
        after = len(self.texts) * sum(map(moment_bytes, shapes))
        after += plan_bytes((*each.shape, each.itemsize) for each in weights.values())
        if (needed := max(calibration_bytes(shapes, *sizes), after)) > room:
            raise NoRoom(
                f"the work folder has room for {room / 1e6:,.1f} MB more, and calibration takes "
                f"{needed / 1e6:,.1f}; allow more, or give less text"
            )

    def _steps(self, lowest: int) -> Iterator[Step]:
        """All steps; no gradient is wanted below the ``lowest`` layer that is measured."""
        count = len(self.layered.layers)
        yield Step(self._sets("hidden", 0), (), partial(self._forward, -1))
        for at in range(count):
            made, needs = self._sets("hidden", at + 1), self._sets("hidden", at)
            yield Step(made, needs, partial(self._forward, at))
        last = self._sets("hidden", count)
        yield Step((NATS, *self._sets("grads", count)), last, self._head, spends=last)
        for at in range(lowest, count):
            below = self._sets("grads", at) if at > lowest else ()
            needs = (*self._sets("hidden", at), *self._sets("grads", at + 1))
            # What is below the lowest layer was only on the way to it.
            under = range(0 if not below else at, at)
            spends = (*needs, *(name for i in under for name in self._sets("hidden", i)))
            run = partial(self._backward, at, at > lowest)
            yield Step((_measured(at), *below), needs, run, spends=spends)

    def _tidy(self) -> None:
        """Drop what a run that was stopped has left on its way."""
        for name in self._on_the_way():
            self.store.drop(name)

    def _leave_what_was_batched_otherwise(self) -> None:
        """Hidden states and gradients of a run that was stopped serve one that reads its documents
        in the same batches; on another device a model may read others together."""
        own = list(Reads).index(self.reads)
        if READS not in self.store or int(self.store.get(READS, READS)) != own:
            self._tidy()
            self.store.put(READS, {READS: torch.tensor(own)})

    def _on_the_way(self) -> Iterator[str]:
        """Sets that are gone when all is done."""
        most = max(len(_shards(self.texts, reads)) for reads in Reads)
        for at in range(len(self.layered.layers) + 1):
            for what in ("hidden", "grads"):
                yield from (_of_shard(what, at, number) for number in range(most))
        yield READS

    def _sets(self, what: str, at: int) -> tuple[str, ...]:
        return tuple(_of_shard(what, at, shard.number) for shard in self._shards)

    @cached_property
    def _shards(self) -> list[_Shard]:
        return _shards(self.texts, self.reads)

    def _read(self, what: str, at: int, shard: _Shard, index: int) -> Tensor:
        """[B, T, D] of one batch of a shard."""
        device = device_of(self.layered.model)
        return self.store.get(_of_shard(what, at, shard.number), str(index)).to(device)

    def _put(self, what: str, at: int, shard: _Shard, rows: Sequence[Tensor]) -> None:
        made = {str(index): each.detach() for index, each in enumerate(rows)}
        self.store.put(_of_shard(what, at, shard.number), made)

    def _between(self, shard: _Shard, index: int, at: int, hidden: Tensor | None) -> Tensor:
        """Boundary ``at`` + 1 of one batch.

        Raises:
            CalibrationError: the whole model cannot read one of its documents either.
        """
        batch = shard.batches[index]
        try:
            return self.layered.between(batch.ids, at, hidden)
        except UnsupportedModel as error:
            part = self.layered.part(at)
            for place, ids_T in zip(batch.indices, batch.documents, strict=True):
                number = self.texts[shard.text].number(place)
                if why := self.layered.fault(ids_T, f"{part} fails on document {number}"):
                    raise why from error
            raise

    def _done(self, batch: Batch) -> None:
        """One step was done for the documents of a batch."""
        self.progress(0.5 * len(batch.documents) / (len(self.layered.layers) + 1))

    @torch.no_grad()
    def _forward(self, at: int) -> None:
        """Boundary ``at`` + 1."""
        with self.layered.at_hand(at):
            for shard in self._shards:
                made = []
                for index, batch in enumerate(shard.batches):
                    hidden = self._read("hidden", at, shard, index) if at >= 0 else None
                    made.append(self._between(shard, index, at, hidden))
                    self._done(batch)
                self._put("hidden", at + 1, shard, made)

    def _head(self) -> None:
        """The losses, and the gradient of the likelihood of sampled labels at the last boundary."""
        nats = [0.0 for _ in self.texts]
        count = len(self.layered.layers)
        for shard in self._shards:
            made = []
            for index, batch in enumerate(shard.batches):
                hidden = self._read("hidden", count, shard, index)
                numbers = [self.texts[shard.text].number(place) for place in batch.indices]
                grads, lost = self._likelihood(batch, numbers, hidden)
                nats[shard.text] += lost
                made.append(grads)
                self._done(batch)
            self._put("grads", count, shard, made)
        self.store.put(
            NATS, {str(t): torch.tensor(n, dtype=torch.float64) for t, n in enumerate(nats)}
        )

    def _likelihood(self, batch: Batch, numbers: list[int], hidden: Tensor) -> tuple[Tensor, float]:
        """(gradient [B, T, D], loss in nats) of the documents of a batch, some positions at a time.

        A gradient is that of a token's own log-likelihood, so it does not depend on how many there
        are.
        """
        draws = [generator_of(self.seed, ids_T) for ids_T in batch.documents]
        lost: list[list[Tensor]] = [[] for _ in draws]
        grads, ids_BT = [], batch.ids
        step = positions(len(draws), self.layered.vocabulary)
        for start in range(0, ids_BT.shape[1], step):
            part = hidden[:, start : start + step].clone().requires_grad_()
            with torch.enable_grad():
                ids_Bt = ids_BT[:, start : start + step]
                logits_BtV = self.layered.between(ids_Bt, len(self.layered.layers), part)
                self._go_back(logits_BtV, batch, numbers, start, draws, lost)
            grads.append(torch.zeros_like(part) if part.grad is None else part.grad)
        nats = 0.0
        for number, ids_T, losses in zip(numbers, batch.documents, lost, strict=True):
            nats_T = torch.cat(losses)
            if why := impossible(nats_T, ids_T, number):
                raise CalibrationError(why)
            nats += float(nats_T.double().sum())
        return torch.cat(grads, 1), nats

    def _go_back(
        self,
        logits_BtV: Tensor,
        batch: Batch,
        numbers: list[int],
        start: int,
        draws: Sequence[torch.Generator],
        lost: Sequence[list[Tensor]],
    ) -> None:
        """Runs the head backward for the positions from ``start`` on.

        Adds the losses [t] of the tokens that follow, in float32, to those of each document.
        """
        logits_BtV = logits_BtV.to(torch.promote_types(logits_BtV.dtype, torch.float32))
        rows, labels = [], []
        for row, (number, ids_T) in enumerate(zip(numbers, batch.documents, strict=True)):
            real_tV = logits_BtV[row, : max(len(ids_T) - start, 0)]
            if not len(real_tV):
                continue
            seen_tV = real_tV.detach()
            check_logits(seen_tV, number)
            next_T = ids_T[start + 1 : start + 1 + len(seen_tV)].to(seen_tV.device)
            lost[row].append(
                nn.functional.cross_entropy(seen_tV[: len(next_T)], next_T, reduction="none")
            )
            rows.append(real_tV)
            labels.append(sample_labels(seen_tV, draws[row]))
        if rows and logits_BtV.requires_grad:
            loss = nn.functional.cross_entropy(torch.cat(rows), torch.cat(labels), reduction="sum")
            torch.autograd.backward(loss)

    def _backward(self, at: int, further: bool) -> None:
        """Moments of a layer, and the gradient at its boundary if layers below it want one."""
        made = dict[str, Tensor]()
        for text, corpus in enumerate(self.texts):
            shards = [shard for shard in self._shards if shard.text == text]
            with self.layered.at_hand(at):
                found = self._sums(at, shards, corpus, further)
            made |= self._tensors(text, found, corpus.counted_tokens)
        self.store.put(_measured(at), made)

    def _sums(self, at: int, shards: list[_Shard], corpus: Corpus, further: bool) -> dict[str, Any]:
        """What was counted of one layer on one text."""
        inputs, model = InputSums(corpus.counting.clip), self.layered.model
        modules = {name: model.get_submodule(name) for name in self.names[at]}
        sums = {name: self._sums_of(name, module, inputs) for name, module in modules.items()}
        hooks = [hook for name, module in modules.items() for hook in sums[name].attach(module)]
        try:
            for shard in shards:
                made = []
                for index, batch in enumerate(shard.batches):
                    inputs.counts, inputs.shape = batch.counted(corpus.counting), batch.shape
                    made.append(self._through(at, shard, index, further))
                    inputs.flush()
                if further:
                    self._put("grads", at, shard, made)
        finally:
            for hook in hooks:
                hook.remove()
        return sums

    def _through(self, at: int, shard: _Shard, index: int, further: bool) -> Tensor:
        """Gradient [B, T, D] at boundary ``at`` of one batch; its hooks count on the way."""
        hidden = self._read("hidden", at, shard, index).detach().requires_grad_(further)
        with torch.enable_grad():
            made = self._between(shard, index, at, hidden)
            if made.requires_grad:
                made.backward(self._read("grads", at + 1, shard, index).view_as(made))
        self._done(shard.batches[index])
        return torch.zeros_like(hidden) if hidden.grad is None else hidden.grad


def _measured(at: int) -> str:
    return f"moments.{at}"


def _of_shard(what: str, at: int, number: int) -> str:
    return f"{what}.{at}.{number}"


def _shards(texts: Sequence[Corpus], reads: Reads) -> list[_Shard]:
    """All texts in parts of at most :data:`SHARD_TOKENS`, where a batch is not longer."""
    found: list[_Shard] = []
    for text, corpus in enumerate(texts):
        parts, tokens = [list[Batch]()], 0
        for batch in batches(corpus.documents, reads):
            if tokens and tokens + batch.tokens > SHARD_TOKENS:
                parts.append([])
                tokens = 0
            parts[-1].append(batch)
            tokens += batch.tokens
        found += [_Shard(len(found) + i, text, tuple(part)) for i, part in enumerate(parts)]
    return found


def moments_sets(names: Mapping[int, list[str]]) -> dict[str, list[str]]:
    """Set of the store -> modules whose moments it has.

    Args:
        names: layer -> its targeted modules.
    """
    return {_measured(index): modules for index, modules in sorted(names.items()) if modules}
