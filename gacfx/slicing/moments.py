"""What calibration sees at the norms of the residual stream: one pass, hooks on the norms.

    moment_HH      E[x x^T]    x as the norm leaves it, before gain and shift
    gradient_HH    E[g g^T]    g the gradient at x of the log-likelihood of sampled labels

Sums are float64, per token. A second pass measures how the kept coordinates tell the others
(:func:`regressions`).
"""

# B documents, T tokens, H hidden size, D that of the small model, V vocabulary

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.batches import Batch, batches, how_read
from gacfx.calibration.labels import check_logits, generator_of, sample_labels
from gacfx.calibration.running import batch_logits, borrowed, runnable
from gacfx.calibration.text import Corpus
from gacfx.errors import CalibrationError
from gacfx.slicing.basis import Basis
from gacfx.slicing.norms import NormForm

RIDGE = 1e-4
"""Of a regression, as a share of the mean square of a coordinate."""


@dataclass(frozen=True, eq=False)
class NormMoments:
    """Second moments at one norm, float64, per token."""

    moment_HH: Tensor
    gradient_HH: Tensor | None
    """None where gradients were not asked for."""


def gather_moments(
    model: nn.Module,
    corpus: Corpus,
    forms: Mapping[str, NormForm],
    embedding: str,
    *,
    gradients: bool,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, NormMoments]:
    """Moments at every norm, in the order of ``forms``.

    Args:
        model: a Hugging Face causal language model; left as it was.
        corpus: calibration text that fits it.
        forms: norms of its stream by module name.
        embedding: module where the stream begins.
        gradients: run backward as well.
        seed: of the sampled labels.
        progress: called with the number of documents that were done since it was called last.

    Raises:
        CalibrationError: the model cannot run, gives NaN, or a norm sees nothing of it.
    """
    model = runnable(model)
    sums = {name: _Sums(form) for name, form in forms.items()}
    todo = _batches(model, corpus, forms)
    with borrowed(model), torch.set_grad_enabled(gradients), _hooked(model, sums, embedding) as now:
        for batch in todo:
            now.real = batch.real
            logits_BTV = batch_logits(model, batch.ids)
            labels = []
            for row, (index, ids_T) in enumerate(zip(batch.indices, batch.documents, strict=True)):
                logits_TV = logits_BTV[row, : len(ids_T)].detach()
                check_logits(logits_TV, corpus.number(index))
                if gradients:
                    labels.append(sample_labels(logits_TV, generator_of(seed, ids_T)))
            if gradients:
                # The sum: each token's gradient is that of its own log-likelihood.
                rows_RV, drawn_R = batch.rows(logits_BTV), torch.cat(labels)
                nn.functional.cross_entropy(rows_RV, drawn_R, reduction="sum").backward()
            progress(len(batch.documents))
    return {name: each.moments(name, corpus.tokens, gradients) for name, each in sums.items()}


def regressions(
    model: nn.Module,
    corpus: Corpus,
    forms: Mapping[str, NormForm],
    basis: Basis,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """For each norm the matrix [H, D] that best tells its old output from the new one.

    Least squares over the tokens of the text: with x the normalised stream and z what the norm of
    the small model makes of the kept coordinates, E|x - R z|^2 is smallest. Coordinates that were
    lost are guessed from those that go with them, and the length that was lost with them is made up
    for. A small ridge draws R to ``basis.read_HD``.

    Arguments and errors are those of :func:`gather_moments`.
    """
    model = runnable(model)
    pairs = {name: _Pairs(form, basis) for name, form in forms.items()}
    todo = _batches(model, corpus, forms)
    with borrowed(model), torch.no_grad(), _hooked(model, pairs) as now:
        for batch in todo:
            now.real = batch.real
            batch_logits(model, batch.ids)
            progress(len(batch.documents))
    return {name: each.solved(name, corpus.tokens) for name, each in pairs.items()}


def _batches(model: nn.Module, corpus: Corpus, names: Iterable[str]) -> list[Batch]:
    """The documents as the model reads them together."""
    with borrowed(model):
        reads = how_read(model, corpus.documents, [model.get_submodule(name) for name in names])
    return batches(corpus.documents, reads)


class _Now:
    """The batch that is read."""

    def __init__(self) -> None:
        self.real: Tensor | None = None

    def rows(self, x_BTH: Tensor) -> Tensor:
        """[R, H]: those of the documents alone, detached."""
        x_RH = x_BTH.detach().flatten(0, -2)
        return x_RH if self.real is None else x_RH[self.real.to(x_RH.device)]


@contextmanager
def _hooked(model: nn.Module, sums: Mapping[str, Any], embedding: str = "") -> Iterator[_Now]:
    """Inside, every norm shows what it is given; with an embedding gradients begin there."""
    modules = {name: model.get_submodule(name) for name in sums}
    now = _Now()

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            sums[name].see(module, args[0], output, now.rows)

        return see

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    if embedding and torch.is_grad_enabled():
        begin = model.get_submodule(embedding)
        hooks.append(begin.register_forward_hook(lambda _m, _a, out: out.detach().requires_grad_()))
    try:
        yield now
    finally:
        for each in hooks:
            each.remove()


class _Plain:
    """A norm with its gain and shift taken out."""

    def __init__(self, form: NormForm) -> None:
        self._form = form
        self._module: nn.Module | None = None

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        """x as the norm divides it, epsilon included, float64."""
        if self._module is None:
            held = copy.deepcopy(module)
            held._forward_hooks.clear()
            self._module = self._form.neutral_(held)
        with torch.no_grad():
            found: Tensor = self._module(x)
        return found.double()


class _Sums:
    """Sums of one norm."""

    def __init__(self, form: NormForm) -> None:
        self._form, self._plain = form, _Plain(form)
        size = len(form.gain_H)
        self._moment = torch.zeros(size, size, dtype=torch.float64, device=form.gain_H.device)
        self._gradient = torch.zeros_like(self._moment)
        self._tokens = 0

    def see(
        self, module: nn.Module, x: Tensor, output: Tensor, rows: Callable[[Tensor], Tensor]
    ) -> None:
        """Add the tokens of a batch, and those of its gradient once it comes."""
        x_RH = self._plain(module, rows(x))
        self._moment += x_RH.T @ x_RH
        self._tokens += len(x_RH)

        def back(gradient: Tensor) -> None:
            g_RH = rows(gradient).double() * self._form.gain_H
            self._gradient += g_RH.T @ g_RH

        if output.requires_grad:
            output.register_hook(back)

    def moments(self, name: str, tokens: int, gradients: bool) -> NormMoments:
        """Per token.

        Raises:
            CalibrationError: other tokens were seen, or numbers that are none.
        """
        _check_tokens(name, self._tokens, tokens)
        gradient = self._gradient / tokens if gradients else None
        for each in (self._moment, self._gradient):
            if not bool(each.isfinite().all()):
                raise CalibrationError(f"{name}: NaN or infinite values on the calibration text")
        return NormMoments(self._moment / tokens, gradient)


class _Pairs:
    """Sums of the regression of one norm."""

    def __init__(self, form: NormForm, basis: Basis) -> None:
        self._plain, self._basis = _Plain(form), basis
        self._cross = torch.zeros_like(basis.read_HD)
        self._square = torch.zeros(basis.size, basis.size).to(basis.read_HD)
        self._tokens = 0

    def see(
        self, module: nn.Module, x: Tensor, output: Tensor, rows: Callable[[Tensor], Tensor]
    ) -> None:
        """Add the tokens of a batch."""
        del output
        x_RH = rows(x)
        kept_RH = (x_RH.double() @ self._basis.projector.T).to(x_RH.dtype)
        z_RD = self._plain(module, kept_RH) @ self._basis.write_DH.T
        self._cross += self._plain(module, x_RH).T @ z_RD
        self._square += z_RD.T @ z_RD
        self._tokens += len(x_RH)

    def solved(self, name: str, tokens: int) -> Tensor:
        """The regression.

        Raises:
            CalibrationError: other tokens were seen, or there is no solution.
        """
        _check_tokens(name, self._tokens, tokens)
        ridge = RIDGE * self._square.diagonal().mean()
        square = self._square + ridge * torch.eye(self._basis.size).to(self._square)
        found: Tensor = torch.linalg.solve(square, (self._cross + ridge * self._basis.read_HD).T).T
        if not bool(found.isfinite().all()):
            raise CalibrationError(
                f"{name}: no least squares on this text; take readers='rotated', or more text"
            )
        return found


def _check_tokens(name: str, seen: int, tokens: int) -> None:
    if seen != tokens:
        raise CalibrationError(
            f"{name}: saw {seen} tokens of {tokens}; a norm that runs twice, or on some tokens "
            "only, has no moments of the whole text"
        )
