"""docs/families.md, made of the results."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.tables import NONE, percent, table

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
WHOLE, RANKS, INSPECTED = "whole road", "ranks alone", "inspect only"
REFUSED, UNBUILT = "not captured", "not built"
GRADES = {
    WHOLE: "compressed by ranks and by pruning, saved, read again to the last bit, writing",
    RANKS: "as above, but not pruned",
    INSPECTED: "captured and inspected, not compressed",
    REFUSED: "torch.export or gacfx does not get a graph of it",
    UNBUILT: "transformers itself does not build or run it on tokens",
}
"""How far a type goes -> what that means."""
SAYS = {"refused": "gacfx refuses", "fault": "**fault**", "upstream": "transformers"}
"""Outcome of a step -> how it is written."""
_BY_RANKS = ("compress", "save", "load", "from_pretrained", "generate")
_MOST, _LONG = 90, 160
"""Characters of an error in the table of types, and of a kind of errors."""
_EXAMPLES = 4
_PRUNING = ("prune", "prune, read again", "heads")
_PLAIN = (
    (r"\S+ \(\w+, \w+\.py:\d+\)(?= branches on values)", "a module"),
    (r"\b[A-Z][a-z]\w+(?:ForCausalLM|Config|ForConditionalGeneration)\b", "MODEL"),
    (r"\b[a-z]\w*(?:\.\w+)*\.\d+(?:\.\w+)*", "WEIGHT"),
    (r"(?<=its code reads )\w+ \(\d+\)", "a number"),
    (r"(?<=configuration class )<.*?>", "MODEL"),
    (r"\d+(?:\.\d+)?(?:e-?\d+)?", "N"),
)
"""What differs from one type to the next, and what is written in its place."""

_HEAD = """\
# Families of models

transformers {transformers} knows {causal} types of causal language models. Each is built tiny and
random, with every kind of layer that its configuration has, and goes the road of a user: captured,
inspected, compressed by 20 %, saved, read again by gacfx and by transformers, made to write four
tokens, and compressed twice more by pruning: whatever costs least, and heads of attentions alone.
{others} models of other kinds go as far as they can. One command, an hour of one core
([results](../benchmarks/results/families.json)):

    python -m benchmarks.families                     # --types llama mamba2 for some of them

"""
_EXPERTS = """
{count} types have experts that can be told how to compute; all are told `grouped_mm`. As
transformers builds them, without being told, {same} are captured{but}.
"""
_STOPS = """
## What stops the others

Folded by kind, most types first. What gacfx refuses comes with a reason; a fault is any other
exception, or a result that is not what it has to be. Where transformers itself cannot do with the
dense model what is asked, the table says so.

"""
_KEPT = """
## What is not pruned

Coupled structures (MLPs and attentions) that stay as they are, by reason; ranks of their weights
are planned all the same.

"""
_TYPES = """
## Every type

*targeted*: share of the parameters that a plan may compress. *prunable*: coupled structures that
may be pruned, of those found. *unseen*: share of the floating point operations that no site of the
graph stands for, and who does most of them.

"""


def verdict(row: dict[str, Any]) -> str:
    """How far a type goes: one of GRADES."""
    passed = _passed(row)
    stopped = {step["name"] for step in row["steps"]} - passed
    if "build" not in passed or ("forward" in stopped and "capture" not in passed):
        return UNBUILT
    if not {"capture", "inspect"} <= passed:
        return REFUSED
    if not set(_BY_RANKS) <= passed:
        return INSPECTED
    pruned = {"dims", "prune", "prune, read again"} <= passed and "heads" not in stopped
    return WHOLE if pruned else RANKS


def _passed(row: dict[str, Any]) -> set[str]:
    return {step["name"] for step in row["steps"] if step["outcome"] == "passed"}


def stops(row: dict[str, Any]) -> dict[str, Any] | None:
    """The first step that was not passed; None where every one was."""
    steps = (step for step in row["steps"] if step["outcome"] != "passed")
    return next((step for step in steps if step["name"] != "as built"), None)


def reason(row: dict[str, Any]) -> str:
    """What stops a type, on one line; empty where nothing does."""
    step = stops(row)
    return "" if step is None else f"{step['name']}: {step['error']}"


def kind(row: dict[str, Any]) -> tuple[str, str, str] | None:
    """(step, outcome, error without names and numbers) of what stops a type."""
    step = stops(row)
    if step is None:
        return None
    at = "prune" if step["name"] in _PRUNING else step["name"]
    return at, step["outcome"], plain(step["error"], row["class"])


def plain(error: str, name: str) -> str:
    """An error without what differs from one type to the next."""
    text = error.replace(name, "MODEL")
    for found, told in _PLAIN:
        text = re.sub(found, told, text)
    return _cut(text, _LONG)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    rows: Sequence[dict[str, Any]] = results["families"]
    causal = [row for row in rows if row["causal"]]
    others = [row for row in rows if not row["causal"]]
    numbers = {"causal": len(causal), "others": len(others)}
    head = _HEAD.format(transformers=results["versions"]["transformers"], **numbers)
    parts = (grades(causal, others), experts(rows), _STOPS, kinds(rows), _KEPT, kept(rows))
    return "".join((head, *parts, _TYPES, types(rows)))


def grades(causal: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """How many go how far."""

    def count(grade: str, part: Sequence[dict[str, Any]]) -> str:
        return str(sum(verdict(row) == grade for row in part) or NONE)

    lines = [
        (grade, count(grade, causal), count(grade, others), what) for grade, what in GRADES.items()
    ]
    return table(["how far", ">causal", ">others", "what that is"], lines).markdown()


def experts(rows: Sequence[dict[str, Any]]) -> str:
    """Whether models with experts are captured as they come."""
    asked = [row for row in rows if any(step["name"] == "as built" for step in row["steps"])]
    but = [row["name"] for row in asked if {"as built", "capture"} & _passed(row) == {"capture"}]
    same = sum("as built" in _passed(row) for row in asked)
    said = f"; only when told: {', '.join(but)}" if but else ", and no other when told"
    return _EXPERTS.format(count=len(asked), same=same, but=said)


def kinds(rows: Sequence[dict[str, Any]]) -> str:
    """What stops types, folded."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if (key := kind(row)) is not None:
            found.setdefault(key, []).append(row["name"])
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        (str(len(names)), ", ".join(names), step, SAYS[outcome], error)
        for (step, outcome, error), names in ordered
    ]
    return table([">types", "which", "at", "says", "what"], lines).markdown()


def kept(rows: Sequence[dict[str, Any]]) -> str:
    """Why structures stay whole, folded."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        dims = [step.get("facts", {}) for step in row["steps"] if step["name"] == "dims"]
        for why, count in (pair for facts in dims for pair in facts.get("refusals", {}).items()):
            found.setdefault(unnamed(why), Counter())[row["name"]] += count
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        (str(len(names)), str(names.total()), why, _some(sorted(names))) for why, names in ordered
    ]
    return table([">types", ">structures", "because", "for example"], lines).markdown()


def unnamed(why: str) -> str:
    """A reason without names of weights; those of operators stay."""
    text = re.sub(r"^\w+: ", "", why)
    text = re.sub(r"(?<=those of )\w+(?:\.\w+)*", "another weight", text)
    return re.sub(r"\b(?!aten\b)(?<!\.)[a-z]\w*(?:\.\w+)+\b", "another weight", text)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def types(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each type."""
    header = ["type", "goes", ">targeted", ">prunable", ">unseen", "stopped by"]
    return table(header, [_line(row) for row in rows]).markdown()


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    facts = {step["name"]: step.get("facts", {}) for step in row["steps"]}
    dims, seen = facts.get("dims"), facts.get("inspect", {})
    step, missed = stops(row), seen.get("unseen_flops")
    share = percent(missed)
    if missed and missed < 0.005:
        share = "< 1 %"
    elif missed:
        share = f"{share}, {seen['operators'][0]}"
    return (
        row["name"],
        verdict(row),
        percent(facts.get("compress", {}).get("targeted")),
        NONE if not dims else f"{dims['may_be_pruned']} of {dims['structures']}",
        share,
        "" if step is None else _cut(f"{SAYS[step['outcome']]}: {reason(row)}", _MOST),
    )
