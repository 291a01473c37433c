"""What every rank of a weight costs, token by token: 1/2 E[(g^T D x)^2], D the error of the weight.

With W = sum of u_i v_i^T, best first, rank R leaves out the terms from R on, so that

    g^T D x = sum over i >= R of (u_i g)(v_i x)

is told for all ranks by one sum from behind. Moments know how large inputs x and gradients g are,
and take them for independent of each other; here each token has its own pair. That takes another
forward and backward, for labels that the model drew itself: the quadratic form of the Fisher matrix
with nothing factored.

Source: natural gradient, Amari 1998; that K-FAC takes x and g for independent: Martens and Grosse
2015. Measured by ``python -m benchmarks.values``.
"""

# T tokens, M outputs, N inputs, S = min(M, N) components

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gacfx.calibration.batches import batches, how_read
from gacfx.calibration.by_layer import ByLayer
from gacfx.calibration.cost import Shape
from gacfx.calibration.counting import Call, Counting
from gacfx.calibration.gather import go_back
from gacfx.calibration.layered import Layered, modules_by_layer
from gacfx.calibration.running import batch_logits, borrowed, computing_dtype, runnable
from gacfx.calibration.sums import InputSums, own_tensor
from gacfx.calibration.targets import targets
from gacfx.calibration.text import Corpus
from gacfx.core.store import Store
from gacfx.errors import NoRoom, UnsupportedModel
from gacfx.modules.dense import dense_weight

MOST_BYTES = 2**31
"""Of terms that are in memory together where the whole model runs; beyond, it runs again."""

Components = Mapping[str, tuple[Tensor, Tensor]]
"""Module -> (u [M, S], v [S, N]) of its weight, the terms best first; read when it is needed."""


def token_tails(
    model: nn.Module,
    text: Corpus,
    components: Components,
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
    store: Store | None = None,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Module -> loss [S + 1] at every rank 0 .. S, nats per token: float64, not increasing.

    Args:
        model: dense.
        text: on which they are measured; every token counts.
        components: of the weights; those of one layer are in memory, or of as many weights as
            :data:`MOST_BYTES` allows.
        seed: of the sampled labels.
        progress: called with the documents that were done since it was called last.
        store: where it is done one decoder layer at a time, and kept, with nothing else in it; None
            for the whole model at once, as where its layers do not run by themselves, or the store
            has no room for hidden states.
        device: with a store, where layers compute; None for where the model is.

    Raises:
        CalibrationError: text that does not fit, or logits that are no numbers.
    """
    if not components:
        return {}
    text = replace(text, counting=Counting())
    if store is not None:
        try:
            layered = Layered(model, device, computing_dtype(model, device))
            names = modules_by_layer(layered, components)
            with borrowed(model):
                walk = _ByLayer(layered, (text,), names, (), seed, store, progress)
                walk.components = components
                sets = walk.walk()
        except (UnsupportedModel, NoRoom):
            pass
        else:
            return {name: store.get(sets[name], f"0|{name}") for name in components}
    model = runnable(model)
    groups = _groups(targets(model, list(components)))
    found = dict[str, Tensor]()
    for chosen in groups:
        share = partial(_share, progress, len(groups))
        found |= _whole(model, text, chosen, components, seed, share)
    return found


def _share(progress: Callable[[float], None], runs: int, documents: float) -> None:
    progress(documents / runs)


def _groups(chosen: Mapping[str, nn.Module]) -> list[dict[str, nn.Module]]:
    """Modules whose terms are in memory together."""
    found, size = [dict[str, nn.Module]()], 0
    for name, module in chosen.items():
        rows, columns = dense_weight(module).shape
        own = 4 * min(rows, columns) * (rows + columns)
        if found[-1] and size + own > MOST_BYTES:
            found.append({})
            size = 0
        found[-1][name] = module
        size += own
    return found


def _whole(
    model: nn.Module,
    text: Corpus,
    chosen: Mapping[str, nn.Module],
    components: Components,
    seed: int,
    progress: Callable[[float], None],
) -> dict[str, Tensor]:
    """Of some modules, by running the whole model."""
    with borrowed(model):
        reads = how_read(model, text.documents, chosen.values())
    inputs = InputSums()
    sums = {
        name: TailSums(name, module, inputs, *components[name]) for name, module in chosen.items()
    }
    hooks = [hook for name, module in chosen.items() for hook in sums[name].attach(module)]
    try:
        with borrowed(model):
            for batch in batches(text.documents, reads):
                inputs.counts, inputs.shape = batch.real, batch.shape
                with torch.enable_grad():
                    go_back(model, batch_logits(model, batch.ids), batch, text, seed)
                progress(len(batch.documents))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: each.losses(text.tokens) for name, each in sums.items()}


class TailSums:
    """Sums of one module over all its calls."""

    def __init__(
        self, name: str, module: nn.Module, inputs: InputSums, up_MS: Tensor, down_SN: Tensor
    ) -> None:
        """Nothing is counted yet.

        Args:
            name: of the module.
            module: that is measured.
            inputs: knows which rows of a batch are tokens.
            up_MS: u_i as columns.
            down_SN: v_i as rows.
        """
        weight: Tensor = module.weight  # type: ignore[assignment]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.name, self.inputs = name, inputs
        self.up_MS, self.down_SN = (each.to(weight.device, dtype) for each in (up_MS, down_SN))
        self.squares_S = torch.zeros(self.up_MS.shape[1], dtype=torch.float64, device=weight.device)

    def attach(self, module: nn.Module) -> list[RemovableHandle]:
        """Count what the module does from now on, until the handles are removed."""
        return [module.register_forward_hook(self._after)]

    def _after(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output  # its model runs it so, and nothing comes back through it
        call = self.inputs.call(self.name)
        rows_TN = call.rows(args[0].detach(), self.down_SN.shape[1])
        inner_TS = rows_TN.to(self.down_SN.dtype) @ self.down_SN.T
        if not output.requires_grad:
            # A clone is no leaf, so what follows may still change it in place.
            output = output.detach().requires_grad_().clone()
        own_tensor(output).register_hook(partial(self._count, call, inner_TS))
        return output

    def _count(self, call: Call, inner_TS: Tensor, grad: Tensor) -> None:
        rows_TM = call.rows(grad.detach(), len(self.up_MS))
        terms_TS = (rows_TM.to(self.up_MS.dtype) @ self.up_MS) * inner_TS
        tails_TS = terms_TS.flip(1).cumsum_(1).flip(1)
        self.squares_S += tails_TS.square_().sum(0, dtype=torch.float64)

    def losses(self, tokens: int) -> Tensor:
        """[S + 1] on the CPU; a rank that loses less than a larger one counts as that one.

        Args:
            tokens: of the text, also those that the module did not see.
        """
        losses = torch.cat([self.squares_S.cpu() / (2 * tokens), torch.zeros(1).double()])
        return losses.flip(0).cummax(0).values.flip(0)


@dataclass(eq=False)
class _ByLayer(ByLayer):
    """The same walk through a model, with tails in the place of moments."""

    components: Components = None  # type: ignore[assignment]

    def _sums_of(self, name: str, module: nn.Module, inputs: InputSums) -> TailSums:
        return TailSums(name, module, inputs, *self.components[name])

    def _tensors(self, text: int, sums: dict[str, Any], tokens: int) -> dict[str, Tensor]:
        return {f"{text}|{name}": each.losses(tokens) for name, each in sums.items()}

    def _shapes(self) -> list[list[Shape]]:
        return [[] for _ in self.names]
