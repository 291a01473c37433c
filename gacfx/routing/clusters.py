"""Kinds of text that nobody named: k-means on the centred embeddings of prompts.

Source: Lloyd 1982, begun as k-means++ does (Arthur and Vassilvitskii 2007).
"""

# P prompts, F features, D directions, C clusters

import torch
from torch import Tensor

from gacfx.errors import CalibrationError
from gacfx.routing.classes import DIRECTIONS, principal

ROUNDS = 100
STARTS = 8
"""Beginnings, of which the tightest clusters are taken."""


def cluster_prompts(means_PF: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    """Cluster of each prompt, int64 [P], by its mean embedding.

    Args:
        means_PF: float32 mean embeddings.
        clusters: how many.
        seed: of the beginnings.

    Raises:
        CalibrationError: fewer prompts than clusters, or NaN.
    """
    if not 1 <= clusters <= len(means_PF) or not bool(means_PF.isfinite().all()):
        raise CalibrationError(f"{clusters} clusters of {len(means_PF)} prompts")
    projection = principal(means_PF, DIRECTIONS)
    # Plain directions: scaled ones would count noise as much as what tells texts apart.
    points_PD = (means_PF.double() - projection.centre_F) @ projection.basis_FD
    generator = torch.Generator().manual_seed(seed)
    found = [_lloyd(points_PD, clusters, generator) for _ in range(STARTS)]
    return min(found, key=lambda each: each[1])[0]


def _lloyd(points_PD: Tensor, clusters: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """(cluster of each point, sum of squared distances)."""
    means_CD = points_PD[torch.randint(len(points_PD), (1,), generator=generator)]
    while len(means_CD) < clusters:
        apart_P = torch.cdist(points_PD, means_CD).square().min(1).values.clamp_min(1e-300)
        next_one = torch.multinomial(apart_P, 1, generator=generator)
        means_CD = torch.cat([means_CD, points_PD[next_one]])
    cluster_P = torch.zeros(len(points_PD), dtype=torch.long)
    for _ in range(ROUNDS):
        squared_PC = torch.cdist(points_PD, means_CD).square()
        new_P = squared_PC.argmin(1)
        if torch.equal(new_P, cluster_P):
            break
        cluster_P = new_P
        for at in range(clusters):
            if bool((cluster_P == at).any()):
                means_CD[at] = points_PD[cluster_P == at].mean(0)
    return cluster_P, float(torch.cdist(points_PD, means_CD).square().min(1).values.sum())
