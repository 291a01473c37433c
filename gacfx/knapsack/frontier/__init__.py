"""Plans for every budget at once."""

from gacfx.knapsack.frontier.plans import Frontier, Point, frontier
from gacfx.knapsack.frontier.table import Table, every_budget

__all__ = ["Frontier", "Point", "Table", "every_budget", "frontier"]
