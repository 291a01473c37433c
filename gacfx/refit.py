"""Second factors refitted in the compressed model: SVD-LLM's closed-form update.

    Z = down X      X: what a layer is given behind the compressed layers before it
    up = W X Z^T (Z Z^T + ridge)^-1          ridge = 1e-6 tr(Z Z^T) / R

Layers are taken in their order. Weights of one layer see what its dense form computes, as in the
paper's code, and each is refitted only if its error on text that is held back falls:
E |W x - up down x|^2. Pivots, widths and dense weights stay as they are.
Source: Wang et al. 2024 (arXiv 2403.07378), section 3.3.
"""

# M outputs, N inputs, R rank, K tokens of a document

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.layered import Layered
from gacfx.calibration.running import borrowed, computing_dtype, device_of
from gacfx.calibration.text import Corpus
from gacfx.core.decision import LowRank
from gacfx.core.kept_factors import keep
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.planned import Planned
from gacfx.core.store import Store
from gacfx.errors import UnsupportedModel
from gacfx.modules.dense import dense_weight
from gacfx.modules.install import swapped

RIDGE = 1e-6
"""Beside the diagonal of Z Z^T, as a share of its mean."""
TOKENS = 32_768
"""Of each text, about so many are read: 16 windows of 2048, as in the paper's code."""

Each = Callable[[str, Tensor], None]
"""(module, its inputs [K, N]) -> nothing."""


@dataclass(frozen=True, eq=False)
class Refitted:
    """A plan with refitted factors, and what became of them."""

    planned: Planned
    taken: tuple[str, ...]
    """Modules whose second factor is a new one."""
    left: tuple[str, ...]
    """Those whose error on held-back text would not have fallen."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What is fitted to, and what judges it."""

    fitted: Corpus
    held_back: Corpus


def refit(
    model: nn.Module,
    made: Planned,
    texts: Texts,
    *,
    store: Store | None = None,
    device: torch.device | None = None,
) -> Refitted:
    """The same plan with second factors of pairs refitted where that helps.

    Args:
        model: the dense one, left as it was.
        made: the plan with factors of its method, outputs in the order of the dense layers.
        texts: about :data:`TOKENS` of each are read; their hidden states are in memory.
        store: where new factors are to live; None for memory.
        device: where each layer computes while it is at work; None for where the model is.

    Raises:
        UnsupportedModel: its layers do not run one at a time.
    """
    pairs = [name for name, each in made.factors.items() if type(each.decision) is LowRank]
    if not pairs:
        return Refitted(made, (), ())
    try:
        layered = Layered(model, device, computing_dtype(model, device))
        walk = _Walk(layered, made, texts.fitted.sample(TOKENS), texts.held_back.sample(TOKENS))
        new = walk.run()
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"an update of factors needs layers that run one at a time: {error}; take the method "
            "without it"
        ) from error
    kept = {name: keep(store, name, one, device_of(model)) for name, one in new.items()}
    left = tuple(name for name in pairs if name not in kept)
    return Refitted(Planned(made.plan, {**made.factors, **kept}), tuple(kept), left)


@dataclass(eq=False)
class _Walk:
    """From the first layer to the last one."""

    layered: Layered
    made: Planned
    fitted: Corpus
    held_back: Corpus

    def run(self) -> FactorSet:
        """Module -> factors, of those that were refitted."""
        new, model = FactorSet(), self.layered.model
        texts = (self.fitted.documents, self.held_back.documents)
        with ExitStack() as stack:
            stack.enter_context(borrowed(model))
            stack.enter_context(torch.no_grad())
            stack.enter_context(swapped(model, *self._parts(None)))
            stack.enter_context(self.layered.parted(texts[0][0]))
            hidden = [self._through(documents, -1, None) for documents in texts]
            for index in range(len(self.layered.layers)):
                factors, blocks = self._parts(index)
                found = self._refitted(index, factors, hidden)
                new |= found
                stack.enter_context(swapped(model, {**factors, **found}, blocks))
                if index + 1 < len(self.layered.layers):
                    hidden = [
                        self._through(documents, index, some)
                        for documents, some in zip(texts, hidden, strict=True)
                    ]
        return new

    def _parts(self, index: int | None) -> tuple[FactorSet, Mapping[str, Any]]:
        """Factors and blocks of a layer; None for what is in none."""
        at, blocks = self.layered.layer_of, self.made.plan.blocks
        factors = {name: one for name, one in self.made.factors.items() if at(name) == index}
        return factors, {name: one for name, one in blocks.items() if at(name) == index}

    def _through(
        self, documents: Iterable[Tensor], at: int, hidden: list[Tensor] | None
    ) -> list[Tensor]:
        """What stands behind a part, for each document."""
        places: Iterable[Tensor | None] = hidden or [None for _ in documents]
        return [
            self.layered.between(ids_K[None], at, each)
            for ids_K, each in zip(documents, places, strict=True)
        ]

    def _refitted(self, index: int, factors: FactorSet, hidden: list[list[Tensor]]) -> FactorSet:
        """Those of a layer that are better refitted."""
        pairs = {name: one for name, one in factors.items() if type(one.decision) is LowRank}
        weights = {name: dense_weight(self.layered.model.get_submodule(name)) for name in pairs}
        sums = {name: _Sums(weights[name], one) for name, one in pairs.items()}
        self._look(index, self.fitted, hidden[0], lambda name, x: sums[name].add(x))
        tried = {name: made for name, each in sums.items() if (made := each.solved()) is not None}
        errors = {name: [0.0, 0.0] for name in tried}

        def judge(name: str, x_KN: Tensor) -> None:
            if name in tried:
                for at, one in enumerate((pairs[name], tried[name])):
                    errors[name][at] += error_of(weights[name], one, x_KN)

        self._look(index, self.held_back, hidden[1], judge)
        return {name: one for name, one in tried.items() if errors[name][1] < errors[name][0]}

    def _look(self, index: int, text: Corpus, hidden: list[Tensor], look: Each) -> None:
        """Run a dense layer and show what its pairs are given."""
        names = [n for n, one in self._parts(index)[0].items() if type(one.decision) is LowRank]

        def hook(name: str) -> Callable[..., None]:
            return lambda _module, args: look(name, args[0].flatten(0, -2))

        model = self.layered.model
        handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in names]
        try:
            self._through(text.documents, index, hidden)
        finally:
            for handle in handles:
                handle.remove()


class _Sums:
    """Z^T Z and X^T Z of one weight, float64."""

    def __init__(self, weight_MN: Tensor, made: Factors) -> None:
        self.weight_MN, self.made = weight_MN, made
        columns, rank = made.columns, len(made.tensors["down"])
        where: Any = {"dtype": torch.float64, "device": made.tensors["down"].device}
        self.square_RR = torch.zeros(rank, rank, **where)
        self.cross_NR = torch.zeros(columns, rank, **where)

    def add(self, x_KN: Tensor) -> None:
        """Inputs of one document."""
        x_KN = x_KN.to(self.square_RR.device, _wide(x_KN.dtype))
        z_KR = x_KN @ self.made.tensors["down"].to(x_KN.dtype).T
        self.square_RR += z_KR.T @ z_KR
        self.cross_NR += x_KN.T @ z_KR

    def solved(self) -> Factors | None:
        """The pair with the least squares of its second factor; None where there are none."""
        up_MR = least_squares(self.weight_MN, self.square_RR, self.cross_NR)
        if up_MR is None:
            return None
        old = self.made.tensors
        new = replace(self.made, tensors={**old, "up": up_MR.to(old["up"])}, lent=False)
        return new if new.finite else None


def least_squares(weight_MN: Tensor, square_RR: Tensor, cross_NR: Tensor) -> Tensor | None:
    """W X Z^T (Z Z^T + ridge)^-1, float64 [M, R]; None where no token was seen, or none exists.

    Args:
        weight_MN: any floating dtype.
        square_RR: Z Z^T over tokens, float64.
        cross_NR: X Z^T over tokens, float64.
    """
    size = float(square_RR.trace())
    if not (isfinite(size) and size > 0):
        return None
    raised_RR = square_RR.clone()
    raised_RR.diagonal().add_(RIDGE * size / len(square_RR))
    root_RR, failed = torch.linalg.cholesky_ex(raised_RR)
    if bool(failed):
        return None
    target_MR = weight_MN.to(square_RR) @ cross_NR
    return torch.cholesky_solve(target_MR.T, root_RR).T.contiguous()


def error_of(weight_MN: Tensor, made: Factors, x_KN: Tensor) -> float:
    """Sum over tokens of |W x - up down x|^2.

    Args:
        weight_MN: dense.
        made: a pair.
        x_KN: inputs.
    """
    dtype, down_RN = _wide(x_KN.dtype), made.tensors["down"]
    x_KN = x_KN.to(down_RN.device, dtype)
    y_KM = x_KN @ weight_MN.to(x_KN).T
    y_KM -= (x_KN @ down_RN.to(dtype).T) @ made.tensors["up"].to(dtype).T
    return float(y_KM.double().square().sum())


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In which products are summed."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
