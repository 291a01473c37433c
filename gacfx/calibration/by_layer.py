"""Statistics of a model one decoder layer at a time: forward to the head, and back.

    hidden.0 -> hidden.1 -> ... -> hidden.L -> grads.L      labels sampled at the head
    hidden.i, grads.i+1 -> moments.i, grads.i               recompute, and go back

Each arrow is a step between sets of a store, so that memory holds one layer's sums and little else,
and a run that was stopped goes on. Numbers are those of :func:`gacfx.calibration.gather.gather`.
"""

# B documents, T tokens of each, D width of the model, V vocabulary, L layers

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gacfx.calibration.labels import generator_of, sample_labels
from gacfx.calibration.layered import Layered
from gacfx.calibration.predictions import LOGITS
from gacfx.calibration.running import impossible
from gacfx.calibration.sums import InputSums, LinearSums
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments
from gacfx.core.steps import Step, make
from gacfx.core.store import Store
from gacfx.core.stored_moments import StoredMoments, moments_tensors
from gacfx.errors import CalibrationError, UnsupportedModel

SHARD_TOKENS = 16_384
"""Text whose hidden states are one set of the store: so much of a layer is in memory at once."""
NATS = "nats"
"""Set of the losses: for each text its sum over predicted tokens."""


@dataclass(frozen=True)
class _Shard:
    """Some documents of one text."""

    number: int
    text: int
    first: int
    """Position of the first document in its text."""
    documents: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
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

    def moments(self) -> tuple[tuple[StoredMoments, float], ...]:
        """For each text, its moments and the loss of the model on it, nats per token.

        Raises:
            CalibrationError: logits that are not finite, a token without probability.
            UnsupportedModel: the layers do not run one at a time; nothing was measured.
        """
        measured = [index for index, names in self.names.items() if names]
        wanted = [NATS, *(_moments(index) for index in sorted(measured, reverse=True))]
        try:
            with self.layered.parted(self.texts[0].documents[0]):
                make(self.store, self._steps(min(measured)), wanted)
        except UnsupportedModel:
            self._tidy()
            raise
        self._tidy()
        sets = {name: _moments(index) for index in sorted(measured) for name in self.names[index]}
        device = next(self.layered.model.parameters()).device
        return tuple(
            (
                StoredMoments(self.store, str(text), sets, device),
                float(self.store.get(NATS, str(text))) / (each.tokens - len(each.documents)),
            )
            for text, each in enumerate(self.texts)
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
            yield Step((_moments(at), *below), needs, run, spends=spends)

    def _tidy(self) -> None:
        """Drop what a run that was stopped has left on its way."""
        for at in range(len(self.layered.layers) + 1):
            for name in (*self._sets("hidden", at), *self._sets("grads", at)):
                self.store.drop(name)

    def _sets(self, what: str, at: int) -> tuple[str, ...]:
        return tuple(f"{what}.{at}.{shard.number}" for shard in self._shards)

    @property
    def _shards(self) -> list[_Shard]:
        found: list[_Shard] = []
        for text, corpus in enumerate(self.texts):
            start, tokens = 0, 0
            for index, ids_T in enumerate(corpus.documents):
                if tokens and tokens + len(ids_T) > SHARD_TOKENS:
                    part = corpus.documents[start:index]
                    found.append(_Shard(len(found), text, start, part))
                    start, tokens = index, 0
                tokens += len(ids_T)
            found.append(_Shard(len(found), text, start, corpus.documents[start:]))
        return found

    def _read(self, what: str, at: int, shard: _Shard, index: int) -> Tensor:
        """[1, T, D] of one document of a shard."""
        device = next(self.layered.model.parameters()).device
        return self.store.get(f"{what}.{at}.{shard.number}", str(index)).to(device)

    def _put(self, what: str, at: int, shard: _Shard, rows: Sequence[Tensor]) -> None:
        made = {str(index): each.detach() for index, each in enumerate(rows)}
        self.store.put(f"{what}.{at}.{shard.number}", made)

    def _between(self, shard: _Shard, index: int, at: int, hidden: Tensor | None) -> Tensor:
        """Boundary ``at`` + 1 of one document.

        Raises:
            CalibrationError: the whole model cannot read the document either.
        """
        ids_T = shard.documents[index]
        try:
            return self.layered.between(ids_T[None], at, hidden)
        except UnsupportedModel as error:
            if not (why := self.layered.fault(ids_T)):
                raise
            part = self.layered.part(at)
            number = self.texts[shard.text].number(shard.first + index)
            raise CalibrationError(f"{part} fails on document {number}: {why}") from error

    def _done(self) -> None:
        """One step was done for one document."""
        self.progress(0.5 / (len(self.layered.layers) + 1))

    @torch.no_grad()
    def _forward(self, at: int) -> None:
        """Boundary ``at`` + 1."""
        for shard in self._shards:
            made = []
            for index in range(len(shard.documents)):
                hidden = self._read("hidden", at, shard, index) if at >= 0 else None
                made.append(self._between(shard, index, at, hidden))
                self._done()
            self._put("hidden", at + 1, shard, made)

    def _head(self) -> None:
        """The losses, and the gradient of the likelihood of sampled labels at the last boundary."""
        nats = [0.0 for _ in self.texts]
        count = len(self.layered.layers)
        for shard in self._shards:
            made = []
            for index, ids_T in enumerate(shard.documents):
                hidden = self._read("hidden", count, shard, index)
                number = self.texts[shard.text].number(shard.first + index)
                grads, lost_T = self._likelihood(ids_T, hidden, number)
                nats[shard.text] += float(lost_T.double().sum())
                made.append(grads)
                self._done()
            self._put("grads", count, shard, made)
        self.store.put(NATS, {str(t): torch.tensor(n).double() for t, n in enumerate(nats)})

    def _likelihood(self, ids_T: Tensor, hidden: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """(gradient [1, T, D], losses [T - 1] in nats) of one document, some positions at a time.

        A gradient is that of a token's own log-likelihood, so it does not depend on how many there
        are.
        """
        generator, grads, losses = generator_of(self.seed, ids_T), [], []
        step = max(LOGITS // self.layered.vocabulary, 1)
        for start in range(0, len(ids_T), step):
            part = hidden[:, start : start + step].clone().requires_grad_()
            with torch.enable_grad():
                ids_BT = ids_T[None, start : start + step]
                logits_TV = self.layered.between(ids_BT, len(self.layered.layers), part)[0]
            next_T = ids_T[start + 1 : start + step + 1]
            losses.append(self._go_back(logits_TV, next_T, generator, number))
            grads.append(torch.zeros_like(part) if part.grad is None else part.grad)
        nats_T = torch.cat(losses)
        if why := impossible(nats_T, ids_T, number):
            raise CalibrationError(why)
        return torch.cat(grads, 1), nats_T

    def _go_back(
        self, logits_TV: Tensor, next_T: Tensor, generator: torch.Generator, number: int
    ) -> Tensor:
        """Runs the head backward; losses of the tokens that follow, float32."""
        with torch.enable_grad():
            logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
            seen_TV = logits_TV.detach()
            # -inf masks rows of the vocabulary; the largest logit must be a number.
            if not bool(torch.isfinite(seen_TV.amax(-1)).all()):
                raise CalibrationError(
                    f"the model's logits are NaN or infinite on document {number}; "
                    "run it in bfloat16 or float32"
                )
            labels_T = sample_labels(seen_TV, generator)
            if logits_TV.requires_grad:
                loss = nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum")
                torch.autograd.backward(loss)
        target_T = next_T.to(seen_TV.device)
        return nn.functional.cross_entropy(seen_TV[: len(next_T)], target_T, reduction="none")

    def _backward(self, at: int, further: bool) -> None:
        """Moments of a layer, and the gradient at its boundary if layers below it want one."""
        made = dict[str, Tensor]()
        for text, corpus in enumerate(self.texts):
            shards = [shard for shard in self._shards if shard.text == text]
            found = self._sums(at, shards, corpus.tokens, further)
            made |= moments_tensors(str(text), found)
        self.store.put(_moments(at), made)

    def _sums(
        self, at: int, shards: list[_Shard], tokens: int, further: bool
    ) -> dict[str, Moments]:
        """Moments of one layer on one text."""
        inputs, model = InputSums(), self.layered.model
        modules = {name: model.get_submodule(name) for name in self.names[at]}
        sums = {
            name: LinearSums(name, module, inputs, both_sides=name in self.both_sides)
            for name, module in modules.items()
        }
        hooks = [modules[n].register_forward_hook(sums[n].forward_hook) for n in modules]
        try:
            for shard in shards:
                made = []
                for index in range(len(shard.documents)):
                    made.append(self._through(at, shard, index, further))
                    inputs.flush()
                if further:
                    self._put("grads", at, shard, made)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: sums.pop(name).moments(tokens) for name in modules}

    def _through(self, at: int, shard: _Shard, index: int, further: bool) -> Tensor:
        """Gradient [1, T, D] at boundary ``at`` of one document; its hooks count on the way."""
        hidden = self._read("hidden", at, shard, index).detach().requires_grad_(further)
        with torch.enable_grad():
            made = self._between(shard, index, at, hidden)
            if made.requires_grad:
                made.backward(self._read("grads", at + 1, shard, index).view_as(made))
        self._done()
        return torch.zeros_like(hidden) if hidden.grad is None else hidden.grad


def _moments(at: int) -> str:
    return f"moments.{at}"
