"""Kinds of text by their prompts: discriminants, the gate, and clusters that nobody named."""

import pytest
import torch
from torch import Tensor

from gacfx.core.routed import Routed, own_blocks
from gacfx.errors import CalibrationError
from gacfx.routing.classes import (
    DIRECTIONS,
    SURE,
    class_router,
    fit_classes,
    own_patterns,
    principal,
)
from gacfx.routing.clusters import cluster_prompts
from gacfx.routing.prompts import Prompts

FEATURES, KINDS = 40, 3
ROUTED = {"a": Routed(24 + 3 * 16, 24, 8, 8), "b": Routed(4 + 3 * 4, 4, 0, 4)}
OWN = own_patterns(ROUTED, KINDS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def planted(count: int, *, apart: float = 8.0, seed: int = 0) -> list[Tensor]:
    """Prompts of each kind: means that are apart, and one covariance inside."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(KINDS + 1, FEATURES, generator=draw) * apart / FEATURES**0.5
    mixing = torch.randn(FEATURES, FEATURES, generator=draw) / FEATURES**0.5
    mixing *= torch.linspace(1.0, 0.05, FEATURES)
    return [mean + torch.randn(count, FEATURES) @ mixing.T for mean in means]


def test_prompts_that_were_not_seen_are_told_apart() -> None:
    seen, other = planted(64)[:KINDS], planted(200)[:KINDS]
    router = class_router(Prompts({96: tuple(seen)}), ROUTED, OWN)
    assert router.problem() == ""
    for kind, prompts in enumerate(other, 1):
        found = router.classify(prompts)
        assert not bool(((found != kind) & (found != 0)).any())
        assert float((found == kind).double().mean()) > 0.8


def test_the_gate_lets_most_of_what_was_seen_through() -> None:
    seen = planted(200)[:KINDS]
    router = class_router(Prompts({96: tuple(seen)}), ROUTED, OWN)
    for kind, prompts in enumerate(seen, 1):
        assert float((router.classify(prompts) == kind).double().mean()) > 0.9
    half = fit_classes(Prompts({96: tuple(seen)}), inside=0.5)
    whole = fit_classes(Prompts({96: tuple(seen)}), inside=0.98)
    assert bool((half.limits < whole.limits).all())


def test_an_unseen_kind_of_prompt_has_the_prefix() -> None:
    *seen, unseen = planted(64)
    router = class_router(Prompts({96: tuple(seen)}), ROUTED, OWN)
    assert float((router.classify(unseen) == 0).double().mean()) > 0.95
    far = seen[0] + 100 * torch.nn.functional.normalize(torch.randn(FEATURES), dim=0)
    pick = router.pick(far)
    assert {*pick.classes} == {0}
    for name, decision in ROUTED.items():
        assert pick.blocks[name].unique(dim=0).tolist() == [list(range(decision.picks))]


def test_each_kind_has_its_own_blocks() -> None:
    seen = planted(32)[:KINDS]
    router = class_router(Prompts({96: tuple(seen)}), ROUTED, OWN)
    rows = router.patterns().blocks
    for name, decision in ROUTED.items():
        want = [list(own_blocks(decision, KINDS, kind)) for kind in range(KINDS + 1)]
        assert rows[name].tolist() == want
    assert router.shape.classes == KINDS and router.shape.features == FEATURES
    assert router.shape.directions == DIRECTIONS


def test_inside_a_kind_the_numbers_have_about_identity_covariance() -> None:
    seen = planted(2000)[:KINDS]
    found = fit_classes(Prompts({96: tuple(seen)}), directions=8)
    spread = []
    for mean_D, prompts in zip(found.means_CD, seen, strict=True):
        numbers_PD, _ = found.projection(prompts)
        assert numbers_PD.shape == (2000, 8)
        torch.testing.assert_close(numbers_PD.mean(0), mean_D, rtol=1e-3, atol=1e-3)
        spread.append((numbers_PD - mean_D).T @ (numbers_PD - mean_D) / 2000)
    values = torch.linalg.eigvalsh(sum(spread[1:], spread[0]) / KINDS)
    # Shrinkage leaves directions of little variance below one, and of much a bit above.
    assert float(values[0]) > 0 and float(values[-1]) < 1.2
    basis_FD = found.projection.basis_FD
    torch.testing.assert_close(basis_FD.T @ basis_FD, torch.eye(8), atol=1e-5, rtol=0)


def test_probabilities_of_kinds_are_those_of_prompts_that_were_held_back() -> None:
    """1/2 is that of normal distributions whose covariance is known."""
    near = fit_classes(Prompts({96: tuple(planted(800, apart=1.5)[:KINDS])}), directions=6)
    assert 0.3 < float(near.gate[0, 0]) < 0.8
    assert float(near.gate[0, 1]) == pytest.approx(SURE)
    few = fit_classes(Prompts({96: tuple(planted(8, apart=0.5)[:KINDS])}))
    assert float(few.gate[0, 0]) < float(near.gate[0, 0])


def test_limits_are_of_prompts_that_the_means_were_not_made_of() -> None:
    """Few prompts in many directions: distances of seen ones would be far too small."""
    through = []
    for _ in range(8):
        seen, other = planted(10)[:KINDS], planted(100)[:KINDS]
        router = class_router(Prompts({96: tuple(seen)}), ROUTED, OWN)
        through += [router.classify(prompts) == kind for kind, prompts in enumerate(other, 1)]
    assert float(torch.cat(through).double().mean()) > 0.75


def words(count: int, *, tokens: int, seed: int = 0, apart: float = 0.3) -> Prompts:
    """Prompts of independent tokens: the mean of fewer of them varies more."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(KINDS, FEATURES, generator=torch.Generator().manual_seed(99)) * apart
    kinds = [mean + torch.randn(count, tokens, FEATURES, generator=draw) for mean in means]
    lengths = [tokens // cut for cut in (1, 2, 4, 8)]
    return Prompts({each: tuple(kind[:, :each].mean(1) for kind in kinds) for each in lengths})


def test_short_prompts_have_the_limits_of_their_length() -> None:
    """Each length lets through what the gate shall, and one limit for all would stop short ones."""
    router = class_router(words(200, tokens=96), ROUTED, OWN)
    assert router.shape.lengths == 4
    limits_LC, lengths = router.floats("limits"), router.floats("lengths")
    assert lengths.tolist() == [96, 48, 24, 12]
    assert bool((limits_LC[1:] > limits_LC[:-1]).all())
    sharpness_L, least_L = router.floats("gate").T
    assert bool((sharpness_L[1:] <= sharpness_L[:-1]).all())
    torch.testing.assert_close(least_L, torch.full((4,), SURE))
    other = words(200, tokens=96, seed=1)
    for tokens, kinds in other.by_length.items():
        own, long = list[Tensor](), list[Tensor]()
        for kind, prompts in enumerate(kinds, 1):
            counts = torch.full((len(prompts),), tokens)
            own.append(router.classify(prompts, counts) == kind)
            long.append(router.classify(prompts) == kind)
        shares = [float(torch.cat(each).double().mean()) for each in (own, long)]
        assert shares[0] >= shares[1] and shares[0] > (0.3 if tokens < 24 else 0.6)
        if tokens == 96:
            assert shares[0] == shares[1]
        if tokens < 24:
            assert shares[1] < 0.05


def test_where_no_direction_is_left_out_nothing_is_far_from_all_of_them() -> None:
    parts = [part[:, :8] + 5 for part in planted(60, apart=30.0)[:KINDS]]
    router = class_router(Prompts({96: tuple(part[:40] for part in parts)}), ROUTED, OWN)
    assert router.shape.directions == 8
    found = torch.cat([router.classify(part[40:]) == kind for kind, part in enumerate(parts, 1)])
    assert float(found.double().mean()) > 0.85


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_prompts_are_refused(count: int) -> None:
    seen = planted(8)[:KINDS]
    seen[1] = seen[1][:count]
    message = f"kind 2: {count} prompts, of which 4 with finite embeddings are needed"
    with pytest.raises(CalibrationError, match=message):
        fit_classes(Prompts({96: tuple(seen)}))
    seen[1] = torch.full((8, FEATURES), torch.nan)
    with pytest.raises(CalibrationError, match="kind 2: 8 prompts, of which 4 with finite"):
        fit_classes(Prompts({96: tuple(seen)}))


def test_distances_of_short_prompts_say_less() -> None:
    found = fit_classes(words(200, tokens=96, apart=0.1))
    assert float(found.gate[-1, 0]) < float(found.gate[0, 0])


def test_directions_in_which_prompts_do_not_differ_are_none() -> None:
    few_PF = torch.randn(3, FEATURES).repeat(10, 1)
    found = principal(few_PF, 8)
    assert found.basis_FD.shape == (FEATURES, 2) and float(found.scale_DD.max()) < 100
    for same_PF in (torch.randn(1, FEATURES), torch.randn(1, FEATURES).repeat(9, 1)):
        found = principal(same_PF, 8)
        assert found.basis_FD.shape == (FEATURES, 1) and not found.scale_DD.any()
        assert not found(torch.randn(4, FEATURES).double())[0].any()


def test_principal_directions_are_those_of_the_covariance() -> None:
    prompts_PF = planted(300)[0].double()
    found = principal(prompts_PF, 5)
    numbers_PD, away_P = found(prompts_PF)
    torch.testing.assert_close(numbers_PD.T @ numbers_PD / 299, torch.eye(5).double())
    values = torch.linalg.eigvalsh(prompts_PF.T.cov())
    assert float(away_P.sum() / 299) == pytest.approx(float(values[:-5].sum()))
    assert principal(prompts_PF[:3], 5).basis_FD.shape == (FEATURES, 2)


# -- clusters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_planted_clusters_are_found(clusters: int) -> None:
    parts = planted(40)[:clusters]
    truth = torch.arange(clusters).repeat_interleave(40)
    order = torch.randperm(len(truth))
    found = cluster_prompts(torch.cat(parts)[order], clusters)
    assert found.dtype == torch.int64 and found.shape == truth.shape
    pairs = {*zip(found.tolist(), truth[order].tolist(), strict=True)}
    assert len(pairs) == clusters  # one cluster for each kind, whatever it is called


def test_clusters_of_different_sizes() -> None:
    parts = [part[:count] for part, count in zip(planted(60), (60, 9, 4), strict=False)]
    truth = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 9, 4]))
    found = cluster_prompts(torch.cat(parts), 3)
    assert len({*zip(found.tolist(), truth.tolist(), strict=True)}) == 3


def test_clusters_are_the_same_each_time_and_for_any_shift() -> None:
    prompts = torch.randn(50, FEATURES)
    found = cluster_prompts(prompts, 4, seed=3)
    assert torch.equal(cluster_prompts(prompts, 4, seed=3), found)
    assert {*found.tolist()} <= {0, 1, 2, 3}
    assert cluster_prompts(prompts, 1).tolist() == [0] * 50
    assert sorted(cluster_prompts(prompts[:4], 4).tolist()) == [0, 1, 2, 3]
    cluster_prompts(torch.ones(6, FEATURES), 3)  # all alike


@pytest.mark.parametrize("clusters", [0, -1, 51])
def test_clusters_that_cannot_be_are_refused(clusters: int) -> None:
    prompts = torch.randn(50, FEATURES)
    with pytest.raises(CalibrationError, match=f"{clusters} clusters of 50 prompts"):
        cluster_prompts(prompts, clusters)
    prompts[3, 3] = torch.nan
    with pytest.raises(CalibrationError, match="2 clusters of 50 prompts"):
        cluster_prompts(prompts, 2)
