"""Magnitude and chance: which score, which seed, which layers."""

# U units

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.compressors.methods import METHODS
from gacfx.compressors.pruning.baselines import MAGNITUDE, RANDOM
from gacfx.compressors.pruning.llm_pruner import LlmPruner
from gacfx.compressors.pruning.scores import Evidence, unit_scores
from gacfx.compressors.pruning.structures import refused_curve, scored_curve
from gacfx.core.structures import Member, Positions, Structure
from gacfx.errors import DecompositionFailed, InfeasibleBudget
from tests.unit.compressors.pruning.made_weights import made

UNITS, WIDTH = 24, 16


def mlp(name: str = "layers.0.mlp") -> Structure:
    channels = Positions(np.arange(UNITS), np.zeros(UNITS, dtype=np.int64))
    return Structure(
        name,
        "width",
        UNITS,
        1,
        (
            Member(f"{name}.up_proj", UNITS, WIDTH, outputs=channels),
            Member(f"{name}.down_proj", WIDTH, UNITS, inputs=channels),
        ),
    )


def evidence(structure: Structure) -> Evidence:
    weights = {
        member.module: made(member.rows, member.columns, seed=seed).weight_MN
        for seed, member in enumerate(structure.members)
    }
    return Evidence(weights, {})


def scores(method: str, name: str = "layers.0.mlp") -> Tensor:
    structure = mlp(name)
    return METHODS.find(method).scores(structure, evidence(structure))


def test_magnitude_is_the_sum_over_all_members() -> None:
    structure = mlp()
    known = evidence(structure)
    up_UN, down_NU = (known.weights[member.module] for member in structure.members)
    l2_U = up_UN.square().sum(1) + down_NU.square().sum(0)
    torch.testing.assert_close(scores("magnitude"), l2_U)
    torch.testing.assert_close(
        scores("magnitude:norm=l1"), up_UN.abs().sum(1) + down_NU.abs().sum(0)
    )
    for norm in ("l1", "l2"):
        same = unit_scores(f"magnitude-{norm}", structure, known)
        assert torch.equal(scores(f"magnitude:norm={norm}"), same)
        assert METHODS.find(f"magnitude:norm={norm}").proxy == f"magnitude-{norm}"


def test_chance_is_the_same_for_a_seed_and_a_structure_and_no_other() -> None:
    one = scores("random")
    assert torch.equal(one, scores("random")) and one.shape == (UNITS,)
    assert torch.equal(one, scores("random:seed=0"))
    assert not torch.equal(one, scores("random:seed=1"))
    assert not torch.equal(one, scores("random", "layers.1.mlp"))
    assert torch.equal(one, scores("llm-pruner:score=random"))
    assert float(one.min()) >= 0 and float(one.max()) < 1


@pytest.mark.parametrize(
    ("method", "pruned"),
    [
        ("magnitude", {0, 1, 2, 3, 4}),
        ("random", {0, 1, 2, 3, 4}),
        ("llm-pruner", {3, 4}),
        ("magnitude:first=1,end=3", {1, 2}),
        ("random:first=4", {4}),
    ],
)
@pytest.mark.parametrize("scope", ["local", "global"])
def test_layers_and_scope_are_settings(method: str, pruned: set[int], scope: str) -> None:
    found = METHODS.find(f"{method}{',' if ':' in method else ':'}scope={scope}")
    curves = [
        scored_curve(mlp(f"layers.{layer}.mlp"), scores("random", f"layers.{layer}.mlp"), "paper")
        for layer in range(5)
    ]
    curves.append(refused_curve(mlp("layers.2.other"), "paper", "somebody reads it"))
    gone = len(pruned) * UNITS * 2 * WIDTH // 4
    sizes = found.own_sizes(curves, gone)
    assert {*sizes} == {f"layers.{layer}.mlp" for layer in pruned}
    assert gone <= sum((UNITS - n) * 2 * WIDTH for n in sizes.values()) < gone + 2 * WIDTH
    if scope == "local":
        assert max(sizes.values()) - min(sizes.values()) <= 1
    assert found.own_sizes(curves, 0) == dict.fromkeys(sizes, UNITS)
    with pytest.raises(InfeasibleBudget, match="let it prune more layers"):
        found.own_sizes(curves, len(pruned) * UNITS * 2 * WIDTH)


def test_weights_of_zeros_are_a_reason() -> None:
    structure = mlp()
    nothing = {m.module: torch.zeros(m.rows, m.columns) for m in structure.members}
    with pytest.raises(DecompositionFailed, match="scores by magnitude-l2 are 0 or not finite"):
        MAGNITUDE.scores(structure, Evidence(nothing, {}))
    bad = replace(evidence(structure))
    broken = {**bad.weights, "layers.0.mlp.up_proj": torch.full((UNITS, WIDTH), torch.nan)}
    with pytest.raises(DecompositionFailed, match="0 or not finite"):
        MAGNITUDE.scores(structure, Evidence(broken, {}))


def test_they_need_nothing_and_make_no_ranks() -> None:
    for method in (MAGNITUDE, RANDOM):
        assert method.needs == () and method.prunes and not method.makes_ranks
        assert not method.compensates and method.first == 0
        with pytest.raises(DecompositionFailed, match=f"{method.name} makes no ranks"):
            method.decompose(torch.ones(2, 2), made(2, 2).moments, "here")
    assert any("layers before 3" in reason for reason in METHODS["llm-pruner"].leaves)
    assert not any("layers" in reason for reason in MAGNITUDE.leaves)
    assert "layers before 0, and from 4 on" in METHODS.find("random:end=4").leaves


def test_a_name_comes_first() -> None:
    assert LlmPruner("mine", first=0).name == "mine"
    assert replace(RANDOM, name="mine", seed=3).seed == 3
