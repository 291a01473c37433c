"""The steps of a training of masks: settings, batches, loss, and a state to go on from."""

# P prompts, B prompts of a batch, T tokens, V vocabulary, F features, K open blocks

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256

import torch
from torch import Tensor, nn

from gacfx.calibration.divergence import divergences
from gacfx.errors import CalibrationError, PlanError
from gacfx.modules.routing_hooks import pools
from gacfx.routing.against_dense import Dense, behind, outputs_of, weighed
from gacfx.routing.one_basis.mask_checkpoint import TrainingState
from gacfx.routing.one_basis.masks import (
    KINDS,
    Kind,
    TrainedMasks,
    by_module,
    score_blocks,
    soft_masks,
)


@dataclass(frozen=True, slots=True)
class MaskTraining:
    """How masks are trained.

    Raises:
        PlanError: a number that makes no sense.
    """

    kind: Kind = "static"
    steps: int = 200
    batch: int = 10
    """Prompts of a step; all of them where there are fewer."""
    bias_rate: float = 0.1
    """Learning rate of the bias, which falls to 0 along a cosine."""
    map_rate: float = 0.03
    """Learning rate of the map from features, likewise."""
    eps: float = 1e-4
    """Of Adam: blocks with a smaller gradient move less."""
    width_begin: float = 0.34
    """Width of the soft masks in the first step, in units of the scores."""
    width_end: float = 0.04
    """Behind the last step; linear between the two."""
    layer_error: float = 0.0
    """Weight of the error of hidden states, which falls to 0 over the first third."""
    hidden: int = 16
    """Numbers of the hidden layer of two-layer masks."""
    seed: int = 0
    cache_bytes: int = 2**28
    """Most that is taken to keep what the dense model predicts, float32; else it is computed for
    each batch."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(f"kind {self.kind!r} is none of {KINDS}")
        for each in fields(self)[1:]:
            found, low = getattr(self, each.name), each.name in ("steps", "batch", "hidden")
            if not (math.isfinite(found) and found >= int(low)):
                raise PlanError(f"{each.name} {found} is not finite, or below {int(low)}")
        if not self.width_begin >= self.width_end > 0 or not self.eps > 0:
            raise PlanError("widths must be above 0 and not grow, and eps above 0")

    def width(self, step: int) -> float:
        """Of the soft masks of a step."""
        return self.width_end + (self.width_begin - self.width_end) * (1 - step / self.steps)

    def rate(self, step: int) -> float:
        """Share of the learning rates that a step has."""
        return (1 + math.cos(math.pi * step / self.steps)) / 2

    def layers(self, step: int) -> float:
        """Weight of the error of hidden states in a step."""
        return self.layer_error * max(0.0, 1 - 3 * step / self.steps)


class DenseOutputs:
    """What the dense model predicts behind the prompts, kept if there is room for all of it.

    It is kept by chunks of windows that follow each other, so that its bits do not depend on the
    order in which they are asked for.
    """

    def __init__(
        self, dense: Dense, ids_PT: Tensor, prompt_tokens: int, *, chunk: int, most_bytes: int
    ) -> None:
        self.dense, self.ids_PT, self.prompt_tokens = dense, ids_PT, prompt_tokens
        self.chunk, self.most_bytes = chunk, most_bytes
        self.keeps: bool | None = None
        self._chunks: dict[int, Tensor] = {}

    @torch.no_grad()
    def of(self, rows: Tensor) -> Tensor:
        """Logarithms of probabilities of some windows, [B, tokens behind, V]."""
        if self.keeps is None:
            size = self._chunk(0)[0].nbytes * len(self.ids_PT)
            self.keeps = size <= self.most_bytes
        if self.keeps:
            return torch.stack([self._chunk(at // self.chunk)[at % self.chunk] for at in rows])
        self._chunks.clear()
        return behind(outputs_of(self.dense, self.ids_PT[rows])[0], self.prompt_tokens)

    @torch.no_grad()
    def with_layers(self, rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same, and the hidden states behind each decoder layer; nothing is kept."""
        logits, states = outputs_of(self.dense, self.ids_PT[rows], hidden=True)
        return behind(logits, self.prompt_tokens), states

    def _chunk(self, at: int) -> Tensor:
        if at not in self._chunks:
            ids_BT = self.ids_PT[at * self.chunk : (at + 1) * self.chunk]
            self._chunks[at] = behind(outputs_of(self.dense, ids_BT)[0], self.prompt_tokens)
        return self._chunks[at]


class MaskSteps:
    """A training between two steps; the model is still inside :meth:`of`."""

    def __init__(
        self,
        model: nn.Module,
        ids_PT: Tensor,
        prompt_tokens: int,
        dense: Dense,
        features_PF: Tensor | None,
        settings: MaskTraining,
        begun: TrainedMasks,
    ) -> None:
        self.model, self.ids_PT, self.prompt_tokens = model, ids_PT, prompt_tokens
        self.settings, self.begun = settings, begun
        self.device = next(iter(pools(model).values())).down.device
        self.features_PF = None if features_PF is None else features_PF.float().to(self.device)
        self.known = DenseOutputs(
            dense, ids_PT, prompt_tokens, chunk=settings.batch, most_bytes=settings.cache_bytes
        )
        self.parameters = {
            name: tensor.to(self.device, copy=True).requires_grad_()
            for name, tensor in begun.parameters.items()
        }
        self.losses: list[float] = []
        groups = [
            {"params": [tensor], "lr": self._rate(name)} for name, tensor in self.parameters.items()
        ]
        self.optimiser = torch.optim.Adam(groups, eps=settings.eps)

    @staticmethod
    @contextmanager
    def of(
        model: nn.Module,
        ids_PT: Tensor,
        prompt_tokens: int,
        dense: Dense,
        features_PF: Tensor | None,
        settings: MaskTraining,
        begun: TrainedMasks,
    ) -> Iterator["MaskSteps"]:
        """The training, while the parameters of the model are frozen.

        Args:
            model: with pools.
            ids_PT: windows.
            prompt_tokens: of each.
            dense: what is right.
            features_PF: of each prompt; None for static masks.
            settings: of the training.
            begun: masks to begin with.
        """
        moving = [each for each in model.parameters() if each.requires_grad]
        for each in moving:
            each.requires_grad_(False)
        try:
            yield MaskSteps(model, ids_PT, prompt_tokens, dense, features_PF, settings, begun)
        finally:
            for each in moving:
                each.requires_grad_(True)

    @property
    def done(self) -> int:
        """Steps that were done."""
        return len(self.losses)

    def step(self) -> None:
        """One batch.

        Raises:
            CalibrationError: its loss is NaN or infinite.
        """
        at = self.done
        rows = self._rows(at)
        loss = self._loss(rows, at)
        found = float(loss.detach())
        if not math.isfinite(found):
            raise CalibrationError(
                f"step {at + 1}: the loss is {found}; are the weights of both models finite, "
                "and the learning rates small?"
            )
        names, tensors = zip(*self.parameters.items(), strict=True)
        slopes = torch.autograd.grad(loss, tensors)
        for group, name, tensor, slope in zip(
            self.optimiser.param_groups, names, tensors, slopes, strict=True
        ):
            tensor.grad, group["lr"] = slope, self._rate(name) * self.settings.rate(at)
        self.optimiser.step()
        self.losses.append(found)

    def masks(self) -> TrainedMasks:
        """What was found so far."""
        found = {name: tensor.detach().cpu().clone() for name, tensor in self.parameters.items()}
        return TrainedMasks(self.begun.kind, self.begun.routed, found, tuple(self.losses))

    def state(self) -> TrainingState:
        """All that later steps depend on."""
        held = self.optimiser.state
        means, squares = (
            {name: held[tensor][part] for name, tensor in self.parameters.items()}
            for part in ("exp_avg", "exp_avg_sq")
        )
        return TrainingState(self.parameters, means, squares, tuple(self.losses))

    def restore(self, state: TrainingState) -> None:
        """Go on from there."""
        self.losses = list(state.losses)
        for name, tensor in self.parameters.items():
            with torch.no_grad():
                tensor.copy_(state.parameters[name])
            self.optimiser.state[tensor] = {
                "step": torch.tensor(float(self.done)),
                "exp_avg": state.means[name].to(self.device),
                "exp_avg_sq": state.squares[name].to(self.device),
            }

    def _rate(self, name: str) -> float:
        return self.settings.bias_rate if name == "bias" else self.settings.map_rate

    def _rows(self, step: int) -> Tensor:
        """The windows of a step."""
        mixed = sha256(f"{self.settings.seed} {step}".encode()).digest()
        random = torch.Generator().manual_seed(int.from_bytes(mixed[:7], "little"))
        return torch.randperm(len(self.ids_PT), generator=random)[: self.settings.batch]

    def _loss(self, rows: Tensor, step: int) -> Tensor:
        features_BF = None if self.features_PF is None else self.features_PF[rows]
        score_BK = score_blocks(self.begun.kind, self.parameters, features_BF)
        scores, width = by_module(score_BK, self.begun.routed), self.settings.width(step)
        layers = pools(self.model)
        weights = {
            name: soft_masks(scores[name], each, width)[:, None].to(layers[name].down)
            for name, each in self.begun.routed.items()
        }
        layer_weight = self.settings.layers(step)
        states: tuple[Tensor, ...] = ()
        if layer_weight:
            known_BTV, states = self.known.with_layers(rows)
        else:
            known_BTV = self.known.of(rows)
        with weighed(self.model, weights):
            logits, own = outputs_of(self.model, self.ids_PT[rows], hidden=bool(states))
        found_BTV = behind(logits, self.prompt_tokens)
        loss = divergences(known_BTV.to(found_BTV), found_BTV).mean()
        if states:
            loss = loss + layer_weight * self._layer_error(states, own)
        return loss

    def _layer_error(self, known: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
        """Mean over decoder layers of the relative squared error behind the prompt."""
        part = slice(self.prompt_tokens - 1, -1)
        errors = []
        for known_BTF, own_BTF in zip(known, own, strict=True):
            there = known_BTF[:, part].to(own_BTF)
            errors.append((own_BTF[:, part] - there).square().sum() / there.square().sum())
        return torch.stack(errors).mean()
