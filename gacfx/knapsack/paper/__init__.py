"""The methods of the two GAC papers, as baselines."""

from gacfx.knapsack.paper.dp import solve_dp
from gacfx.knapsack.paper.rounding import solve_greedy, solve_rounded

__all__ = ["solve_dp", "solve_greedy", "solve_rounded"]
