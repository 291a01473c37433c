"""Loss of a model in which every component of some weights has a gate, with its gradient.

    y = up (gate * (down x)) + b         up, down: all components of the weight, frozen

Nothing of the model changes but the forward of these layers, and only as long as it is asked.
"""

# M outputs, N inputs, S components, T tokens

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from gacfx.calibration.running import borrowed, device_of, logits_of, runnable
from gacfx.calibration.text import Corpus
from gacfx.compressors.protocol import Decomposition
from gacfx.modules.dense import bias_of
from gacfx.modules.low_rank import balanced

Pair = tuple[Tensor, Tensor]
"""(up [M, S], down [S, N]) in the dtype in which the model computes."""


@dataclass(eq=False)
class Gated:
    """A model whose components can be gated.

    All pairs are in memory from the first call on: (M + N) S numbers for each weight.
    """

    model: nn.Module
    decompositions: Mapping[str, Decomposition]
    text: Corpus
    """Of which each call reads some windows."""
    _pairs: dict[str, Pair] = field(default_factory=dict)

    def __call__(
        self, gates: Mapping[str, Tensor], tokens: int, seed: int
    ) -> tuple[float, dict[str, Tensor]]:
        """(loss, its gradient for each gate), nats per token; float64 on the CPU.

        Where the loss is not finite it is infinite, and gradients are zero.

        Args:
            gates: module -> [S] of each component.
            tokens: about how many are read.
            seed: of the windows.
        """
        documents = windows(self.text, tokens, seed)
        count = sum(len(ids_T) - 1 for ids_T in documents)
        where = device_of(self._running)
        leaves = {
            name: gate.detach().to(where, self._pair(name)[0].dtype, copy=True).requires_grad_()
            for name, gate in gates.items()
        }
        layers = {name: self._forward(name, gate) for name, gate in leaves.items()}
        nats = 0.0
        with borrowed(self._running), torch.enable_grad(), instead(self._running, layers):
            for ids_T in documents:
                loss = _loss(self._running, ids_T.to(where)) / count
                loss.backward()
                nats += float(loss.detach())
        slopes = {
            name: torch.zeros_like(gates[name]) if leaf.grad is None else leaf.grad.double().cpu()
            for name, leaf in leaves.items()
        }
        if not isfinite(nats) or not all(bool(each.isfinite().all()) for each in slopes.values()):
            return inf, {name: torch.zeros_like(gate) for name, gate in gates.items()}
        return nats, slopes

    @cached_property
    def _running(self) -> nn.Module:
        return runnable(self.model)

    def _pair(self, module: str) -> Pair:
        if module not in self._pairs:
            found = self.decompositions[module]
            like: Any = next(self._running.get_submodule(module).parameters())
            up_MS, down_SN = balanced(*found.pair(min(found.weight_MN.shape)))
            self._pairs[module] = (up_MS.to(like), down_SN.to(like))
        return self._pairs[module]

    def _forward(self, module: str, gate_S: Tensor) -> Callable[[Tensor], Tensor]:
        up_MS, down_SN = self._pair(module)
        bias = bias_of(self._running.get_submodule(module))

        def forward(x: Tensor) -> Tensor:
            hidden = nn.functional.linear(x, down_SN) * gate_S
            return nn.functional.linear(hidden, up_MS, bias)

        return forward


def windows(text: Corpus, tokens: int, seed: int) -> list[Tensor]:
    """Windows in a random order until they have so many tokens; at least one.

    Args:
        text: to take them of.
        tokens: at least.
        seed: of the order.
    """
    order = torch.randperm(len(text.documents), generator=torch.Generator().manual_seed(seed))
    found, seen = list[Tensor](), 0
    for place in order.tolist():
        if seen >= tokens:
            break
        found.append(text.documents[place])
        seen += len(text.documents[place])
    return found


@contextmanager
def instead(model: nn.Module, forwards: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside, these modules run by other functions; afterwards by their own.

    Args:
        model: that they are in.
        forwards: module -> function of its input.
    """
    modules = {name: model.get_submodule(name) for name in forwards}
    own = {name: vars(module).get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.forward = forwards[name]
        yield
    finally:
        for name, module in modules.items():
            vars(module).pop("forward", None)
            if (given := own[name]) is not None:
                module.forward = given


def _loss(model: nn.Module, ids_T: Tensor) -> Tensor:
    """Sum of the losses of a window from its second token on, nats."""
    logits_TV = logits_of(model, ids_T)[:-1]
    wide = torch.promote_types(logits_TV.dtype, torch.float32)
    return nn.functional.cross_entropy(logits_TV.to(wide), ids_T[1:], reduction="sum")
