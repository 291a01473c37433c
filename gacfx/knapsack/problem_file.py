"""Problems as JSON text, version 1. Loaded only when a problem is written or read.

    {"format": "gacfx-problem", "version": 1, "budget": ...,
     "costs": [[...], ...],                       each distinct cost array once
     "groups": [{"name": ..., "costs": 0, "values": [...], "labels": [...]}, ...],
     "limits": [{"name": ..., "most": ..., "costs": {group: [...], ...}}, ...],
     "implies": [{"group": ..., "labels": [...], "then_group": ..., "then_labels": [...]}, ...],
     "same_label": [[group, ...], ...]}

``costs`` of a group is its row in the table above. The last three may be absent. Python writes a
float with the fewest digits that read back as the same float, so a round trip changes nothing.
"""

import json
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel

from gacfx.errors import PlanError
from gacfx.knapsack.arrays import IntArray, cost_array, value_array
from gacfx.knapsack.json_text import STRICT, head, parse
from gacfx.knapsack.limits import Implies, Limit, Rule, SameLabel
from gacfx.knapsack.problem import Group, Problem


class GroupRecord(BaseModel):
    """One group; ``costs`` is a row of the cost table."""

    model_config = STRICT

    name: str
    costs: int
    values: list[float]
    labels: list[int | str] = []


class LimitRecord(BaseModel):
    """One further limit."""

    model_config = STRICT

    name: str
    most: int
    costs: dict[str, list[int]]


class ImpliesRecord(BaseModel):
    """One rule between two groups."""

    model_config = STRICT

    group: str
    labels: list[int | str]
    then_group: str
    then_labels: list[int | str]


class ProblemRecord(BaseModel):
    """The whole file."""

    model_config = STRICT

    format: Literal["gacfx-problem"]
    version: int
    budget: int
    costs: list[list[int]]
    groups: list[GroupRecord]
    limits: list[LimitRecord] = []
    implies: list[ImpliesRecord] = []
    same_label: list[list[str]] = []


def write_problem(problem: Problem) -> str:
    """JSON text of ``problem``; groups that share a cost array share a row."""
    row_of: dict[int, int] = {}
    table: list[list[int]] = []
    records = []
    for group in problem.groups:
        if id(group.costs) not in row_of:
            row_of[id(group.costs)] = len(table)
            table.append(group.costs.tolist())
        record: dict[str, object] = {"name": group.name, "costs": row_of[id(group.costs)]}
        record |= {"values": group.values.tolist(), "labels": list(group.labels)}
        records.append(record)
    whole = {"budget": problem.budget, "costs": table, "groups": records}
    return json.dumps(head("problem") | whole | _extras(problem))


def _extras(problem: Problem) -> dict[str, object]:
    """Limits and rules, those that there are."""
    extras = {
        "limits": [
            {"name": x.name, "most": x.most, "costs": {g: c.tolist() for g, c in x.costs.items()}}
            for x in problem.limits
        ],
        "implies": [asdict(rule) for rule in problem.rules if isinstance(rule, Implies)],
        "same_label": [list(r.groups) for r in problem.rules if isinstance(r, SameLabel)],
    }
    return {name: rows for name, rows in extras.items() if rows}


def read_problem(text: str) -> Problem:
    """The problem in ``text``.

    Raises:
        PlanError: not JSON, another version, a wrong field (named), or a malformed problem.
    """
    record = parse(text, ProblemRecord, "problem")
    rows: dict[int, IntArray] = {}
    groups = []
    for group in record.groups:
        if not 0 <= group.costs < len(record.costs):
            raise PlanError(f"group {group.name!r}: the file has no cost row {group.costs}")
        if group.costs not in rows:
            rows[group.costs] = cost_array(group.name, record.costs[group.costs])
        values = value_array(group.name, group.values)
        groups.append(Group(group.name, rows[group.costs], values, tuple(group.labels)))
    limits = [_limit(limit) for limit in record.limits]
    rules: list[Rule] = [
        Implies(x.group, tuple(x.labels), x.then_group, tuple(x.then_labels))
        for x in record.implies
    ]
    rules += [SameLabel(tuple(names)) for names in record.same_label]
    return Problem(tuple(groups), record.budget, tuple(limits), tuple(rules))


def _limit(record: LimitRecord) -> Limit:
    # Lists are allowed here; Limit makes arrays of them and names itself where they are wrong.
    costs: Any = record.costs
    return Limit(record.name, record.most, costs)
