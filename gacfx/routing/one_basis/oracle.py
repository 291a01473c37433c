"""Picks by energy: no training, and a bound on what a choice among pieces of one basis can gain.

    z = down x      output   ||up_i||^2 E z_i^2          what leaves the layer
                    nats     1/2 up_i^T G up_i E z_i^2   what it costs the loss, to second order

The mean is over the tokens of one prompt. An oracle that looks at the tokens behind the prompt
bounds any choice by energy in front of them (benchmarks.parse.masks measures it).
"""

# P prompts, T tokens, R pieces of a pool, N inputs, M outputs, B blocks

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gacfx.core.routed import Routed
from gacfx.core.statistics import Moments
from gacfx.errors import CalibrationError, PlanError, UnsupportedModel
from gacfx.modules.prompt_router import Pick, top_blocks
from gacfx.modules.rank_experts import RankExpertLinear
from gacfx.modules.routing_hooks import picked, pools
from gacfx.routing.against_dense import BATCH, outputs_of, weighed
from gacfx.routing.pools import Pool

Score = Literal["output", "nats"]
SCORES: tuple[Score, ...] = get_args(Score)


@dataclass(frozen=True, eq=False)
class Energies:
    """What the pieces of one pool do in each prompt."""

    output_PR: Tensor
    """||up_i||^2 E z_i^2, float64, on the CPU."""
    nats_PR: Tensor | None = None
    """1/2 up_i^T G up_i E z_i^2, nats per token; None where G is not known."""

    def scores(self, score: Score) -> Tensor:
        """[P, R].

        Raises:
            PlanError: no such score, or nats without a weight of each piece.
        """
        if score not in SCORES:
            raise PlanError(f"score {score!r} is none of {SCORES}")
        if score == "output":
            return self.output_PR
        if self.nats_PR is None:
            raise PlanError("nats need a weight of each piece: measure_energies(..., weights=...)")
        return self.nats_PR


def pool_weights(pool: Pool, count: int) -> Tensor:
    """1/2 up_i^T G up_i of the first pieces as they are stored, float64 [count].

    Args:
        pool: of the weight, whose metric is G.
        count: pieces that a layer stores.
    """
    stored_KM = pool.pieces()[1][:count]
    ratio_K: Tensor = stored_KM.norm(dim=1) / pool.up_MS[:, :count].norm(dim=0).clamp_min(1e-300)
    return ratio_K.square() / 2


def piece_weights(up_RM: Tensor, moments: Moments) -> Tensor:
    """1/2 up_i^T G up_i, float64 [R].

    Args:
        up_RM: second factor, ranks first, any floating dtype.
        moments: of its weight, with the moment of its output gradients.

    Raises:
        CalibrationError: that moment was not gathered, or is of another number of outputs.
    """
    gradient_MM, up_RM = moments.grad_moment, up_RM.detach().double().cpu()
    if up_RM.shape[1] != len(gradient_MM):
        raise CalibrationError(
            f"{up_RM.shape[1]} outputs, and the gradient moment has {len(gradient_MM)}; these are "
            "statistics of another weight"
        )
    return (up_RM @ gradient_MM.double().cpu() * up_RM).sum(1) / 2


@torch.no_grad()
def measure_energies(
    model: nn.Module,
    prompts_PT: Tensor,
    mask_PT: Tensor | None = None,
    *,
    counted_PT: Tensor | None = None,
    weights: Mapping[str, Tensor] | None = None,
    whole: bool = True,
    batch: int = BATCH,
) -> dict[str, Energies]:
    """Energy of every piece of every pool in each prompt.

    Args:
        model: with pools, in evaluation mode.
        prompts_PT: token ids.
        mask_PT: 1 for tokens, 0 for padding behind them; None where all are tokens.
        counted_PT: tokens whose energy counts, none of them padding; None for all. Those behind a
            prompt make an oracle in hindsight.
        weights: module -> 1/2 up_i^T G up_i [R], of :func:`pool_weights` or :func:`piece_weights`;
            None for energies without nats.
        whole: the layers compute with all pieces while energies are taken; else with the prefix.
        batch: prompts that are read together.

    Raises:
        CalibrationError: a prompt without a token that counts, or weights of other pools.
        UnsupportedModel: the model has no pools, or calls them with other than whole prompts.
    """
    layers = pools(model)
    if not layers:
        raise UnsupportedModel(f"{type(model).__name__} has no pools of routed ranks")
    _check_weights(layers, weights)
    real_PT = torch.ones_like(prompts_PT) if mask_PT is None else mask_PT
    counted_PT = real_PT if counted_PT is None else counted_PT * real_PT
    if not bool(counted_PT.bool().any(1).all()):
        at = int((~counted_PT.bool().any(1)).nonzero()[0])
        raise CalibrationError(f"prompt {at + 1} has no token that counts")
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    for start in range(0, len(prompts_PT), batch):
        rows = slice(start, start + batch)
        with (
            weighed(model) if whole else picked(model, None),
            _squares(layers, counted_PT[rows].bool()) as found,
        ):
            outputs_of(model, prompts_PT[rows], mask_PT=None if mask_PT is None else mask_PT[rows])
        for name in layers:
            if name not in found:
                raise UnsupportedModel(f"{name}: is not called, so nothing is known of its pieces")
            parts[name].append(found[name])
    return {name: _energies(layers[name], torch.cat(parts[name]), weights, name) for name in layers}


def oracle_pick(
    energies: Mapping[str, Energies],
    decisions: Mapping[str, Routed],
    score: Score = "nats",
    *,
    shrinkage: float = 0.0,
    corpus: Mapping[str, Energies] | None = None,
) -> Pick:
    """For each prompt the blocks of most energy in it.

    Args:
        energies: of the prompts.
        decisions: module -> pool.
        score: which energy.
        shrinkage: share of the mean of the corpus that is mixed in, 0 .. 1: one prompt is short,
            and its energies are noisy. At 1 all prompts pick alike.
        corpus: energies whose mean that is; None for those of the prompts themselves.

    Raises:
        PlanError: a share outside 0 .. 1, no energies of a pool, or of another number of pieces.
    """
    if not 0 <= shrinkage <= 1:
        raise PlanError(f"shrinkage {shrinkage} is outside 0 .. 1")
    blocks = {}
    for name, decision in decisions.items():
        own_PR = _of(energies, name, decision).scores(score)
        mean_R = _of(corpus or energies, name, decision).scores(score).mean(0)
        mixed_PR = torch.lerp(own_PR, mean_R.expand_as(own_PR), shrinkage)
        blocks[name] = top_blocks(block_sums(mixed_PR, decision), decision)
    return Pick(blocks)


def domain_pick(
    energies: Mapping[str, Mapping[str, Energies]],
    decisions: Mapping[str, Routed],
    score: Score = "nats",
) -> Pick:
    """One row of blocks for each named domain, in their order: classes 1, 2, ...

    Args:
        energies: domain -> energies of its prompts, whose mean decides.
        decisions: module -> pool.
        score: which energy.

    Raises:
        PlanError: as :func:`oracle_pick`, or no domain.
    """
    if not energies:
        raise PlanError("no domain is named")
    rows = [oracle_pick(found, decisions, score, shrinkage=1.0) for found in energies.values()]
    blocks = {name: torch.cat([row.blocks[name][:1] for row in rows]) for name in decisions}
    return Pick(blocks, tuple(range(1, len(rows) + 1)))


def block_sums(energy_PR: Tensor, decision: Routed) -> Tensor:
    """[P, B]: energy of each block, the sum of its pieces."""
    blocked_PBR: Tensor = energy_PR.unflatten(-1, (decision.blocks, decision.block))
    return blocked_PBR.sum(-1)


def _check_weights(
    layers: Mapping[str, RankExpertLinear], weights: Mapping[str, Tensor] | None
) -> None:
    if weights is None:
        return
    for name, layer in layers.items():
        shape = tuple(weights[name].shape) if name in weights else None
        if shape != (layer.routed.pool,):
            raise CalibrationError(f"{name}: weights {shape} for {layer.routed.pool} pieces")


def _of(energies: Mapping[str, Energies], name: str, decision: Routed) -> Energies:
    if name not in energies:
        raise PlanError(f"{name}: no energies; measure them with the model that has its pool")
    found = energies[name].output_PR.shape[1]
    if found != decision.pool:
        raise PlanError(f"{name}: energies of {found} pieces for {decision}")
    return energies[name]


@contextmanager
def _squares(
    layers: Mapping[str, RankExpertLinear], counted_PT: Tensor
) -> Iterator[dict[str, Tensor]]:
    """Module -> mean of z^2 over the tokens that count, float64 [P, R], of a call inside."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def watch(name: str, layer: RankExpertLinear) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            if tuple(x.shape[:-1]) != tuple(counted_PT.shape):
                raise UnsupportedModel(
                    f"{name}: is called with {tuple(x.shape)}, not with whole prompts "
                    f"{tuple(counted_PT.shape)}; its energies cannot be told apart by prompt"
                )
            weights_PT = counted_PT.to(x.device).double()
            square_PTR = linear(x, layer.down).double().square()
            sum_PR = torch.einsum("pt,ptr->pr", weights_PT, square_PTR).cpu()
            sums[name] = sums.get(name, 0) + sum_PR
            counts[name] = counts.get(name, 0) + weights_PT.sum(1, keepdim=True).cpu()

        return hook

    found: dict[str, Tensor] = {}
    handles = [layer.register_forward_pre_hook(watch(n, layer)) for n, layer in layers.items()]
    try:
        yield found
        found.update({name: sums[name] / counts[name] for name in sums})
    finally:
        for handle in handles:
            handle.remove()


def _energies(
    layer: RankExpertLinear, square_PR: Tensor, weights: Mapping[str, Tensor] | None, name: str
) -> Energies:
    output_PR = square_PR * layer.up.double().square().sum(1).cpu()
    nats_PR = None if weights is None else square_PR * weights[name].double().cpu()
    return Energies(output_PR, nats_PR)
