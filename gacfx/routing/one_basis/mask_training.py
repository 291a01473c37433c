"""Masks trained against the dense model, whose weights and those of the pools stay as they are.

    loss = KL(dense || model) on the tokens behind the prompt
           + layer_error x relative squared error of hidden states, in the first third of the steps

While they are trained, masks are soft, of a width that shrinks from step to step. With the
straight-through trick (hard masks forward, the slope of soft ones backward) a block that does not
run is never seen.

Most of what a router seems to gain over a static prefix is that one mask is trained at all, so the
trained static mask is what the others are measured against, and what they should start from.
"""

# P prompts, T tokens, F features

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gacfx.core.routed import Routed
from gacfx.errors import PlanError, UnsupportedModel
from gacfx.modules.routing_hooks import pools
from gacfx.progress import Progress
from gacfx.routing.against_dense import Dense, check_windows, kl_to_dense
from gacfx.routing.one_basis.mask_checkpoint import digest_items, digest_of, load_state, save_state
from gacfx.routing.one_basis.mask_steps import MaskSteps, MaskTraining
from gacfx.routing.one_basis.masks import (
    Kind,
    TrainedMasks,
    check_features,
    first_parameters,
    open_blocks,
)
from gacfx.routing.one_basis.oracle import measure_energies

WHAT = "train masks"
"""What a progress callback is told."""
EVERY = 20
"""Steps between two checkpoints."""
RATES = (0.0, 0.3, 1.0, 3.0)
"""Multiples of the learning rates that are tried; 0: the masks to begin with."""


@dataclass(frozen=True, eq=False)
class Tried:
    """Masks of the learning rate that did best on held-back windows."""

    masks: TrainedMasks
    held_nats: dict[float, float]
    """Multiple of the learning rates -> KL(dense || model) of the hard masks, nats per token."""


def train_masks(
    model: nn.Module,
    ids_PT: Tensor,
    prompt_tokens: int,
    dense: Dense,
    features_PF: Tensor | None,
    settings: MaskTraining,
    *,
    start: TrainedMasks | None = None,
    energies: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    every: int = EVERY,
    progress: Progress = lambda *_: None,
) -> TrainedMasks:
    """The masks of the last step.

    The windows of a step depend on the seed and the step alone. On the CPU a training that was
    stopped and is started again with its checkpoint ends with the same bits.

    Args:
        model: with pools, in evaluation mode; nothing of it is changed.
        ids_PT: windows of one length, prompts in front, int64.
        prompt_tokens: of each prompt.
        dense: what is right.
        features_PF: of each prompt; None for static masks.
        settings: of the training.
        start: masks to go on from: their bias, and their maps where those are of the same kind and
            sizes. Static ones are a good start of all others.
        energies: module -> energy of each piece [R] that scores begin with, such as mean nats of
            :func:`gacfx.routing.one_basis.oracle.measure_energies`; None for output energies on
            the windows.
        checkpoint: file of the state; None to keep none. It stays when all is done.
        every: steps between two checkpoints.
        progress: called with (what, steps done, steps in all).

    Returns:
        Masks that say why in :attr:`TrainedMasks.reason` where no pool leaves a choice.

    Raises:
        CalibrationError: windows without text behind the prompt, or a loss that is not finite.
        CheckpointError: the checkpoint is harmed, or of other work.
        PlanError: features or a start that do not fit.
        UnsupportedModel: no pools, or training mode.
    """
    begun = untrained_masks(
        model, ids_PT, prompt_tokens, features_PF, settings, start=start, energies=energies
    )
    if begun.reason:
        return begun
    key, state = {}, None
    if checkpoint is not None:
        key = _key(model, ids_PT, prompt_tokens, dense, features_PF, settings, begun)
        state = load_state(checkpoint, key)
    with MaskSteps.of(model, ids_PT, prompt_tokens, dense, features_PF, settings, begun) as steps:
        if state is not None:
            steps.restore(state)
        while steps.done < settings.steps:
            steps.step()
            last = steps.done == settings.steps
            if checkpoint is not None and (last or steps.done % every == 0):
                save_state(checkpoint, key, steps.state())
            progress(WHAT, steps.done, settings.steps)
        return steps.masks()


def untrained_masks(
    model: nn.Module,
    ids_PT: Tensor,
    prompt_tokens: int,
    features_PF: Tensor | None,
    settings: MaskTraining,
    *,
    start: TrainedMasks | None = None,
    energies: Mapping[str, Tensor] | None = None,
) -> TrainedMasks:
    """The masks that :func:`train_masks` begins with; arguments and errors are those of it."""
    check_windows(ids_PT, prompt_tokens)
    if model.training:
        raise UnsupportedModel("the model is in training mode; call model.eval() first")
    routed: dict[str, Routed] = {n: each.routed for n, each in sorted(pools(model).items())}
    if not routed:
        raise UnsupportedModel(f"{type(model).__name__} has no pools of routed ranks")
    if settings.kind == "static" and features_PF is not None:
        raise PlanError("static masks look at no features; give None, or another kind")
    check_features(settings.kind, None, features_PF)
    if features_PF is not None and len(features_PF) != len(ids_PT):
        raise PlanError(f"features of {len(features_PF)} prompts for {len(ids_PT)} windows")
    if start is not None or not any(open_blocks(each) for each in routed.values()):
        # Scores are those of the start, or there are none.
        energies = {name: torch.ones(each.pool) for name, each in routed.items()}
    elif energies is None:
        measured = measure_energies(model, ids_PT, batch=settings.batch)
        energies = {name: found.output_PR.mean(0) for name, found in measured.items()}
    features = 0 if features_PF is None else features_PF.shape[1]
    made = first_parameters(
        settings.kind, energies, routed, features, settings.hidden, settings.seed
    )
    if start is not None:
        made |= _taken(start, settings.kind, routed, made)
    reason = "" if len(made["bias"]) else "nothing to choose: every pool runs the same blocks"
    return TrainedMasks(settings.kind, routed, made, reason=reason)


def best_learning_rate(
    model: nn.Module,
    windows: tuple[Tensor, Tensor],
    prompt_tokens: int,
    dense: Dense,
    features: tuple[Tensor | None, Tensor | None],
    settings: MaskTraining,
    *,
    rates: tuple[float, ...] = RATES,
    start: TrainedMasks | None = None,
    energies: Mapping[str, Tensor] | None = None,
    checkpoints: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Tried:
    """The masks of the learning rate that does best on held-back windows, once they are hard.

    Args:
        model: as in :func:`train_masks`, and so on.
        windows: to train on, and held back: token ids [P, T] each.
        prompt_tokens: of each prompt.
        dense: what is right.
        features: of the prompts of both.
        settings: of the training; its learning rates are those of the multiple 1.
        rates: multiples that are tried; with 0 among them nothing worse than the start is kept.
        start: as in :func:`train_masks`.
        energies: as in :func:`train_masks`.
        checkpoints: folder of the state of each; None to keep none.
        progress: called with (what, steps done, steps in all).

    Raises:
        CalibrationError, CheckpointError, PlanError, UnsupportedModel: as :func:`train_masks`.
        PlanError: no rates.
    """
    if not rates:
        raise PlanError("no learning rate to try")
    if start is None:  # the same start for all rates
        begun = untrained_masks(
            model, windows[0], prompt_tokens, features[0], settings, energies=energies
        )
        start = None if begun.reason else begun
    tried: dict[float, tuple[float, TrainedMasks]] = {}
    for rate in rates:
        scaled = replace(
            settings, bias_rate=settings.bias_rate * rate, map_rate=settings.map_rate * rate
        )
        train = untrained_masks
        if rate:
            file = None if checkpoints is None else checkpoints / f"masks-{rate:g}.safetensors"
            train = partial(train_masks, dense=dense, checkpoint=file, progress=progress)
        masks = train(
            model,
            windows[0],
            prompt_tokens,
            features_PF=features[0],
            settings=scaled,
            start=start,
            energies=energies,
        )
        found = kl_to_dense(model, windows[1], prompt_tokens, dense, masks.pick(features[1]))
        tried[rate] = float(found.mean()), masks
    best = min(tried.values(), key=lambda pair: pair[0])[1]
    return Tried(best, {rate: nats for rate, (nats, _) in tried.items()})


def _taken(
    start: TrainedMasks, kind: Kind, routed: Mapping[str, Routed], made: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What masks to begin with take from others."""
    if start.routed != routed:
        raise PlanError("the masks to start from are for other pools than the model has")
    shapes = {name: tensor.shape for name, tensor in start.parameters.items()}
    same = start.kind == kind and shapes == {name: tensor.shape for name, tensor in made.items()}
    names = tuple(made) if same else ("bias",)
    return {name: start.parameters[name].clone() for name in names}


def _key(
    model: nn.Module,
    ids_PT: Tensor,
    prompt_tokens: int,
    dense: Dense,
    features_PF: Tensor | None,
    settings: MaskTraining,
    begun: TrainedMasks,
) -> dict[str, str]:
    """What a training is of, for its checkpoint. A dense function is known by its model alone."""
    known = digest_items(dense.named_parameters()) if isinstance(dense, nn.Module) else "a function"
    return {
        **{f"setting {name}": str(value) for name, value in asdict(settings).items()},
        "model": digest_items(model.named_parameters()),
        "pools": str(begun.routed),
        "dense model": known,
        "text": digest_of({"ids": ids_PT}),
        "prompt tokens": str(prompt_tokens),
        "features": "none" if features_PF is None else digest_of({"features": features_PF}),
        "start": digest_of(begun.parameters),
    }
