"""Solutions as JSON: nothing is lost, and what is wrong is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gacfx.errors import PlanError
from gacfx.knapsack import Limit, Problem, Solution, check, solve

PROBLEM = Problem.from_groups([([1, 2, 5], [0.1, 0.7, 0.9]), ([2, 3], [0.0, 1 / 3])], 6)
LIMITED = replace(PROBLEM, limits=(Limit("ns", 9, {"group0": np.array([1, 4, 8])}),))


@pytest.mark.parametrize("problem", [PROBLEM, LIMITED], ids=["plain", "limited"])
def test_a_round_trip_changes_nothing(problem: Problem) -> None:
    solution = solve(problem)
    again = Solution.from_json(solution.to_json())
    assert again == solution
    check(problem, again).require()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2, this gacfx reads version 1"),
        ({"status": "best"}, "status"),
        ({"choice": [0.5, 1]}, "choice.0"),
        ({"value": "1"}, "value"),
        ({"extra": 1}, "extra"),
        ({"format": "gacfx-problem"}, "format"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], words: str) -> None:
    data = json.loads(solve(PROBLEM).to_json())
    with pytest.raises(PlanError, match=f"solution file: {words}"):
        Solution.from_json(json.dumps(data | change))


def test_what_is_no_json_is_named() -> None:
    with pytest.raises(PlanError, match="solution file: not JSON"):
        Solution.from_json("{")
