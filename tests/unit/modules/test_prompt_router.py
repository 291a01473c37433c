"""PromptRouter: kinds of text and their gate, scores, and numbers that casts leave alone."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.core.routed import Routed
from gacfx.core.router_shape import RouterShape
from gacfx.errors import PlanError, PlanMismatch
from gacfx.modules.prompt_router import (
    PromptRouter,
    embedding_sums,
    top_blocks,
)
from gacfx.routing.cache import PatternCache

ROUTED = {"b.up": Routed(24, 8, 2, 2), "a.down": Routed(20, 12, 4, 4)}
"""12 blocks of which 4 run, one always; 5 of which 3 run, one always."""
FEATURES, DIRECTIONS, CLASSES = 16, 5, 3


def numbers() -> dict[str, Tensor]:
    """A projection of orthonormal directions."""
    basis_FD = torch.linalg.qr(torch.randn(FEATURES, DIRECTIONS))[0]
    scale_DD = torch.randn(DIRECTIONS, DIRECTIONS) + 3 * torch.eye(DIRECTIONS)
    return {"centre": torch.randn(FEATURES), "basis": basis_FD, "scale": scale_DD}


def pattern() -> dict[str, Tensor]:
    made = {}
    for name, each in ROUTED.items():
        free = torch.randperm(each.blocks - each.fixed)[: each.picks - each.fixed] + each.fixed
        made[name] = torch.cat([torch.arange(each.fixed), free])
    return made


def classes_router() -> tuple[PromptRouter, list[dict[str, Tensor]]]:
    router = PromptRouter(RouterShape("classes", FEATURES, DIRECTIONS, CLASSES), ROUTED)
    means_CD, limits = torch.randn(CLASSES, DIRECTIONS) * 4, torch.tensor([[9.0, 4.0, 1.0, 25.0]])
    lengths = torch.tensor([96.0])
    router.set_floats_(**numbers(), means=means_CD, lengths=lengths, limits=limits)
    patterns = [pattern() for _ in range(CLASSES)]
    router.set_patterns_(patterns)
    return router, patterns


def scores_router() -> PromptRouter:
    router = PromptRouter(RouterShape("scores", FEATURES, DIRECTIONS), ROUTED)
    router.set_floats_(**numbers(), weight=torch.randn(17, DIRECTIONS), offset=torch.randn(17))
    return router


def at(router: PromptRouter, numbers_BD: Tensor, away: float = 0.0) -> Tensor:
    """Mean embeddings that have these numbers, and lie so far from all directions."""
    basis_FD = router.floats("basis").double()
    found_BD = numbers_BD.double() @ router.floats("scale").double().inverse()
    outside_F = torch.randn(FEATURES).double()
    outside_F -= basis_FD @ (basis_FD.T @ outside_F)
    outside_F *= away / outside_F.norm()
    made_BF = router.floats("centre") + found_BD @ basis_FD.T + outside_F
    return made_BF.float()


def test_the_nearest_kind_is_taken_up_to_its_limit() -> None:
    router, _ = classes_router()
    means_CD, limits = router.floats("means"), router.floats("limits")[0]
    for kind in range(CLASSES):
        direction_D = torch.nn.functional.normalize(torch.randn(DIRECTIONS), dim=0)
        for share, want in ((0.0, True), (0.95, True), (1.05, False), (50.0, False)):
            point_D = means_CD[kind] + direction_D * limits[kind].sqrt() * share
            nearest = int((means_CD - point_D).square().sum(1).argmin())
            if nearest == kind:
                found = router.classify(at(router, point_D[None]))
                assert found.tolist() == [kind + 1 if want else 0]
            elif not want:
                near = (means_CD[nearest] - point_D).square().sum() <= limits[nearest]
                assert int(router.classify(at(router, point_D[None]))) == near * (nearest + 1)


def test_a_prompt_far_from_all_directions_is_of_no_kind() -> None:
    router, _ = classes_router()
    means_CD = router.floats("means")
    assert router.classify(at(router, means_CD, 4.9)).tolist() == [1, 2, 3]
    assert router.classify(at(router, means_CD, 5.1)).tolist() == [0, 0, 0]


def test_each_kind_has_its_pattern_and_none_has_the_prefix() -> None:
    router, patterns = classes_router()
    mean_BF = torch.cat([at(router, router.floats("means")[[2, 0]]), torch.full((1, 16), 1e6)])
    found = router.pick(mean_BF)
    assert found.classes == (3, 1, 0) and found.sequences == 3
    assert list(found.blocks) == ["a.down", "b.up"]
    for name, rows in found.blocks.items():
        wanted = [patterns[2][name], patterns[0][name], torch.arange(ROUTED[name].picks)]
        assert rows.dtype == torch.int32
        assert rows.tolist() == torch.stack(wanted).tolist()
    every = router.patterns()
    assert every.classes == (0, 1, 2, 3)
    for name, rows in every.blocks.items():
        assert rows[1:].tolist() == [each[name].tolist() for each in patterns]
        assert rows[0].tolist() == list(range(ROUTED[name].picks))


def test_limits_of_a_length_are_linear_between_the_known_ones() -> None:
    """In 1 / tokens, and beyond the known lengths those of the nearest one."""
    shape = RouterShape("classes", FEATURES, DIRECTIONS, CLASSES, 3)
    router = PromptRouter(shape, ROUTED)
    limits_LC = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0], [8.0, 8.0, 8.0, 8.0]])
    gate_L2 = torch.tensor([[0.4, 0.8], [0.2, 0.8], [0.1, 0.9]])
    lengths = torch.tensor([40.0, 20.0, 10.0])
    router.set_floats_(**numbers(), lengths=lengths, limits=limits_LC, gate=gate_L2)
    tokens = torch.tensor([4000, 40, 30, 20, 10, 3, 1])
    limits_BC, sharpness_B, least_B = router._gate(tokens, 7)
    third = (1 / 30 - 1 / 40) / (1 / 20 - 1 / 40)
    between = limits_LC[0] + third * (limits_LC[1] - limits_LC[0])
    wanted = [limits_LC[0], limits_LC[0], between, limits_LC[1], *[limits_LC[2]] * 3]
    torch.testing.assert_close(limits_BC, torch.stack(wanted))
    sharp = [0.4, 0.4, 0.4 - 0.2 * third, 0.2, 0.1, 0.1, 0.1]
    torch.testing.assert_close(sharpness_B, torch.tensor(sharp))
    torch.testing.assert_close(least_B, torch.tensor([0.8] * 4 + [0.9] * 3))
    for found, want in zip(router._gate(None, 2), (limits_LC, *gate_L2.T), strict=True):
        assert torch.equal(found, want[:1].expand_as(found))


def test_lengths_that_are_none_are_found() -> None:
    router, _ = classes_router()
    assert router.problem() == ""
    for odd in (0.0, -3.0, 0.5):
        router.set_floats_(lengths=torch.tensor([odd]))
        assert router.problem().startswith("router: lengths [")
    two = PromptRouter(RouterShape("classes", FEATURES, DIRECTIONS, CLASSES, 2), ROUTED)
    for found in ([12.0, 96.0], [12.0, 12.0]):
        two.set_floats_(lengths=torch.tensor(found))
        assert f"lengths {found} are no falling numbers" in two.problem()


def test_a_prompt_between_kinds_is_of_none() -> None:
    router, _ = classes_router()
    means_CD = torch.zeros(CLASSES, DIRECTIONS)
    means_CD[:, 0] = torch.tensor([0.0, 4.0, 100.0])
    router.set_floats_(means=means_CD, limits=torch.full((1, 4), 1e9))
    points_BD = torch.zeros(5, DIRECTIONS)
    points_BD[:, 0] = torch.tensor([0.0, 1.9, 2.1, 4.0, 60.0])
    squared_BC = torch.cdist(points_BD, means_CD).square()
    for sharpness, least, want in (
        (0.5, 0.0, [1, 1, 2, 2, 3]),
        (0.5, 0.9, [1, 0, 0, 2, 3]),
        (0.01, 0.9, [0, 0, 0, 0, 3]),
        (0.0, 0.4, [0, 0, 0, 0, 0]),
    ):
        router.set_floats_(gate=torch.tensor([[sharpness, least]]))
        assert router.classify(at(router, points_BD)).tolist() == want
        sure_B = torch.softmax(-sharpness * squared_BC, 1).amax(1) >= least
        assert [bool(kind) for kind in want] == sure_B.tolist()


def test_a_table_that_is_replaced_is_what_is_picked() -> None:
    router, patterns = classes_router()
    other, wanted = classes_router()
    mean_BF = at(router, router.floats("means")[[1]])
    assert router.pick(mean_BF) is router.pick(mean_BF)  # nothing is made twice
    assert router.pick(mean_BF).blocks["b.up"][0].tolist() == patterns[1]["b.up"].tolist()
    router.set_patterns_(wanted)
    assert router.pick(mean_BF).blocks["b.up"][0].tolist() == wanted[1]["b.up"].tolist()
    router.load_state_dict({**router.state_dict(), "table": other.get_buffer("table").flip(0)})
    assert router.pick(mean_BF).blocks["b.up"][0].tolist() == wanted[1]["b.up"].tolist()
    router.load_state_dict({**router.state_dict(), "table": other.get_buffer("table").roll(1, 0)})
    assert router.pick(mean_BF).blocks["b.up"][0].tolist() == wanted[0]["b.up"].tolist()
    for _ in range(3):  # more batches than are remembered
        for count in range(1, 60):
            assert router.of_classes([2] * count).sequences == count


@pytest.mark.parametrize("make", [lambda: classes_router()[0], scores_router])
def test_a_prompt_without_a_token_has_the_prefix(make: Any) -> None:
    router = make()
    mean_BF = torch.randn(3, FEATURES)
    alone = router.pick(mean_BF[2:])
    for odd in (torch.nan, torch.inf):
        mean_BF[1] = odd
        found = router.pick(mean_BF)
        for name, rows in found.blocks.items():
            assert rows[1].tolist() == list(range(ROUTED[name].picks))
            assert torch.equal(rows[2:], alone.blocks[name])
    sums_BF, counts_B = embedding_sums(torch.randn(2, 4, 16), torch.tensor([[0] * 4, [1] * 4]))
    assert counts_B.tolist() == [0, 4]
    found = router.pick(sums_BF / counts_B[:, None])
    assert all(rows[0].tolist() == sorted(rows[0].tolist()) for rows in found.blocks.values())


def test_no_token_is_of_no_kind_even_where_zeros_would_be_of_one() -> None:
    router, _ = classes_router()
    zeros = torch.zeros(1, FEATURES)
    means_CD = router.floats("means")
    means_CD[1] = router.projection(zeros)[0]
    router.set_floats_(means=means_CD, limits=torch.full((1, 4), 1e9))
    assert router.pick(zeros).classes == (2,)
    assert router.pick(zeros * torch.nan).classes == (0,)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_leaves_every_bit(cast: torch.dtype) -> None:
    router, _ = classes_router()
    want = {name: router.floats(name) for name in router._floats}
    mean_BF = torch.randn(64, FEATURES) * 4
    picked = router.pick(mean_BF)
    assert {"centre", "basis", "scale", "means", "lengths", "limits", "gate"} == set(want)
    for made in (copy.deepcopy(router).to(cast), copy.deepcopy(router).half().float()):
        for name, value in want.items():
            assert torch.equal(made.floats(name).view(torch.int32), value.view(torch.int32))
        assert made.pick(mean_BF).classes == picked.classes
    state = {name: value.clone() for name, value in router.state_dict().items()}
    assert {each.dtype for each in state.values()} == {torch.int32}
    other, _ = classes_router()
    other.load_state_dict(state)
    assert other.pick(mean_BF).classes == picked.classes


def test_sums_of_tokens_that_are_no_padding() -> None:
    embedded_BTF = torch.randn(3, 7, FEATURES).bfloat16()
    mask_BT = torch.rand(3, 7) > 0.5
    sums_BF, counts_B = embedding_sums(embedded_BTF, mask_BT)
    for row in range(3):
        want = embedded_BTF[row, mask_BT[row]].float().sum(0)
        torch.testing.assert_close(sums_BF[row], want)
        assert counts_B[row] == mask_BT[row].sum()


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["centre", "basis", "scale", "means", "lengths", "limits"])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_a_problem(name: str, odd: float) -> None:
    router, _ = classes_router()
    assert router.problem() == ""
    held = router.get_buffer(name)
    held.flatten()[-1] = torch.tensor(odd).view(torch.int32)
    assert router.problem() == f"router: {name} has NaN or infinite values"


@pytest.mark.parametrize(
    ("place", "value", "module"),
    [(0, -1, "a.down"), (0, 5, "a.down"), (2, 2**30, "a.down"), (3, 12, "b.up"), (6, -7, "b.up")],
)
def test_blocks_that_a_pool_does_not_have_are_a_problem(
    place: int, value: int, module: str
) -> None:
    router, _ = classes_router()
    router.get_buffer("table")[1, place] = value
    said = router.problem()
    assert said == f"router: the blocks of {module} are none of {ROUTED[module]}"


def test_a_block_twice_is_a_problem() -> None:
    router, _ = classes_router()
    table = router.get_buffer("table")
    table[2, 3] = table[2, 6]
    assert router.problem().startswith("router: the blocks of b.up are none of")
    scores = scores_router()
    assert scores.problem() == ""
    scores.get_buffer("offset")[3] = torch.tensor(torch.nan).view(torch.int32)
    assert scores.problem() == "router: offset has NaN or infinite values"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limits": torch.ones(CLASSES)}, r"limits \(3,\) is not finite, or not \(1, 4\)"),
        ({"centre": torch.full((FEATURES,), torch.nan)}, r"centre \(16,\) is not finite"),
        (
            {"centre": torch.full((FEATURES,), 1e300, dtype=torch.float64)},
            r"centre \(16,\) is not finite",
        ),
        ({"basis": torch.ones(DIRECTIONS, FEATURES)}, r"basis \(5, 16\) is not finite, or not"),
        ({"table": torch.ones(CLASSES, 7)}, "has no table, but centre, basis, scale, means, le"),
        ({"weight": torch.ones(17, DIRECTIONS)}, "has no weight, but"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_refused_and_none_is_taken(
    given: dict[str, Tensor], message: str
) -> None:
    router, _ = classes_router()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    with pytest.raises(PlanError, match=f"^router: {message}"):
        router.set_floats_(scale=torch.ones(DIRECTIONS, DIRECTIONS), **given)
    assert all(torch.equal(value, before[name]) for name, value in router.state_dict().items())


# -- scores ----------------------------------------------------------------------------------------


def test_the_best_blocks_are_picked_beside_those_that_always_run() -> None:
    decision = ROUTED["b.up"]
    score_BK = torch.randn(50, decision.blocks)
    found = top_blocks(score_BK, decision)
    assert found.dtype == torch.int32
    for scores, blocks in zip(score_BK, found.tolist(), strict=True):
        rest = scores[1:].argsort(descending=True)[:3] + 1
        assert blocks == sorted([0, *rest.tolist()])
    whole = Routed(8, 8, 8, 2)
    assert top_blocks(torch.randn(2, 4), whole).tolist() == [[0, 1, 2, 3]] * 2


def test_scores_are_linear_in_the_numbers_of_a_prompt() -> None:
    router, mean_BF = scores_router(), torch.randn(6, FEATURES)
    found = router.pick(mean_BF)
    assert found.classes == () and found.sequences == 6
    value = {name: router.floats(name).double() for name in router._floats}
    numbers_BD = (mean_BF.double() - value["centre"]) @ value["basis"] @ value["scale"]
    score_BK = numbers_BD @ value["weight"].T + value["offset"]
    for name, columns in (("a.down", slice(0, 5)), ("b.up", slice(5, 17))):
        want = top_blocks(score_BK[:, columns], ROUTED[name])
        assert torch.equal(found.blocks[name], want)


class Stub:
    """Remembers what it is told, by the sign of the first number."""

    def __init__(self) -> None:
        self.known: dict[bool, dict[str, Tensor]] = {}
        self.keys: list[Tensor] = []

    def find(self, embedding_F: Tensor) -> dict[str, Tensor] | None:
        """What was put for this sign."""
        self.keys.append(embedding_F)
        return self.known.get(bool(embedding_F[0] > 0))

    def put(self, embedding_F: Tensor, value: dict[str, Tensor]) -> None:
        """Kept."""
        self.known[bool(embedding_F[0] > 0)] = value

    def check(self, fingerprint: str) -> None:
        """For any router."""


def test_a_pick_that_is_remembered_is_not_made_again() -> None:
    router = scores_router()
    mean_BF = torch.randn(1, FEATURES) + torch.zeros(4, 1)
    mean_BF[2:] += torch.randn(FEATURES)
    centre_F = router.floats("centre")
    mean_BF[:2, 0], mean_BF[2:, 0] = centre_F[0] + 1, centre_F[0] - 1
    alone = router.pick(mean_BF)
    stub = Stub()
    router.remembered = stub
    found = router.pick(mean_BF)
    assert all(torch.equal(found.blocks[name], alone.blocks[name]) for name in ROUTED)
    assert len(stub.known) == 2 and len(stub.keys) == 4
    for key_F, mean_F in zip(stub.keys, mean_BF, strict=True):
        want = torch.nn.functional.normalize(mean_F - centre_F, dim=0)
        torch.testing.assert_close(key_F, want)
    other = {name: torch.arange(each.picks).int() + 1 for name, each in ROUTED.items()}
    stub.known[True] = other
    again = router.pick(mean_BF)
    for name, rows in again.blocks.items():
        assert rows[0].tolist() == rows[1].tolist() == other[name].tolist()
        assert torch.equal(rows[2:], alone.blocks[name][2:])
    router.pick(torch.full((1, FEATURES), torch.nan))
    assert len(stub.keys) == 8  # nobody asks for a prompt without a token


def test_a_cache_of_another_router_is_refused_and_one_of_old_numbers_is_dropped() -> None:
    router = scores_router()
    cache = PatternCache[dict[str, Tensor]](4, 0.9, router.fingerprint)
    router.remember_(cache)
    router.pick(torch.randn(3, FEATURES))
    assert cache.statistics().misses == 3
    copied = copy.deepcopy(router)
    assert copied.remembered is not None and copied.remembered is not cache
    router.set_floats_(offset=torch.randn(17))
    assert router.remembered is None
    with pytest.raises(PlanMismatch, match="make a cache for each model"):
        router.remember_(cache)
    with pytest.raises(PlanError, match="has its picks in a table"):
        classes_router()[0].remember_(PatternCache(4, 0.9, ""))


def test_a_pattern_without_what_always_runs_is_a_problem() -> None:
    router, _ = classes_router()
    table = router.get_buffer("table")
    table[0, :3] = torch.tensor([1, 2, 3], dtype=torch.int32)
    assert router.problem() == "router: a pattern of a.down leaves out blocks that always run"
