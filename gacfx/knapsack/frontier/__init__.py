"""Plans for every budget at once."""

from gacfx.knapsack.frontier.plans import Frontier, Point, frontier

__all__ = ["Frontier", "Point", "frontier"]
