"""Solutions as JSON text, version 1. Loaded only when a solution is written or read.

    {"format": "gacfx-solution", "version": 1, "choice": [...], "cost": ..., "value": ...,
     "bound": ..., "gap": ..., "status": "optimal", "multiplier": ..., "usable_budget": ...,
     "rounding_bound": ..., "stats": {...}, "limit_multipliers": [...]}

The problem is not in it. Whoever has both checks one against the other: ``certificate.check``.
"""

import json
from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel

from gacfx.knapsack.json_text import STRICT, head, parse
from gacfx.knapsack.solution import Solution


class SolutionRecord(BaseModel):
    """The whole file."""

    model_config = STRICT

    format: Literal["gacfx-solution"]
    version: int
    choice: list[int]
    cost: int
    value: float
    bound: float
    gap: float
    status: Literal["optimal", "bounded"]
    multiplier: float
    usable_budget: int
    rounding_bound: float
    stats: dict[str, int | float] = {}
    limit_multipliers: list[float] = []


def write_solution(solution: Solution) -> str:
    """JSON text of ``solution``, lossless."""
    return json.dumps(head("solution") | asdict(solution))


def read_solution(text: str) -> Solution:
    """The solution in ``text``.

    Raises:
        PlanError: not JSON, another version, or a wrong field (named).
    """
    fields = parse(text, SolutionRecord, "solution").model_dump(exclude={"format", "version"})
    fields["choice"] = tuple(fields["choice"])
    fields["limit_multipliers"] = tuple(fields["limit_multipliers"])
    return Solution(**fields)
