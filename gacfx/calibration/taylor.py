"""Gradients of the weights on a text, for the scores of LLM-Pruner (arXiv 2305.11627) and others.

One forward and one backward for each document, with the text itself as labels. Gradients of weights
are products of what the hooks see, in float32, whatever the dtype of the model; parameters stay
frozen, so that only what is asked for is computed.
"""

# T tokens, M outputs, N inputs

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.faults import no_numbers
from gacfx.calibration.running import (
    borrowed,
    impossible,
    logits_of,
    runnable,
    token_nats,
)
from gacfx.calibration.sums import own_tensor
from gacfx.calibration.targets import check_finite, targets
from gacfx.calibration.text import Corpus, check_fits
from gacfx.core.taylor import TaylorSums
from gacfx.errors import CalibrationError, NoNumbers
from gacfx.modules.dense import dense_weight


def taylor_sums(
    model: nn.Module,
    corpus: Corpus,
    modules: Mapping[str, nn.Module] | Iterable[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, TaylorSums]:
    """Module name -> gradients of its weight, on the model's device.

    Two float32 matrices of the size of each weight are kept, and a third one for a document.

    Args:
        model: Hugging Face causal language model, or a module from ids [1, T] to logits [1, T, V].
        corpus: calibration text; LLM-Pruner takes 10 documents of 64 tokens.
        modules: names of the targeted ``nn.Linear`` and ``Conv1D`` modules, or a mapping of them.
        progress: called after each document with its number of tokens.

    Raises:
        CalibrationError: text that does not fit, unknown names, NaN or infinite weights or logits,
            a token that the model gives no probability.
        UnsupportedModel: a module of another kind.
    """
    check_fits(model, corpus)
    check_finite(model)
    names = list(targets(model, modules))
    model = runnable(model)
    chosen = targets(model, names)
    sums = {name: _WeightSums(module) for name, module in chosen.items()}
    hooks = [chosen[name].register_forward_hook(sums[name].forward_hook) for name in names]
    try:
        with borrowed(model), torch.enable_grad():
            for index, ids_T in enumerate(corpus.documents):
                _one_document(model, ids_T, corpus.number(index))
                for part in sums.values():
                    part.finish(len(ids_T) - 1)
                if progress is not None:
                    progress(len(ids_T))
    finally:
        for hook in hooks:
            hook.remove()
    predicted = corpus.tokens - len(corpus.documents)
    return {name: part.result(predicted) for name, part in sums.items()}


def _one_document(model: nn.Module, ids_T: Tensor, number: int) -> None:
    """Runs the hooks forward and backward."""
    nats_T = token_nats(logits_of(model, ids_T), ids_T)
    seen_T = nats_T.detach()
    if bool(seen_T.isnan().any()):
        raise NoNumbers(no_numbers(model, ids_T, number))
    if why := impossible(seen_T, ids_T, number):
        raise CalibrationError(why)
    if nats_T.requires_grad:
        torch.autograd.backward(nats_T.sum())


class _WeightSums:
    """Gradients of one weight."""

    def __init__(self, module: nn.Module) -> None:
        weight_MN = dense_weight(module)
        self.dtype = torch.promote_types(weight_MN.dtype, torch.float32)
        self.weight_MN = weight_MN
        self.own_MN = torch.zeros(weight_MN.shape, dtype=self.dtype, device=weight_MN.device)
        """Of the document that runs."""
        self.sum_MN, self.square_MN = torch.zeros_like(self.own_MN), torch.zeros_like(self.own_MN)
        self.columns: list[Tensor] = []
        self.input_N = self.own_MN.new_zeros(weight_MN.shape[1], dtype=torch.float64)
        self.seen = 0

    def forward_hook(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Keep the input until its gradient comes."""
        rows, columns = self.weight_MN.shape
        x_TN = args[0].detach().reshape(-1, columns).to(self.dtype, copy=True)
        self.input_N += x_TN.sum(0, dtype=torch.float64)
        self.seen += len(x_TN)
        if not torch.is_grad_enabled():
            return output  # its model runs it so, and nothing comes back through it
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()

        def grad_hook(grad: Tensor) -> None:
            self.own_MN.addmm_(grad.detach().reshape(-1, rows).to(self.dtype).T, x_TN)

        own_tensor(output).register_hook(grad_hook)
        return output

    def finish(self, predicted: int) -> None:
        """Count a document with so many predicted tokens."""
        self.sum_MN += self.own_MN
        self.own_MN /= predicted
        self.square_MN += self.own_MN.square()
        self.columns.append(self.own_MN.mul_(self.weight_MN).sum(0, dtype=torch.float64))
        self.own_MN.zero_()

    def result(self, predicted: int) -> TaylorSums:
        """Means over ``predicted`` tokens and over documents."""
        return TaylorSums(
            mean=self.sum_MN / predicted,
            square_mean=self.square_MN / len(self.columns),
            column_sums=torch.stack(self.columns),
            input_mean=self.input_N / max(self.seen, 1),
        )
