"""Soft masks and their limit, picks of trained masks, and the router that picks as they do."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gacfx.core.routed import Routed
from gacfx.errors import PlanError
from gacfx.modules.prompt_router import Projection, top_blocks
from gacfx.routing.classes import principal
from gacfx.routing.one_basis.masks import (
    Kind,
    TrainedMasks,
    first_parameters,
    open_blocks,
    soft_masks,
)

ROUTED = {
    "a": Routed(12, 6, 2, 2),
    "b": Routed(8, 8, 4, 4),
    "c": Routed(5, 2, 0, 1),
    "d": Routed(9, 3, 3, 3),
}
"""Of b and d the same blocks run always."""
OPEN = 5 + 5


def random_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks_of(kind: Kind, features: int = 3, seed: int = 0) -> TrainedMasks:
    energies = {n: torch.rand(each.pool, generator=random_of(seed)) for n, each in ROUTED.items()}
    made = first_parameters(kind, energies, ROUTED, features, 4, seed)
    found = {n: torch.randn(t.shape, generator=random_of(seed + 1)) for n, t in made.items()}
    return TrainedMasks(kind, ROUTED, found)


@pytest.mark.parametrize("decision", ROUTED.values(), ids=str)
def test_a_narrow_edge_gives_the_best_blocks(decision: Routed) -> None:
    score_PB = torch.randn(4, decision.blocks, generator=random_of(1)).double()
    hard_PB = torch.zeros(4, decision.blocks).double()
    hard_PB.scatter_(1, top_blocks(score_PB, decision).long(), 1.0)
    hard_PR = hard_PB.repeat_interleave(decision.block, 1)
    for width in (0.0, 1e-9):
        torch.testing.assert_close(soft_masks(score_PB, decision, width), hard_PR)
    torch.testing.assert_close(soft_masks(score_PB, decision, 1e9), _flat(decision).expand(4, -1))


def _flat(decision: Routed) -> Tensor:
    """Where everything that is open has half a weight."""
    if not open_blocks(decision):
        return (torch.arange(decision.pool) < decision.active).double()
    return torch.where(torch.arange(decision.pool) < decision.shared, 1.0, 0.5).double()


def test_the_edge_lies_between_the_last_inside_and_the_first_outside() -> None:
    score_PB = torch.tensor([[-9.0, 4.0, 1.0, 3.0]])
    mask = soft_masks(score_PB, Routed(4, 3, 1, 1), 0.5)
    torch.testing.assert_close(mask, torch.tensor([[1.0, *_sigmoid(2 * (4 - 2), 2 * -1, 2 * 1)]]))


def _sigmoid(*found: float) -> list[float]:
    return torch.tensor(found).float().sigmoid().tolist()


def test_slopes_go_into_open_scores_and_make_them_compete() -> None:
    score_PB = torch.randn(2, 6, generator=random_of(2)).double().requires_grad_()
    worth_R = torch.randn(12, generator=random_of(3)).double()
    (soft_masks(score_PB, ROUTED["a"], 0.5) * worth_R).sum().backward()
    assert score_PB.grad is not None
    slope_PB = score_PB.grad[:, 1:]
    assert not score_PB.grad[:, 0].any() and bool((slope_PB.abs() > 1e-6).all())
    torch.testing.assert_close(slope_PB.sum(1), torch.zeros(2).double())
    best_P, worst_P = slope_PB.argmax(1), slope_PB.argmin(1)
    worth_B = worth_R.view(6, 2).sum(1)[1:]
    assert bool((worth_B[best_P] > worth_B[worst_P]).all())


def test_the_sum_of_the_weights_has_no_slope() -> None:
    score_PB = torch.randn(2, 12, generator=random_of(4)).double().requires_grad_()
    soft_masks(score_PB, Routed(12, 5, 0, 1), 0.5).sum().backward()
    torch.testing.assert_close(score_PB.grad, torch.zeros(2, 12).double())


def test_open_blocks_are_those_that_may_run_or_not() -> None:
    assert [open_blocks(each) for each in ROUTED.values()] == [5, 0, 5, 0]


def test_scores_begin_with_half_the_logarithm_of_the_energy() -> None:
    energies = {n: torch.rand(each.pool, generator=random_of(3)) for n, each in ROUTED.items()}
    energies["c"][2] = 0.0
    made = first_parameters("linear", energies, ROUTED, 3, 4, 0)
    assert made["map"].shape == (OPEN, 3) and not made["map"].any()
    sums = energies["a"].view(6, 2).sum(1)[1:]
    torch.testing.assert_close(made["bias"][:5], sums.sqrt().log())
    assert bool(made["bias"].isfinite().all()) and int(made["bias"].argmin()) == 5 + 2


@pytest.mark.parametrize("kind", get_args(Kind))
def test_picks_are_the_best_blocks_of_a_score_computed_by_hand(kind: Kind) -> None:
    masks = masks_of(kind)
    features_PF = torch.randn(6, 3, generator=random_of(4))
    p = masks.parameters
    score_PK = p["bias"].expand(6, -1)
    if kind == "two-layer":
        score_PK = score_PK + (features_PF @ p["hidden"].T + p["offset"]).tanh() @ p["map"].T
    elif kind != "static":
        score_PK = score_PK + features_PF @ p["map"].T
    pick = masks.pick(features_PF)
    best_P2 = score_PK[:, :5].topk(2, 1).indices.sort(1).values + 1
    assert pick.blocks["a"].tolist() == [[0, *row] for row in best_P2.tolist()]
    assert pick.blocks["c"].tolist() == score_PK[:, 5:].topk(2, 1).indices.sort(1).values.tolist()
    assert pick.blocks["b"].tolist() == [[0, 1]] * 6
    assert pick.blocks["d"].tolist() == [[0]] * 6
    assert (len({tuple(row) for row in pick.blocks["a"].tolist()}) == 1) == (kind == "static")


def test_static_masks_have_one_row_for_all() -> None:
    masks = masks_of("static")
    assert masks.features is None
    assert masks.pick().sequences == 1
    assert masks.pick(torch.ones(3, 7)).sequences == 3


@pytest.mark.parametrize("kind", ["static", "linear"])
def test_a_router_picks_as_its_masks_do(kind: Kind) -> None:
    means_PF = torch.randn(20, 6, generator=random_of(5))
    found = principal(means_PF, 3)
    projection = Projection(found.centre_F.float(), found.basis_FD.float(), found.scale_DD.float())
    masks = masks_of(kind)
    own = masks.pick(projection(means_PF)[0])
    router = masks.router(projection)
    picked = router.pick(means_PF)
    assert not router.problem()
    for name in ROUTED:
        assert torch.equal(picked.blocks[name], own.blocks[name])


@pytest.mark.parametrize("kind", ["domain", "two-layer"])
def test_other_masks_have_no_router_of_scores(kind: Kind) -> None:
    with pytest.raises(PlanError, match=f"{kind} masks are no scores"):
        masks_of(kind).router(Projection(torch.zeros(6), torch.eye(6)[:, :3], torch.eye(3)))


def test_a_router_of_other_directions_is_refused() -> None:
    with pytest.raises(PlanError, match="3 features for 2 directions"):
        masks_of("linear").router(Projection(torch.zeros(6), torch.eye(6)[:, :2], torch.eye(2)))


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (None, "none are given"),
        (torch.ones(2, 4), r"\[prompts, 3\] are needed"),
        (torch.ones(3), r"\[prompts, 3\] are needed"),
        (torch.full((2, 3), torch.nan), "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("kind", ["domain", "linear", "two-layer"])
def test_other_features_are_refused(kind: Kind, features: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        masks_of(kind).pick(features)
