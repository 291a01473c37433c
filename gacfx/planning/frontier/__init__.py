"""Plans for every budget at once."""

from gacfx.planning.frontier.plans import Frontier, Point, frontier
from gacfx.planning.frontier.table import Table, every_budget

__all__ = ["Frontier", "Point", "Table", "every_budget", "frontier"]
