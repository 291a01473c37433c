"""docs/families.md, made of the results."""

import re
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
_MOST = 110
"""Characters of an error in the table of types."""

_HEAD = """\
# Families of models

transformers {transformers} knows {causal} types of causal language models. Each is built tiny and
random, with every kind of layer that its configuration has, and goes the road of a user: captured,
inspected, compressed by 20 %, saved, read again by gacfx and by transformers, made to write four
tokens, and compressed once more with pruning. {others} models of other kinds go as far as they can.
One command, half an hour of one core ([results](../benchmarks/results/families.json)):

    python -m benchmarks.families                     # --types llama mamba2 for some of them

"""
_STOPS = """
## What stops the others

Folded by kind, most types first. What gacfx refuses comes with a reason; a fault is any other
exception, or a result that is not what it has to be. Where transformers itself cannot do with the
dense model what is asked, the table says so.

"""
_TYPES = """
## Every type

*targeted*: share of the parameters that a plan may compress. *prunable*: coupled structures that
may be pruned, of those found. *unseen*: share of the floating point operations that no site of the
graph stands for, and who does most of them. *as built*: a model with experts is captured as it
comes, without `set_experts_implementation("grouped_mm")`. Seconds are of the whole road.

"""


def verdict(row: dict[str, Any]) -> str:
    """How far a type goes: one of GRADES."""
    passed = {step["name"] for step in row["steps"] if step["outcome"] == "passed"}
    stopped = {step["name"] for step in row["steps"]} - passed
    if "build" not in passed or ("forward" in stopped and "capture" not in passed):
        return UNBUILT
    if not {"capture", "inspect"} <= passed:
        return REFUSED
    if not set(_BY_RANKS) <= passed:
        return INSPECTED
    return WHOLE if {"dims", "prune", "prune, read again"} <= passed else RANKS


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
    return step["name"], step["outcome"], plain(step["error"], row["class"])


def plain(error: str, name: str) -> str:
    """An error without what differs from one type to the next."""
    text = error.replace(name, "MODEL")
    text = re.sub(r"\b[A-Z][A-Za-z0-9]+(?:Model|ForCausalLM|Config|Generation)\b", "MODEL", text)
    text = re.sub(r"\b[a-z]\w*(?:\.\w+)*\.\d+(?:\.\w+)*", "WEIGHT", text)
    text = re.sub(r"\d+(?:\.\d+)?(?:e-?\d+)?", "N", text)
    return text if len(text) <= 2 * _MOST else f"{text[: 2 * _MOST]}..."


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    rows: Sequence[dict[str, Any]] = results["families"]
    causal = [row for row in rows if row["causal"]]
    others = [row for row in rows if not row["causal"]]
    numbers = {"causal": len(causal), "others": len(others)}
    head = _HEAD.format(transformers=results["versions"]["transformers"], **numbers)
    return "".join((head, grades(causal, others), _STOPS, kinds(rows), _TYPES, types(rows)))


def grades(causal: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """How many go how far."""
    counts = [
        [sum(verdict(row) == grade for row in part) for part in (causal, others)]
        for grade in GRADES
    ]
    lines = [
        (grade, *(str(count) if count else NONE for count in found), what)
        for (grade, what), found in zip(GRADES.items(), counts, strict=True)
    ]
    return table(["how far", ">causal", ">others", "what that is"], lines).markdown()


def kinds(rows: Sequence[dict[str, Any]]) -> str:
    """What stops types, folded."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if (key := kind(row)) is not None:
            found.setdefault(key, []).append(row["name"])
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        (str(len(names)), step, SAYS[outcome], error, ", ".join(names))
        for (step, outcome, error), names in ordered
    ]
    return table([">types", "step", "says", "what", "which"], lines).markdown()


def types(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each type."""
    header = [
        "type",
        "goes",
        ">targeted",
        ">prunable",
        ">unseen",
        "as built",
        ">s",
        "what stops it",
    ]
    return table(header, [_line(row) for row in rows]).markdown()


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    steps = {step["name"]: step for step in row["steps"]}
    facts = {name: step["facts"] for name, step in steps.items() if step["outcome"] == "passed"}
    dims, seen = facts.get("dims"), facts.get("inspect", {})
    prunable = NONE if dims is None else f"{dims['may_be_pruned']} of {dims['structures']}"
    missed = seen.get("unseen_flops")
    share = percent(missed) if missed is None or missed >= 0.005 or not missed else "< 1 %"
    by = f", {seen['operators'][0]}" if missed and missed >= 0.005 else ""
    built = steps.get("as built")
    as_built = "" if built is None else ("yes" if built["outcome"] == "passed" else "**no**")
    step = stops(row)
    why = "" if step is None else f"{SAYS[step['outcome']]}: {reason(row)}"
    why = why if len(why) <= _MOST else f"{why[:_MOST]}..."
    return (
        row["name"],
        verdict(row),
        percent(facts.get("compress", {}).get("targeted")),
        prunable,
        f"{share}{by}",
        as_built,
        f"{row['seconds']:.0f}",
        why,
    )
