"""The kind of text of a prompt: linear discriminants on its mean embedding, and a gate.

Prompts are centred, turned into the directions in which prompts differ most, and scaled so that the
spread inside a kind is one in each of them. The nearest mean is then the linear discriminant of
Fisher 1936. A prompt that is farther from it, or from all directions, than nearly all prompts that
were held back while the means were made belongs to no kind (the Mahalanobis gate of Lee et al.
2018): a wrong basis costs far more than a right one brings.
"""

# P prompts, F features, D directions, C kinds, L lengths

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.core.routed import Routed, own_blocks
from gacfx.core.router_shape import RouterShape
from gacfx.errors import CalibrationError
from gacfx.modules.prompt_router import Projection, PromptRouter
from gacfx.routing.prompts import Prompts

DIRECTIONS = 32
"""Most numbers that are kept of a prompt."""
SHRINKAGE = 0.1
"""Of the covariance inside kinds towards its mean variance, as there are few prompts."""
INSIDE = 0.98
"""Share of held-back prompts of a kind that the gate lets through."""
FOLDS = 4
SURE = 0.8
"""Least probability of a kind: a wrong basis costs more than a right one brings
(``python -m benchmarks.parse.unseen --each``)."""
SHARPNESS = tuple(0.5 * 0.8**step for step in range(30))
"""That are tried: 1/2 is that of normal distributions; less says that distances mean less."""
LEAST_SPREAD = 1e-6
"""Of the largest one, or of all prompts: less is rounding in float32."""
ROUNDING = 1e-9
"""Of the squared norm of a prompt in float32."""


@dataclass(frozen=True, eq=False)
class Classes:
    """What tells kinds of text apart."""

    projection: Projection
    means_CD: Tensor
    lengths: Tensor
    """[L]: tokens of a prompt, the most first."""
    limits: Tensor
    """[L, C + 1]: largest squared distance from each mean, and from all directions."""
    gate: Tensor
    """[L, 2]: how fast probabilities fall with the squared distance, and the least one."""


def fit_classes(
    prompts: Prompts, *, directions: int = DIRECTIONS, inside: float = INSIDE
) -> Classes:
    """The classes of some prompts whose kind is known.

    Means and directions are those of whole prompts. How far a prompt may be from its kind is found
    on held-back prompts of each length: the mean of few tokens is farther from it.

    Args:
        prompts: at least 4 of each kind.
        directions: most numbers that are kept of a prompt.
        inside: share of the prompts of a kind that the gate shall let through.

    Raises:
        CalibrationError: too few prompts of a kind, or NaN.
    """
    for at, found in enumerate(prompts.whole):
        if len(found) < FOLDS or not bool(found.isfinite().all()):
            raise CalibrationError(
                f"kind {at + 1}: {len(found)} prompts, of which {FOLDS} with finite embeddings are "
                "needed"
            )
    # As many directions in each fold as at the end: in more of them all distances are larger.
    directions = min(directions, sum(len(_without(found, 0)) for found in prompts.whole) - 1)
    folds = [
        _means([_without(found, fold) for found in prompts.whole], directions)
        for fold in range(FOLDS)
    ]
    projection, means_CD = _means(prompts.whole, directions)
    # Where the directions are all there are, nothing but rounding lies outside of them.
    centred_PF = torch.cat([*prompts.whole]).double() - projection.centre_F
    rounding = float(ROUNDING * centred_PF.square().sum(1).mean())
    rows = [_limits(folds, kinds, inside, rounding) for kinds in prompts.by_length.values()]
    return Classes(
        Projection(
            projection.centre_F.float(), projection.basis_FD.float(), projection.scale_DD.float()
        ),
        means_CD.float(),
        torch.tensor([*prompts.by_length], dtype=torch.float32),
        torch.stack([limits for limits, _ in rows]).float(),
        torch.tensor([(sharpness, SURE) for _, sharpness in rows]),
    )


def _limits(
    folds: Sequence[tuple[Projection, Tensor]],
    kinds: Sequence[Tensor],
    inside: float,
    rounding: float,
) -> tuple[Tensor, float]:
    """(largest squared distance from each mean and from all directions [C + 1], sharpness) of
    prompts of one length, each by the means that were made without it."""
    nearest: list[list[Tensor]] = [[] for _ in kinds]
    away, squared, of = list[Tensor](), list[Tensor](), list[int]()
    for fold, (projection, means_CD) in enumerate(folds):
        for at, found in enumerate(kinds):
            numbers_PD, away_P = projection(found[fold::FOLDS].double())
            squared_PC = torch.cdist(numbers_PD, means_CD).square()
            nearest[at].append(squared_PC[:, at])
            away.append(away_P)
            squared.append(squared_PC)
            of += [at] * len(squared_PC)
    limits = [torch.cat(found).quantile(inside) for found in nearest]
    limits.append(torch.cat(away).quantile(inside).clamp_min(rounding))
    return torch.stack(limits), _sharpness(torch.cat(squared), torch.tensor(of))


def class_router(
    prompts: Prompts,
    routed: Mapping[str, Routed],
    patterns: Sequence[Mapping[str, Tensor]],
) -> PromptRouter:
    """A router that tells kinds of text apart, each of which has its pattern.

    Args:
        prompts: of each kind.
        routed: module -> decision.
        patterns: of each kind, module -> the blocks that it picks, rising, int [picks].
    """
    found = fit_classes(prompts)
    features, directions = found.projection.basis_FD.shape
    shape = RouterShape("classes", features, directions, len(patterns), len(found.lengths))
    router = PromptRouter(shape, routed)
    router.set_floats_(
        centre=found.projection.centre_F,
        basis=found.projection.basis_FD,
        scale=found.projection.scale_DD,
        means=found.means_CD,
        lengths=found.lengths,
        limits=found.limits,
        gate=found.gate,
    )
    router.set_patterns_(patterns)
    return router


def own_patterns(routed: Mapping[str, Routed], kinds: int) -> list[dict[str, Tensor]]:
    """The pattern of each kind of text in pools with own directions.

    Args:
        routed: module -> decision, of :func:`gacfx.routing.bases.pool_of`.
        kinds: of text.
    """
    return [
        {name: torch.tensor(own_blocks(each, kinds, at)) for name, each in routed.items()}
        for at in range(1, kinds + 1)
    ]


def principal(prompts_PF: Tensor, directions: int) -> Projection:
    """The directions in which prompts differ most, each scaled to variance one.

    One at least, and none in which they differ by rounding only; where they do not differ at all,
    its scale is 0.

    Args:
        prompts_PF: at least one.
        directions: the most.
    """
    prompts_PF = prompts_PF.double()
    centre_F = prompts_PF.mean(0)
    found = torch.linalg.svd(prompts_PF - centre_F, full_matrices=False)
    differ = int((LEAST_SPREAD * found.S[0] < found.S).sum())
    count = max(1, min(directions, len(prompts_PF) - 1, differ))
    basis_FD = found.Vh[:count].T.contiguous()
    spread_D = found.S[:count] / max(len(prompts_PF) - 1, 1) ** 0.5
    seen = float(found.S[0]) > LEAST_SPREAD * float(prompts_PF.norm())
    scale_D = spread_D.reciprocal() if seen else torch.zeros_like(spread_D)
    return Projection(centre_F, basis_FD, scale_D.diag())


def _sharpness(squared_PC: Tensor, kind_P: Tensor) -> float:
    """The one under which held-back prompts are most likely of their own kind."""
    losses = {
        sharpness: float(torch.nn.functional.cross_entropy(-sharpness * squared_PC, kind_P))
        for sharpness in SHARPNESS
    }
    return min(losses, key=lambda each: losses[each])


def _without(found: Tensor, fold: int) -> Tensor:
    keep = torch.arange(len(found)) % FOLDS != fold
    return found[keep]


def _means(prompts: Sequence[Tensor], directions: int) -> tuple[Projection, Tensor]:
    """(projection with identity covariance inside kinds, means [C, D]), float64."""
    all_PF = torch.cat([*prompts]).double()
    plain = principal(all_PF, directions)
    numbers = [(found.double() - plain.centre_F) @ plain.basis_FD for found in prompts]
    means_CD = torch.stack([found.mean(0) for found in numbers])
    inside_PD = torch.cat([x - m for x, m in zip(numbers, means_CD, strict=True)])
    within_DD = inside_PD.T @ inside_PD / max(len(inside_PD) - len(prompts), 1)
    mean = within_DD.diagonal().mean()
    within_DD = (1 - SHRINKAGE) * within_DD + SHRINKAGE * mean * torch.eye(len(within_DD)).double()
    values_D, vectors_DD = torch.linalg.eigh(within_DD)
    scale_DD = vectors_DD * values_D.clamp_min(1e-12).rsqrt()
    return Projection(plain.centre_F, plain.basis_FD, scale_DD), means_CD @ scale_DD
