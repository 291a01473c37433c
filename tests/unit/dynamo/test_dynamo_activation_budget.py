"""Activations within a budget: the best choice, never too many bytes, right gradients."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch._functorch import config, partitioners
from torch._functorch._activation_checkpointing import knapsack
from torch._inductor.utils import fresh_cache
from torch.utils._mode_utils import no_dispatch

import gacfx
from gacfx.dynamo.activation_budget import KEEP, budget_bytes, keep, problem_of, runtimes
from gacfx.errors import PlanError
from gacfx.knapsack.certificate.check import check
from gacfx.knapsack.solution import Solution
from tests import tiny
from tests.few import few
from tests.unit.dynamo.compiled import ids

SIZES = (8, 256, 1024, 1024, 4096, 65536, 180224, 264192)
"""Bytes of activations of a small model."""
SHARES = (0.1, 0.3, 0.5, 0.8)
Solver = Callable[[list[float], list[float], float], tuple[float, list[int], list[int]]]


@pytest.fixture(autouse=True)
def own_cache() -> Iterator[None]:
    """No test finds what another one compiled; torch's key does not tell its own solvers apart."""
    with fresh_cache():
        yield


def kept_by(solution: Solution) -> list[int]:
    """Places of the nodes that a solution keeps."""
    return [at for at, chosen in enumerate(solution.choice) if chosen == KEEP]


class Case:
    """Activations, and the same as torch hands them to a solver."""

    def __init__(self, seed: int, count: int = 11) -> None:
        random.seed(seed)
        self.sizes = [random.choice(SIZES) + random.randrange(0, 64, 8) for _ in range(count)]
        self.values = [float(random.choice((1, random.randrange(1, 10**9)))) for _ in range(count)]
        self.whole = sum(self.sizes) + 8 * random.randrange(1000)
        self.memory = [size / 1e9 / (self.whole / 1e9) for size in self.sizes]

    def best(self, budget: int) -> tuple[float, int]:
        """Value of the best choice that fits, and the fewest nodes that have it, negative."""
        subsets = itertools.product((0, 1), repeat=len(self.sizes))
        fitting = (s for s in subsets if sum(itertools.compress(self.sizes, s)) <= budget)
        return max((sum(itertools.compress(self.values, s)), -sum(s)) for s in fitting)

    def value(self, kept: Iterable[int]) -> float:
        """What they are worth."""
        return sum(self.values[at] for at in kept)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", SHARES)
def test_the_choice_is_the_best_of_all_and_proven(seed: int, share: float) -> None:
    case = Case(seed)
    budget = budget_bytes(case.memory, case.sizes, share)
    found = keep(case.sizes, case.values, budget)
    kept = kept_by(found)
    assert (case.value(kept), -len(kept)) == case.best(budget) and found.status == "optimal"
    assert sum(case.sizes[at] for at in kept) == found.cost <= share * case.whole
    assert check(problem_of(case.sizes, case.values, budget), found).valid


def test_of_equal_choices_the_one_of_the_fewest_nodes() -> None:
    sizes = [3, 4, 3, 3, 1, 1]
    for unit in (1.0, 1e9, 1 / 3):
        kept = kept_by(keep(sizes, [unit * size for size in sizes], 6))
        assert [sizes[at] for at in kept] == [3, 3], "not 4, 1 and 1"
    assert kept_by(keep([100, 100], [0.0, 1.0], 300)) == [1], "what saves nothing is not kept"


@pytest.mark.parametrize("seed", range(10))
def test_milliseconds_are_values_as_well(seed: int) -> None:
    case = Case(seed)
    case.values = [value / 3e9 for value in case.values]
    found = keep(case.sizes, case.values, budget_bytes(case.memory, case.sizes, 0.3))
    best, _ = case.best(budget_bytes(case.memory, case.sizes, 0.3))
    assert case.value(kept_by(found)) == pytest.approx(best, rel=1e-12)
    assert found.status == "optimal"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("theirs", "exact"),
    [
        (knapsack.greedy_knapsack, False),
        (knapsack.dp_knapsack, False),
        (knapsack.dp_knapsack_sliding_hirschberg, False),
        (knapsack.ilp_knapsack, True),
    ],
)
def test_none_of_torchs_own_solvers_finds_more_that_fits(
    seed: int, theirs: Solver, exact: bool
) -> None:
    if exact:
        pytest.importorskip("scipy", reason="torch's ilp needs it")
    case = Case(seed, count=40)
    for share in SHARES:
        budget = budget_bytes(case.memory, case.sizes, share)
        ours = case.value(kept_by(keep(case.sizes, case.values, budget)))
        said, kept, _ = theirs(case.memory, case.values, share)
        if sum(case.sizes[at] for at in kept) <= budget:
            assert case.value(kept) <= ours
        if exact:  # it drops what milp gives as 0.9999999, and milp stops at a gap of 1e-4
            assert said == pytest.approx(ours, rel=1e-4) and case.value(kept) <= ours


def test_rounded_sizes_overrun_a_budget_and_ours_do_not() -> None:
    sizes, values = [40] * 20_000, [1.0] * 20_000
    memory = [size / 1_000_000 for size in sizes]  # 0.4 of a step of theirs
    _, kept, _ = knapsack.dp_knapsack(memory, values, 0.1)
    assert sum(sizes[at] for at in kept) == 800_000, "a budget of 100,000"
    found = keep(sizes, values, budget_bytes(memory, sizes, 0.1))
    assert (found.cost, len(kept_by(found))) == (100_000, 2_500)


@pytest.mark.parametrize(("share", "want"), [(0.3, 3), (0.29, 2), (1, 10), (1.0, 10), (0, 0)])
def test_a_budget_in_bytes_is_rounded_down_from_what_was_written(share: float, want: int) -> None:
    assert budget_bytes([0.7, 0.1, 0.0], [7, 1, 0], share) == want
    assert budget_bytes([0.0], [0], share) == 0


def test_another_unit_of_memory_is_refused() -> None:
    with pytest.raises(PlanError, match=r"torch .* unit that gacfx does not know; take another"):
        budget_bytes([0.5, 0.5], [7, 1], 0.5)
    with pytest.raises(PlanError, match="unit that gacfx does not know"):
        budget_bytes([0.0], [7], 0.5)


def test_operations_that_cost_next_to_nothing_beside_large_ones() -> None:
    sizes, values = [100, 100, 100], [4e15, 3e15, 1.0]
    assert keep(sizes, values, 200).choice == (KEEP, KEEP, 0)


def step(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of one step."""
    with torch.enable_grad():
        model(tokens, labels=tokens, use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Watched(gacfx.ActivationBudgetSolver):
    """Also asks torch what it would have handed to a solver of its own."""

    def __call__(self, memory: Any, graph: Any, share: Any, info: Any, nodes: Any) -> Any:
        self.nodes = nodes
        return super().__call__(memory, graph, share, info, nodes)


@pytest.mark.parametrize("share", few([0.1, 0.5], 0.5))
def test_a_step_of_training_has_the_gradients_of_eager_mode(share: float) -> None:
    tokens, want = ids(4, 32), step(tiny.llama().train(), ids(4, 32))
    solver: Any = Watched()
    settings = {"activation_memory_budget": share, "activation_memory_budget_solver": solver}
    with config.patch(settings):
        model = tiny.llama().train()
        run: Any = torch.compile(model, backend="aot_eager_decomp_partition")
        with torch.enable_grad():
            run(tokens, labels=tokens, use_cache=False).loss.backward()
    assert solver.solution is not None and solver.solution.status == "optimal"
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], rtol=0, atol=1e-6)
    times = [float(partitioners.estimate_runtime(node)) for node in solver.nodes]
    assert max(times) > 1e5, "operations of a product"
    with no_dispatch():
        assert runtimes(solver.nodes) == times, "asked inside a solver, they are the same"


def test_an_id_tells_the_solver_from_others() -> None:
    first, second = gacfx.ActivationBudgetSolver(), gacfx.ActivationBudgetSolver()
    assert first.uuid() == second.uuid() != Watched().uuid()
    assert len(first.uuid()) == 64
