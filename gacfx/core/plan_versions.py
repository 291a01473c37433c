"""Versions of ``plan.json``: those that are read, and how an old one is said today.

3   groups of weights, and a decision of any kind for each
2   one weight for each choice; its rank, or null for dense
1   refused: it has no locks on the weights
"""

from typing import Any

from gacfx.core.decision import DENSE, LowRank
from gacfx.core.kinds import write_decision

VERSION = 3
READS = (2, 3)


def upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """Version 2 as version 3; what is malformed is left for the reader to refuse."""
    choices = raw.get("choices")
    made = raw.get("provenance")
    return {
        **raw,
        "choices": list(map(_choice, choices)) if isinstance(choices, list) else choices,
        "provenance": _pairs_only(made) if isinstance(made, dict) else made,
        "version": VERSION,
    }


def _choice(raw: Any) -> Any:
    old, new = {"module", "rows", "columns", "rank"}, {"group", "weights", "decision"}
    if not isinstance(raw, dict) or not old <= raw.keys() or new & raw.keys():
        return raw
    weight = {key: raw[key] for key in ("module", "rows", "columns")}
    rest = {key: raw[key] for key in raw if key not in (*weight, "rank")}
    rank = raw["rank"]
    decision = {**write_decision(LowRank(1)), "rank": rank}
    if rank is None:
        decision = write_decision(DENSE)
    return {"group": raw["module"], "weights": [weight], "decision": decision, **rest}


def _pairs_only(made: dict[str, Any]) -> dict[str, Any]:
    """Plans of version 2 know pairs only."""
    search = made.get("search")
    return {**made, "search": {**search, "form": "pair"}} if isinstance(search, dict) else made
