"""Which activations a training step keeps and which it computes again: an exact choice.

    torch._functorch.config.activation_memory_budget = 0.5
    torch._functorch.config.activation_memory_budget_solver = gacfx.ActivationBudgetSolver()

torch.compile lists the activations that may be kept, with bytes and with the time that computing
them again would take, and asks a solver which of them to keep within the budget. Its own solvers
round sizes to 1/10,000 of the budget (``dp``), take them by value (``greedy``) or need scipy
(``ilp``). Here each node is a group of two candidates, and the answer is proven.
"""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomKnapsackSolver
from torch.fx import Graph, Node

from gacfx.dynamo.sources import source_digest
from gacfx.errors import PlanError
from gacfx.knapsack.amounts import PrecisionWarning
from gacfx.knapsack.problem import Problem
from gacfx.knapsack.solution import Solution
from gacfx.knapsack.solver import solve

KEEP = 1
"""Index of the candidate that keeps an activation; the other one computes it again."""


class ActivationBudgetSolver(CustomKnapsackSolver):
    """A solver for ``torch._functorch.config.activation_memory_budget_solver``.

    Runtimes are those of ``activation_memory_budget_runtime_estimator``, asked once more, as torch
    hands over none; the estimator ``profile`` measures each of them a second time.
    """

    def __init__(self) -> None:
        self.solution: Solution | None = None
        """Of the graph that was compiled last, in bytes and units of the estimator."""

    def __call__(
        self,
        memory: list[float],
        joint_graph: Graph,
        max_memory: float,
        node_info: Any,
        all_recomputable_banned_nodes: list[Node],
    ) -> tuple[list[int], list[int]]:
        """(nodes to keep, nodes to compute again), by their place in the list.

        Args:
            memory: bytes of each node, divided by those that a budget of 1 has.
            joint_graph: of a training step.
            max_memory: the budget, 0 to 1.
            node_info: what torch knows of the graph.
            all_recomputable_banned_nodes: to choose from.

        Raises:
            PlanError: memory is in another unit.
        """
        from torch._functorch.partitioners import _size_of

        del joint_graph, node_info
        nodes = all_recomputable_banned_nodes
        sizes = [_size_of(node) for node in nodes]
        self.solution = keep(sizes, runtimes(nodes), budget_bytes(memory, sizes, max_memory))
        kept = [at for at, chosen in enumerate(self.solution.choice) if chosen == KEEP]
        return kept, sorted(set(range(len(nodes))).difference(kept))

    def uuid(self) -> str:
        """Tells caches this solver from others, and from itself after a change of gacfx."""
        return sha256(f"{type(self).__name__} {source_digest()}".encode()).hexdigest()


def keep(sizes: Sequence[int], values: Sequence[float], budget: int) -> Solution:
    """The most valuable activations that fit, proven; its value is that of :func:`problem_of`.

    Args:
        sizes: bytes of each.
        values: time that keeping it saves, any unit.
        budget: bytes.
    """
    with warnings.catch_warnings():
        # Beside 10^14 operations of a product, the 1 of what costs next to nothing is no value.
        warnings.simplefilter("ignore", PrecisionWarning)
        return solve(problem_of(sizes, values, budget))


def problem_of(sizes: Sequence[int], values: Sequence[float], budget: int) -> Problem:
    """A group for each node: computed again, or kept for its value less next to nothing.

    Of choices that save as much time, the one of the fewest nodes is taken: the minimum cut that
    follows stores around each, and around many small ones more. Where values are whole numbers,
    what is taken off all nodes together is less than 1, so that no choice of less value wins.
    """
    whole = all(float(value).is_integer() for value in values)
    least = 1.0 if whole else 1e-6 * min(value for value in values if value > 0)
    nothing = least / (len(values) + 1)
    pairs = [([0, size], [0.0, value - nothing]) for size, value in zip(sizes, values, strict=True)]
    return Problem.from_groups(pairs, budget)


def budget_bytes(memory: Sequence[float], sizes: Sequence[int], share: float) -> int:
    """Bytes that may be kept: the share of what a budget of 1 has, rounded down.

    torch divides bytes by that number and does not say which it is. It is a whole one, found from
    the largest node and checked with all others; the sizes themselves are not rounded.

    Raises:
        PlanError: the shares are not those of the sizes.
    """
    if not any(sizes):
        return 0
    size, part = max(zip(sizes, memory, strict=True))
    whole = round(size / part) if part > 0 else 0
    if any(abs(part * whole - size) >= 0.5 for size, part in zip(sizes, memory, strict=True)):
        raise PlanError(
            f"torch {torch.__version__} counts activations in a unit that gacfx does not know; "
            "take another activation_memory_budget_solver"
        )
    return int(Fraction(repr(float(share))) * whole)


def runtimes(nodes: Sequence[Node]) -> list[float]:
    """What computing each node again takes, as torch estimates it.

    A solver is asked while nothing is dispatched to Python, where torch would count no operation.
    """
    from torch._functorch.partitioners import estimate_runtime

    key = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(key.Python, False),
        torch._C._SetExcludeDispatchKeyGuard(key.PythonTLSSnapshot, False),
    ):
        return [float(estimate_runtime(node)) for node in nodes]
