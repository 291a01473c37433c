"""Values as plain JSON: dataclasses as tables, decisions with their kind."""

from dataclasses import fields, is_dataclass
from typing import Any

from gacfx.core.decision import Decision
from gacfx.core.kinds import write_decision


def plain(value: object) -> Any:
    """Tables, lists, text and numbers that stand for a value; those are returned as they are."""
    if isinstance(value, Decision):
        return write_decision(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: plain(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [plain(found) for found in value]
    return value
