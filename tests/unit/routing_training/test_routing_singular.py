"""Pools of one basis: made of a static plan, chosen from, routed by trained masks at the end."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.applying import apply
from gacfx.calibration.text import Corpus
from gacfx.core.decision import LowRank
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.routed import Routed
from gacfx.errors import PlanError
from gacfx.modules.prompt_router import Projection
from gacfx.modules.routing_hooks import attach_, means_of, picked
from gacfx.routing.against_dense import kl_to_dense, weighed
from gacfx.routing.classes import principal
from gacfx.routing.one_basis.mask_steps import MaskTraining
from gacfx.routing.one_basis.mask_training import train_masks
from gacfx.routing.one_basis.oracle import measure_energies, pool_weights
from gacfx.routing.one_basis.singular import singular_factors, widened
from gacfx.routing.study import RoutingStudy, is_static
from tests import tiny

TOKENS, PROMPT = 36, 12


def windows(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(258, (count, TOKENS), generator=random)


@cache
def study() -> RoutingStudy:
    texts = {name: Corpus(tuple(windows(8, seed))) for seed, name in enumerate("ab")}
    return RoutingStudy.make(tiny.llama(16, 32, 1, initializer_range=0.3), texts)


@cache
def static(block: int) -> Plan:
    plan = study().plan(removed="0.4", block=block, offered=is_static)
    assert any(isinstance(each, LowRank) for each in plan.decisions.values())
    return plan


def planned(plan: Plan) -> Planned:
    """With pools of one basis."""
    factors, found = {}, study()
    for name, decision in plan.decisions.items():
        assert isinstance(decision, Routed)
        factors[name] = singular_factors(found.pool(name, found.full), decision, torch.float32)
    return Planned(plan, factors)


@pytest.mark.parametrize("block", [1, 2])
def test_pools_hold_more_and_run_alike(block: int) -> None:
    before = static(block)
    plan = widened(before, pool=1.5, shared=0.5, block=block)
    for name, decision in plan.decisions.items():
        old, weight = before.decisions[name], before.weights[name]
        assert isinstance(old, LowRank) and isinstance(decision, Routed)
        assert decision.active == old.rank and not decision.problem(weight.rows, weight.columns)
        most = min(weight.rows, weight.columns)
        assert decision.pool == max(old.rank, min(int(1.5 * old.rank), most) // block * block)
        assert decision.shared == old.rank // 2 // block * block
    model, ids_PT = apply(study().model, planned(plan)), windows(3, 5)
    pairs = apply(study().model, study().planned(before))
    with torch.no_grad():
        torch.testing.assert_close(model(ids_PT).logits, pairs(ids_PT).logits, rtol=1e-4, atol=1e-5)


def test_the_whole_pool_of_all_pieces_is_the_dense_model() -> None:
    model, ids_PT = apply(study().model, planned(widened(static(1), pool=99, block=1))), windows(3)
    with torch.no_grad(), weighed(model):
        found = model(ids_PT).logits
    torch.testing.assert_close(found, study().model(ids_PT).logits, rtol=1e-4, atol=1e-4)


def test_weights_of_pieces_are_those_of_the_calibration() -> None:
    for name, decision in widened(static(1), block=1).decisions.items():
        assert isinstance(decision, Routed)
        pool = study().pool(name, study().full)
        factors = singular_factors(pool, decision, torch.float64)
        found_R = pool_weights(pool, decision.pool)
        assert found_R.shape == (decision.pool,)
        if not pool.wide:  # the gradient moment of the others is that of the long side
            whole = [each.moments[name].side_moment for each in study().full]
            low, high = (
                torch.stack(
                    [(factors.tensors["up"] @ g * factors.tensors["up"]).sum(1) for g in whole]
                )
                .div(2)
                .aminmax(dim=0)
            )
            assert bool((found_R >= low * 0.999).all() and (found_R <= high * 1.001).all())


def test_trained_masks_route_a_model() -> None:
    dense = study().model
    model, ids_PT = apply(dense, planned(widened(static(1), shared=0.0, block=1))), windows(8, 3)
    means_PF = means_of(model, ids_PT[:, :PROMPT])
    found = principal(means_PF, 3)
    projection = Projection(found.centre_F.float(), found.basis_FD.float(), found.scale_DD.float())
    features_PF = projection(means_PF)[0]
    energies = measure_energies(model, ids_PT)
    masks = train_masks(
        model,
        ids_PT,
        PROMPT,
        dense,
        features_PF,
        MaskTraining("linear", steps=6, batch=4, bias_rate=0.05, map_rate=0.2),
        energies={name: each.output_PR.mean(0) for name, each in energies.items()},
    )
    pick = masks.pick(features_PF)
    assert len({tuple(row) for blocks in pick.blocks.values() for row in blocks.tolist()}) > 4
    prompts = ids_PT[:, :PROMPT]
    with torch.no_grad(), picked(model, pick):
        expected = model(prompts).logits
    attach_(model, masks.router(projection))
    with torch.no_grad():
        torch.testing.assert_close(model(prompts).logits, expected)
    assert bool(kl_to_dense(model, ids_PT, PROMPT, dense, pick).isfinite().all())


def test_a_pool_of_more_pieces_than_there_are_is_refused() -> None:
    name = next(iter(static(1).decisions))
    pool = study().pool(name, study().full)
    with pytest.raises(PlanError, match="is more than its"):
        singular_factors(pool, Routed(pool.rank + 1, 2, 0, 1), torch.float32)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"pool": 0.5}, "pool 0.5 must be at least 1"),
        ({"shared": 1.5}, "shared 1.5 in 0 .. 1"),
        ({"block": 64}, "is no multiple of the block of 64"),
    ],
)
def test_what_cannot_be_widened_is_said(more: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        widened(static(1), **{"block": 1, **more})
