"""Masks over the blocks of pools: a score for each block, soft while they are trained, then hard.

    score = log-energy bias + map(features of the prompt)
    soft  = sigmoid((score - edge) / width),  edge: the mean of the two scores around the cut
            (its slope keeps the sum of the weights, so that blocks compete)
    hard  = the best blocks, as many as run

    static     no features: one mask for all prompts, the baseline of everything else
    domain     one-hot features: one mask for each kind of text
    linear     any features of a prompt
    two-layer  the same through a hidden tanh layer, for comparison

Blocks that always run have no score. As the width goes to 0, soft masks become hard ones.
"""

# P prompts, F features, H hidden numbers, K open blocks of all pools, B blocks and R ranks of one

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gacfx.core.routed import Routed
from gacfx.core.router_shape import RouterShape
from gacfx.errors import PlanError
from gacfx.modules.prompt_router import Pick, Projection, PromptRouter, top_blocks

Kind = Literal["static", "domain", "linear", "two-layer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LEAST = 1e-30
"""Energy of a block; one that no text uses has a low score, and no infinite one."""


@dataclass(frozen=True, eq=False)
class TrainedMasks:
    """Scores of the blocks of all pools as a function of a prompt's features."""

    kind: Kind
    routed: dict[str, Routed]
    """Module -> pool, sorted by name."""
    parameters: dict[str, Tensor]
    """float32 on the CPU: ``bias`` [K], and unless static ``map`` [K, F], or [K, H] behind
    ``hidden`` [H, F] and ``offset`` [H]. Open blocks stand in the order of the pools."""
    losses: tuple[float, ...] = ()
    """Of the batch of each step, nats per token."""
    reason: str = ""
    """Why nothing was trained; empty where something was."""

    @property
    def features(self) -> int | None:
        """Numbers of a prompt that it looks at; None for static masks."""
        if self.kind == "static":
            return None
        return self.parameters["hidden" if self.kind == "two-layer" else "map"].shape[1]

    def scores(self, features_PF: Tensor | None) -> dict[str, Tensor]:
        """Module -> score of each block, float32 [P, B]; zero for those that always run.

        Args:
            features_PF: of prompts. Static masks only count them; None gives them one row.

        Raises:
            PlanError: other features than these masks look at.
        """
        check_features(self.kind, self.features, features_PF)
        given = None if features_PF is None else features_PF.float().cpu()
        score_PK = score_blocks(self.kind, self.parameters, given)
        if given is not None:
            score_PK = score_PK.expand(len(given), -1)
        return by_module(score_PK, self.routed)

    def pick(self, features_PF: Tensor | None = None) -> Pick:
        """The best blocks for each prompt; one row for all where static masks get no features.

        Args:
            features_PF: of prompts.

        Raises:
            PlanError: other features than these masks look at.
        """
        scores = self.scores(features_PF)
        return Pick({name: top_blocks(scores[name], each) for name, each in self.routed.items()})

    def router(self, projection: Projection) -> PromptRouter:
        """A router that picks as these masks do, for prompts it sees itself.

        Args:
            projection: from the mean embedding of a prompt to the features.

        Raises:
            PlanError: the masks are no linear function of the features: domain masks are known by
                the kind of text, which a router of classes tells; or another number of features.
        """
        if self.kind not in ("static", "linear"):
            raise PlanError(
                f"{self.kind} masks are no scores that are linear in a projection; a router takes "
                "static and linear ones"
            )
        features, directions = projection.basis_FD.shape
        if self.features not in (None, directions):
            raise PlanError(f"masks of {self.features} features for {directions} directions")
        router = PromptRouter(RouterShape("scores", features, directions), self.routed)
        offsets = by_module(self.parameters["bias"][None], self.routed)
        weight_KD = self.parameters.get("map")
        if weight_KD is None:
            weight_KD = torch.zeros(len(self.parameters["bias"]), directions)
        weights = by_module(weight_KD.T, self.routed)
        router.set_floats_(
            centre=projection.centre_F,
            basis=projection.basis_FD,
            scale=projection.scale_DD,
            offset=torch.cat([offsets[name] for name in router.routed], 1)[0],
            weight=torch.cat([weights[name] for name in router.routed], 1).T,
        )
        return router


def open_blocks(decision: Routed) -> int:
    """Blocks of a pool that may run or not; 0 where there is nothing to choose."""
    wanted, offered = decision.picks - decision.fixed, decision.blocks - decision.fixed
    return offered if 0 < wanted < offered else 0


def soft_masks(score_PB: Tensor, decision: Routed, width: float) -> Tensor:
    """Weights of the ranks of a pool between 0 and 1, [P, R]; gradients go into the scores.

    Args:
        score_PB: of all blocks; those that always run have weight 1 whatever it is.
        decision: of the pool.
        width: of the edge; 0 for weights of 0 and 1, which no gradient goes through.
    """
    fixed, count = decision.fixed, decision.picks - decision.fixed
    open_PB = score_PB[:, fixed:]
    if width > 0 and open_blocks(decision):
        soft_PB = torch.sigmoid((open_PB - _edge(open_PB, count, width)) / width)
    else:
        best_PC = open_PB.topk(count, 1).indices
        soft_PB = torch.zeros_like(open_PB).scatter(1, best_PC, 1.0)
    mask_PB = torch.cat([torch.ones_like(score_PB[:, :fixed]), soft_PB], 1)
    return mask_PB.repeat_interleave(decision.block, 1)


def _edge(open_PB: Tensor, count: int, width: float) -> Tensor:
    """Mean of the two scores around the cut, [P, 1]; it moves as the sum of the weights asks.

    Its slope is that of the edge which keeps that sum as it is. Without one, all scores rise
    together, as more of each block is always better, and their order hardly changes.
    """
    with torch.no_grad():
        edge_P1 = open_PB.topk(count + 1, 1).values[:, -2:].mean(1, keepdim=True)
        soft_PB = torch.sigmoid((open_PB - edge_P1) / width)
        slope_PB = soft_PB * (1 - soft_PB)
        slope_PB = slope_PB / slope_PB.sum(1, keepdim=True).clamp_min(_LEAST)
    pull_P1 = (slope_PB * open_PB).sum(1, keepdim=True)
    return edge_P1 + pull_P1 - pull_P1.detach()


def first_parameters(
    kind: Kind,
    energies: Mapping[str, Tensor],
    routed: Mapping[str, Routed],
    features: int,
    hidden: int,
    seed: int,
) -> dict[str, Tensor]:
    """Scores to begin with: half the logarithm of the energy of each block, whatever the prompt.

    Args:
        kind: of the map.
        energies: module -> energy of each piece, [R], on average.
        routed: module -> pool, sorted by name.
        features: of a prompt; unused by static masks.
        hidden: numbers of the hidden layer of ``two-layer``.
        seed: of its weights.
    """
    rows = [torch.empty(0)]
    for name, decision in routed.items():
        if open_blocks(decision):
            energy_B = energies[name].double().cpu().view(decision.blocks, -1).sum(1)
            rows.append((energy_B[decision.fixed :].clamp_min(_LEAST).log() / 2).float())
    made = {"bias": torch.cat(rows)}
    count = len(made["bias"])
    if kind == "two-layer":
        random = torch.Generator().manual_seed(seed)
        made["hidden"] = torch.randn(hidden, features, generator=random) / features**0.5
        made["offset"] = torch.zeros(hidden)
    if kind != "static":
        made["map"] = torch.zeros(count, hidden if kind == "two-layer" else features)
    return made


def score_blocks(
    kind: Kind, parameters: Mapping[str, Tensor], features_PF: Tensor | None
) -> Tensor:
    """Scores of all open blocks, [P, K]; [1, K] for static masks.

    Args:
        kind: of the map.
        parameters: of :attr:`TrainedMasks.parameters`; gradients go into them.
        features_PF: of prompts, on their device.
    """
    bias_1K = parameters["bias"][None]
    if kind == "static" or features_PF is None:
        return bias_1K
    if kind == "two-layer":
        inner_PH = features_PF @ parameters["hidden"].T + parameters["offset"]
        return bias_1K + inner_PH.tanh() @ parameters["map"].T
    return bias_1K + features_PF @ parameters["map"].T


def by_module(score_PK: Tensor, routed: Mapping[str, Routed]) -> dict[str, Tensor]:
    """Module -> scores of all its blocks, [P, B]; zeros where nothing is open."""
    parts = score_PK.split([open_blocks(each) for each in routed.values()], 1)
    found = {}
    for (name, decision), open_PB in zip(routed.items(), parts, strict=True):
        closed = decision.blocks - open_PB.shape[1]
        found[name] = torch.cat([open_PB.new_zeros(len(open_PB), closed), open_PB], 1)
    return found


def check_features(kind: Kind, wanted: int | None, features_PF: Tensor | None) -> None:
    """Nothing when masks of a kind can look at these features.

    Raises:
        PlanError: they are missing, not [prompts, features], of another width, or not finite.
    """
    if kind == "static":
        return
    if features_PF is None:
        raise PlanError(f"{kind} masks look at the features of prompts; none are given")
    if features_PF.ndim != 2 or wanted not in (None, features_PF.shape[1]):
        wide = "features" if wanted is None else wanted
        raise PlanError(f"features {tuple(features_PF.shape)}; [prompts, {wide}] are needed")
    if not bool(features_PF.isfinite().all()):
        raise PlanError("features of prompts are NaN or infinite")
