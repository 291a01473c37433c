"""The sizes of the compressed models: budgets to the parameter, alignment, determinism."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.gpu.llama import allocations, variants
from benchmarks.gpu.llama.architecture import LLAMA_3_8B, TINY, Architecture
from benchmarks.gpu.llama.variants import NAMES, Variant, kept_channels, variant
from gacfx.compressors.allocate import upstream_rank
from gacfx.knapsack import kept_budget
from gacfx.passes.planning.synthetic_curves import tail

TOTAL = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
KEPT = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WITHIN_BUDGET = ("asvd", "asvd-aligned", "default", "uniform", "pruner", "pruner-aligned")
ALIGNED = ("asvd-aligned", "asvd-padded", "default", "pruner-aligned", "pruner-padded")


def big(name: str) -> Variant:
    return variant(LLAMA_3_8B, name)


def counted(made: Variant) -> int:
    """Parameters, counted without the code under test."""
    total = 0
    for name, rank in made.ranks.items():
        _, layer, block, kind = name.split(".")
        width = made.stored(made.widths[int(layer)])
        heads = {"q_proj": 4096, "o_proj": 4096, "k_proj": 1024, "v_proj": 1024}
        m, n = (width, 4096) if block == "mlp" else (heads[kind], 4096)
        total += m * n if rank is None else made.stored(rank) * (m + n)
    return total


def test_architecture_has_the_224_weights_of_llama() -> None:
    assert len(LLAMA_3_8B.linears()) == 224
    assert LLAMA_3_8B.targeted == TOTAL == 6_979_321_856
    assert LLAMA_3_8B.spread(8) == (0, 4, 8, 13, 17, 22, 26, 31)
    assert LLAMA_3_8B.spread(32) == tuple(range(32))
    assert LLAMA_3_8B.spread(1) == (0,)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4096, 4096), [819, 1024, 1228, 1433, 1638, 1843]),
        ((1024, 4096), [327, 409, 491, 573, 655, 737]),
        ((14336, 4096), [1274, 1592, 1911, 2230, 2548, 2867]),
    ],
)
def test_asvd_has_the_published_ranks(shape: tuple[int, int], expected: list[int]) -> None:
    assert [allocations.asvd_rank(*shape, tenths) for tenths in allocations.TENTHS] == expected


@pytest.mark.parametrize("name", NAMES)
def test_params_are_those_of_the_shapes(name: str) -> None:
    assert big(name).params() == counted(big(name))
    halves = range(16), range(16, 32)
    assert sum(big(name).params(half) for half in halves) == big(name).params()


@pytest.mark.parametrize("name", [*WITHIN_BUDGET, "default-64"])
@pytest.mark.parametrize("architecture", [LLAMA_3_8B, TINY], ids=lambda a: a.name)
def test_budget_is_kept_exactly(architecture: Architecture, name: str) -> None:
    made = variant(architecture, name)
    assert made.params() <= kept_budget(architecture.targeted, "0.15")
    if architecture is LLAMA_3_8B:
        assert made.ratio == pytest.approx(0.15, abs=1e-3)


@pytest.mark.parametrize("name", ["asvd", "pruner"])
def test_realigned_keeps_the_budget_of_the_original_and_padded_does_not(name: str) -> None:
    budget = big(name).params()
    assert 0.9999 * budget < big(f"{name}-aligned").params() <= budget
    assert budget < big(f"{name}-padded").params() < 1.01 * budget


def test_asvd_takes_no_more_than_it_must() -> None:
    shapes, used = LLAMA_3_8B.linears(), big("asvd").params()
    same = allocations.asvd(shapes, variants.ASVD_SEED, used)
    less = allocations.asvd(shapes, variants.ASVD_SEED, used - 1)
    assert same == dict(big("asvd").ranks)
    assert allocations.cost(shapes, less) < used


def test_asvd_finds_the_best_cut_for_every_budget() -> None:
    shapes = TINY.linears()
    pairs = zip(shapes, allocations.importances(len(shapes), 1), strict=True)
    entries = [(s * (1 / k - 1) ** 1.5, name, k) for name, s in pairs for k in KEPT]
    entries.sort(key=lambda entry: -entry[0])
    costs = []
    for cut in range(len(entries) + 1):
        left = {name: [k for _, n, k in entries[cut:] if n == name] for name in shapes}
        ranks = {
            name: allocations.asvd_rank(*shapes[name], round(10 * min(kept))) if kept else None
            for name, kept in left.items()
        }
        costs.append(allocations.cost(shapes, ranks))
    for cost in costs:
        assert allocations.cost(shapes, allocations.asvd(shapes, 1, cost)) == cost
        below = allocations.asvd(shapes, 1, cost - 1)
        assert cost == costs[0] or allocations.cost(shapes, below) < cost


def test_asvd_keeps_more_of_the_weights_that_matter_more() -> None:
    shapes = LLAMA_3_8B.linears()
    importance = allocations.importances(len(shapes), variants.ASVD_SEED)
    kept = [
        1.0 if (rank := big("asvd").ranks[name]) is None else rank * (m + n) / (m * n)
        for name, (m, n) in shapes.items()
    ]
    order = np.argsort(importance)
    assert (np.diff(np.array(kept)[order]) > -2e-3).all()  # ranks are whole


def test_alignment() -> None:
    assert big("dense").aligned_share() is None and big("dense").changed() == ()
    for name in ALIGNED:
        assert big(name).aligned_share() == 1.0
        assert all(size % 8 == 0 for size in big(name).changed())
    assert (big("asvd").aligned_share() or 0.0) <= 0.1
    assert 0.02 < big("asvd").aligned_share_of_weights < 0.1  # GAC, Table 5: 5 %
    assert (big("pruner").aligned_share() or 0.0) < 0.3
    assert all(size % 64 == 0 for size in big("default-64").changed())
    assert big("uniform").aligned_share() == pytest.approx(64 / 224, abs=1e-4)
    assert big("uniform").note == "aligned by chance: k_proj, v_proj"


def test_realigned_ranks_lie_in_the_window() -> None:
    reach = allocations.WINDOW_STEPS * allocations.ALIGN
    for name, rank in big("asvd").ranks.items():
        aligned = big("asvd-aligned").ranks[name]
        assert (aligned is None) == (rank is None)
        if rank is not None and aligned is not None:
            assert aligned > 0 and abs(aligned - rank) <= reach
    pairs = zip(big("pruner").widths, big("pruner-aligned").widths, strict=True)
    assert all(abs(new - old) <= reach and new <= 14336 for old, new in pairs)


def test_realigned_is_worth_more_than_rounding_down() -> None:
    dims = {
        "a": allocations.Dim(wanted=107, top=2048, unit_params=10, importance=1.0),
        "b": allocations.Dim(wanted=109, top=2048, unit_params=10, importance=3.0),
    }
    assert allocations.reselect(dims) == {"a": 48, "b": 168}  # all to b, inside the windows
    top = {"a": dims["a"], "b": replace(dims["b"], top=120)}
    assert allocations.reselect(top) == {"a": 96, "b": 120}


def test_padding_changes_no_value() -> None:
    for name in ("asvd", "pruner"):
        original, padded = big(name), big(f"{name}-padded")
        assert padded.ranks == original.ranks and padded.widths == original.widths
        for before, after in zip(original.changed(), padded.changed(), strict=True):
            assert 0 <= after - before < 8


def test_default_is_below_break_even_or_dense() -> None:
    for name, (m, n) in LLAMA_3_8B.linears().items():
        rank = big("default").ranks[name]
        assert rank is None or rank * (m + n) < m * n
    assert np.array_equal(allocations.tail(500, 0.6), tail(500, 0.6))


def test_uniform_is_svd_llm() -> None:
    shapes = LLAMA_3_8B.linears()
    assert all(big("uniform").ranks[n] == upstream_rank(*shapes[n], "0.15") for n in shapes)


def test_pruner_leaves_the_first_layers_and_is_irregular() -> None:
    widths = big("pruner").widths
    assert widths[:3] == (14336,) * 3
    assert len(set(widths[3:])) == 29 and max(widths[3:]) < 14336
    removed = 14336 * 29 - sum(widths[3:])
    assert (removed - 1) * 3 * 4096 < TOTAL - kept_budget(TOTAL, "0.15") <= removed * 3 * 4096


def test_kept_channels_are_nested_and_the_best() -> None:
    scores = allocations.channel_scores(TINY.layers, TINY.width, variants.PRUNER_SEED)
    for width in (1, 40, 176):
        kept = kept_channels(TINY, 1, width)
        assert len(kept) == width and (np.diff(kept) > 0).all()
        dropped = np.setdiff1d(np.arange(TINY.width), kept)
        assert not len(dropped) or scores[1][kept].min() >= scores[1][dropped].max()
    assert set(kept_channels(TINY, 1, 40)) < set(kept_channels(TINY, 1, 41))


def test_same_sizes_every_time() -> None:
    before = {name: (dict(v.ranks), v.widths) for name in NAMES for v in [big(name)]}
    variant.cache_clear()
    variants._scores.cache_clear()
    assert before == {name: (dict(v.ranks), v.widths) for name in NAMES for v in [big(name)]}


def test_summary_says_it_all() -> None:
    said = big("asvd-padded").summary()
    assert said["params"] == big("asvd-padded").params() and said["aligned_share"] == 1.0
    assert said["changed_dims"] == sum(rank is not None for rank in big("asvd").ranks.values())
    assert said["ratio"] == round(1 - big("asvd-padded").params() / TOTAL, 6)


def test_unknown_variant_names_the_known() -> None:
    with pytest.raises(KeyError, match="asvd-aligned"):
        variant(TINY, "no-such")
