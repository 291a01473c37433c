"""RankExpertLinear: what it computes with picks, and what stays where it is between them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.core.routed import Routed
from gacfx.errors import PlanError, UnsupportedModel
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.rank_experts import RankExpertLinear

# B sequences, T tokens, N 13 inputs, M 17 outputs, P patterns

N, M = 13, 17
ROUTED = Routed(24, 8, 2, 2)
"""12 blocks, of which 4 run and the first always does."""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        yield


def layer_of(
    routed: Routed = ROUTED, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> RankExpertLinear:
    made = RankExpertLinear(N, M, routed, bias, dtype=dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def reference(layer: RankExpertLinear, x: Tensor, blocks: Tensor) -> Tensor:
    """In float64, with the weight that the blocks make."""
    block = layer.routed.block
    ranks = [at * block + i for at in blocks.tolist() for i in range(block)]
    weight_MN = layer.up.double()[ranks].T @ layer.down.double()[ranks]
    found = x.double() @ weight_MN.T
    return found if layer.bias is None else found + layer.bias.double()


def one_by_one(layer: RankExpertLinear, x_BTN: Tensor, blocks_BP: Tensor) -> Tensor:
    rows = zip(x_BTN, blocks_BP, strict=True)
    return torch.stack([reference(layer, x_TN, blocks) for x_TN, blocks in rows])


def prefix_of(layer: RankExpertLinear) -> LowRankLinear:
    return LowRankLinear.from_factors(layer.down[:8], layer.up[:8].T, layer.bias)


def some(count: int, routed: Routed = ROUTED) -> Tensor:
    """Patterns that differ, not in order."""
    found = dict[frozenset[int], Tensor]()
    while len(found) < count:
        pick = torch.randperm(routed.blocks)[: routed.picks]
        found[frozenset(pick.tolist())] = pick
    return torch.stack([*found.values()])


def close(found: Tensor, want: Tensor, bound: float = 1e-12) -> None:
    assert found.shape == want.shape
    found, want = found.detach().double(), want.detach().double()
    assert float((found - want).norm() / want.norm()) < bound


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(N,), (5, N), (3, 4, N)])
def test_without_a_pick_it_is_the_pair_of_its_first_ranks(
    bias: bool, shape: tuple[int, ...]
) -> None:
    layer = layer_of(bias=bias)
    pair = prefix_of(layer)
    x = torch.randn(*shape, dtype=torch.float64)
    close(layer(x), pair(x))
    layer.choose(some(1))
    layer.choose(None)
    close(layer(x), pair(x))
    assert layer.down_picked is layer.mask_picked is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(N,), (5, N), (3, 4, N)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_pick_for_all(bias: bool, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer, x = layer_of(bias=bias, dtype=dtype), torch.randn(*shape, dtype=dtype)
    for _ in range(4):
        blocks = some(1)
        layer.choose(blocks)
        close(layer(x), reference(layer, x, blocks[0]), 1e-12 if dtype.itemsize == 8 else 1e-5)
        assert not layer.groups and layer.mask_picked is None
    layer.choose(some(1).expand(5, -1))  # the same for five sequences is one pick for all
    assert not layer.groups and layer.mask_picked is None


CASES = {
    "all differ": ([0, 1, 2], 3),
    "two alike": ([0, 1, 0], 2),
    "two alike, not in order": ([1, 0, 1], 2),
    "the last two": ([1, 0, 0], 2),
}


@pytest.mark.parametrize("cap", [0.5, 1.0, 1.25, 3.0])
@pytest.mark.parametrize("case", CASES)
def test_sequences_that_differ_get_what_they_would_get_alone(case: str, cap: float) -> None:
    rows, count = CASES[case]
    layer, x_BTN = layer_of(), torch.randn(3, 7, N, dtype=torch.float64)
    x_BTN[1, :4] = 0  # padding
    blocks_BP = some(count)[rows]
    layer.choose(blocks_BP, cap=cap)
    close(layer(x_BTN), one_by_one(layer, x_BTN, blocks_BP))
    whole = cap * 8 >= 2 * len(blocks_BP.unique())
    assert bool(layer.groups) is not whole
    assert (layer.mask_picked is not None) is whole
    assert sum(layer.groups) == (0 if whole else 3)


def test_a_union_that_is_just_small_enough_is_computed_whole() -> None:
    layer, x_BTN = layer_of(), torch.randn(2, 3, N, dtype=torch.float64)
    blocks_BP = torch.tensor([[0, 1, 2, 3], [4, 3, 0, 1]])  # five blocks, 1.25 x 4
    layer.choose(blocks_BP)
    assert layer.mask_picked is not None and layer.down_picked is not None
    assert layer.down_picked.shape == (10, N)
    close(layer(x_BTN), one_by_one(layer, x_BTN, blocks_BP))
    layer.choose(blocks_BP, cap=1.24)
    assert layer.groups == (1, 1)
    assert layer.mask_picked is None


def test_a_union_in_a_pool_that_is_no_larger_than_the_cap() -> None:
    layer = layer_of(Routed(12, 8, 2, 2))
    x_BTN, blocks_BP = torch.randn(2, 3, N, dtype=torch.float64), some(2, layer.routed)
    layer.choose(blocks_BP, cap=3.0)
    close(layer(x_BTN), one_by_one(layer, x_BTN, blocks_BP))


def test_factors_keep_their_place_and_shape_from_pick_to_pick() -> None:
    layer = layer_of()

    def place() -> list[tuple[int, torch.Size]]:
        found = (layer.down_picked, layer.up_picked, layer.mask_picked)
        return [(each.data_ptr(), each.shape) for each in found if each is not None]

    layer.choose(some(1))
    first = place()
    for count in (1, 1, 1):
        layer.choose(some(count))
        assert place() == first and len(first) == 2
    layer.choose(some(3), cap=9.0)  # unions of 5 .. 12 blocks take the room of all
    union = place()
    for _ in range(3):
        layer.choose(some(3), cap=9.0)
        assert place() == union and len(union) == 3
    layer.choose(some(3), cap=0.5)
    groups = place()
    layer.choose(some(3), cap=0.5)
    assert place() == groups and len(groups) == 2


def test_any_pick_after_any_other_is_whole() -> None:
    """What stays of a pick is not copied again, unless the pool was changed."""
    layer, x_BTN = layer_of(), torch.randn(3, 2, N, dtype=torch.float64)
    prefix, own = torch.arange(4)[None], torch.tensor([[0, 8, 9, 10]])
    for turn in range(60):
        near = torch.tensor([[0, 1, 2, 3 + turn % 9]])
        blocks = (some(1), some(3), prefix, own, near)[int(torch.randint(5, ()))]
        layer.choose(blocks, cap=(0.5, 1.25, 9.0)[int(torch.randint(3, ()))])
        close(layer(x_BTN), one_by_one(layer, x_BTN, blocks.expand(3, -1)))
        if turn % 7 == 6:
            with torch.no_grad():
                layer.down.normal_()
        if turn % 11 == 10:
            layer.choose(None)
        if turn % 20 == 19:
            layer = copy.deepcopy(layer).float().double()


def test_a_pick_in_inference_mode_can_be_followed_by_one_outside_of_it() -> None:
    layer, x = layer_of(), torch.randn(2, 5, N, dtype=torch.float64)
    for cap in (0.5, 9.0):
        with torch.inference_mode():
            layer.choose(some(2), cap=cap)
            layer(x)
        blocks = some(2)
        layer.choose(blocks, cap=cap)
        close(layer(x), one_by_one(layer, x, blocks))


class Counting:
    """A backend that runs what it is given, and counts how often that is."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, gm: Any, inputs: Any) -> Any:
        """Noted."""
        self.graphs += 1
        return gm.forward


@pytest.mark.parametrize(("count", "cap"), [(1, 1.0), (3, 9.0)])
def test_compiled_code_stays_when_the_pick_changes(count: int, cap: float) -> None:
    torch.compiler.reset()
    layer, x = layer_of().eval(), torch.randn(3, 5, N, dtype=torch.float64)
    layer.choose(some(count), cap=cap)
    backend = Counting()
    compiled = torch.compile(layer, backend=backend)
    for _ in range(4):
        blocks = some(count)
        layer.choose(blocks, cap=cap)
        close(compiled(x), one_by_one(layer, x, blocks.expand(3, -1)))
    assert backend.graphs == 1
    layer.choose(None)
    assert torch.equal(compiled(x), layer(x))
    assert backend.graphs == 2


@pytest.mark.parametrize("cap", [0.5, 9.0])
@pytest.mark.parametrize("rows", [1, 2, 4, 6])
def test_a_batch_of_another_size_is_refused(rows: int, cap: float) -> None:
    layer = layer_of()
    layer.choose(some(3), cap=cap)
    with pytest.raises(UnsupportedModel, match="for 3 sequences that pick differently"):
        layer(torch.randn(rows, 5, N, dtype=torch.float64))
    with pytest.raises(UnsupportedModel, match="give it one prompt at a time"):
        layer(torch.randn(3, N, dtype=torch.float64))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([[0, 1, 2]], r"a pick of \(1, 3\) blocks; .* takes \[sequences, 4\] blocks of 2"),
        ([[0, 1, 2, 3, 4]], r"a pick of \(1, 5\) blocks"),
        ([0, 1, 2, 3], r"a pick of \(4,\) blocks"),
        ([[[0, 1, 2, 3]]], r"a pick of \(1, 1, 4\) blocks"),
        ([[0, 1, 2, 12]], "a pick outside the 12 blocks"),
        ([[0, 1, 2, 3], [0, 1, 2, -1]], "a pick outside the 12 blocks"),
        ([[0, 1, 2, 1]], "a pick that takes a block .* twice"),
    ],
    ids=str,
)
def test_what_is_no_pick_is_refused_and_changes_nothing(blocks: Any, message: str) -> None:
    layer, x = layer_of(), torch.randn(3, 5, N, dtype=torch.float64)
    layer.choose(some(3), cap=0.5)
    want = layer(x)
    with pytest.raises(PlanError, match=message):
        layer.choose(torch.tensor(blocks))
    assert torch.equal(layer(x), want)
    with pytest.raises(PlanError, match=r"a pick of \(0, 4\) blocks"):
        layer.choose(torch.zeros(0, 4, dtype=torch.long))


# -- state -----------------------------------------------------------------------------------------

PICKS = [(1, 1.0), (3, 9.0), (3, 0.5)]


@pytest.mark.parametrize(("count", "cap"), PICKS)
def test_all_state_follows_a_cast_and_a_move(count: int, cap: float) -> None:
    layer, x = layer_of(dtype=torch.float32), torch.randn(3, 5, N)
    blocks = some(count)
    layer.choose(blocks, cap=cap)
    want = one_by_one(layer, x, blocks.expand(3, -1))
    for cast, bound in ((torch.float64, 1e-6), (torch.bfloat16, 0.1), (torch.float16, 0.1)):
        made = copy.deepcopy(layer).to(cast)
        floating = [t for _, t in made.named_buffers() if t.is_floating_point()]
        assert {each.dtype for each in (*floating, *made.parameters())} == {cast}
        close(made(x.to(cast)), want, bound)
        made.choose(blocks, cap=cap)  # again, in the new type
        close(made(x.to(cast)), want, bound)
    close(copy.deepcopy(layer).half()(x.half()), want, 0.1)
    moved = copy.deepcopy(layer).to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, Tensor)]
    assert not tensors and all(t.is_meta for _, t in moved.named_buffers())
    names = {name for name, _ in moved.named_buffers()}
    assert {"down_picked", "up_picked"} <= names
    assert ("order" in names) is bool(layer.groups)


@pytest.mark.parametrize(("count", "cap"), PICKS)
def test_a_copy_picks_for_itself(count: int, cap: float) -> None:
    layer, x = layer_of(), torch.randn(3, 5, N, dtype=torch.float64)
    layer.choose(some(count), cap=cap)
    made, want = copy.deepcopy(layer), layer(x)
    assert torch.equal(made(x), want)
    blocks = some(3)
    made.choose(blocks)
    close(made(x), one_by_one(made, x, blocks))
    assert torch.equal(layer(x), want)


def test_picks_are_not_saved() -> None:
    layer = layer_of()
    names = {*layer.state_dict()}
    for count, cap in PICKS:
        layer.choose(some(count), cap=cap)
        assert {*layer.state_dict()} == names
    layer.weigh(nn.Parameter(torch.ones(24, dtype=torch.float64)))
    assert {*layer.state_dict()} == names
    assert {name for name, _ in layer.named_parameters()} == {"down", "up", "bias"}


def test_it_knows_when_what_it_holds_is_another_pick_or_old() -> None:
    layer, blocks, other = layer_of(), *some(2)[:, None]
    assert not layer.holds(blocks)

    def chosen() -> None:
        layer.choose(blocks)
        assert layer.holds(blocks) and layer.holds(blocks.clone().int().long())
        assert not layer.holds(other) and not layer.holds(blocks.expand(2, -1))
        assert not layer.holds(blocks, cap=3.0)

    changes: list[Callable[[], object]] = [
        lambda: layer.up.mul_(2),
        lambda: layer.load_state_dict({k: torch.randn_like(v) for k, v in state.items()}),
        lambda: setattr(layer, "down", nn.Parameter(torch.randn_like(layer.down))),
        lambda: layer.choose(None),
        lambda: layer.choose(other),
        lambda: layer.weigh(torch.ones(24)),
        lambda: layer.gather_in_each_call(blocks[0], lambda x, *_: x),
    ]
    state = layer.state_dict()
    for change in changes:
        chosen()
        with torch.no_grad():
            change()
        assert not layer.holds(blocks)
    chosen()
    given = blocks.clone()
    layer.choose(given)
    given[0] = other[0]  # what the caller does with its own tensor afterwards
    assert layer.holds(blocks)


# -- the whole pool, and products that gather --------------------------------------------------


def test_weights_of_ranks_weigh_the_whole_pool() -> None:
    layer, x_BTN = layer_of(), torch.randn(3, 5, N, dtype=torch.float64)
    weights = torch.rand(3, 1, 24, dtype=torch.float64, requires_grad=True)
    layer.weigh(weights)
    found = layer(x_BTN)
    for x_TN, weight_R, got in zip(x_BTN, weights[:, 0], found, strict=True):
        want = x_TN @ (layer.up.T * weight_R @ layer.down).T + layer.bias
        close(got, want)
    found.square().sum().backward()
    assert weights.grad is not None and bool((weights.grad != 0).all())
    layer.weigh(None)
    close(layer(x_BTN), prefix_of(layer)(x_BTN))


def test_a_product_that_gathers_is_given_the_pool_and_the_blocks() -> None:
    layer, x, blocks = layer_of(), torch.randn(5, N, dtype=torch.float64), some(1)[0]

    def product(
        x: Tensor, down: Tensor, up: Tensor, blocks: Tensor, block: int, bias: Tensor | None
    ) -> Tensor:
        ranks = (blocks[:, None] * block + torch.arange(block)).flatten()
        return nn.functional.linear(x @ down[ranks].T, up[ranks].T, bias)

    layer.gather_in_each_call(blocks, product)
    close(layer(x), reference(layer, x, blocks))
    assert layer.down_picked is None
    assert all(each.is_meta for _, each in copy.deepcopy(layer).to("meta").named_buffers())
    with pytest.raises(PlanError, match="outside the 12 blocks"):
        layer.gather_in_each_call(torch.tensor([0, 1, 2, 12]), product)
    close(layer(x), reference(layer, x, blocks))
    layer.choose(None)
    close(layer(x), prefix_of(layer)(x))
