"""``--sizes``: the sizes of a plan, or those that the method chooses by itself."""

import argparse

from gacfx.core.own_sizes import SIZES

_SEARCHED = {
    "--align": "align",
    "--value": "value",
    "--candidates": "candidates",
    "--window": "window",
    "--form": "form",
    "--prune": "prune",
    "--corrections": "corrections",
    "--solver": "solver",
    "--gap": "gap",
    "--time-limit": "time_limit",
    "--paper": "paper",
    "--quant": "quant",
    "--bound": "bound",
    "--uniform": "uniform",
    "--latency-share": "latency_share",
    "--latency-us": "latency_us",
    "--limit": "limit",
    "--sweep": "sweep",
    "--points": "points",
}
"""Option -> its attribute, of all that is about a search."""
_CURVES = {"--curves": "curves", "--synthetic": "synthetic"}


def add(group: "argparse._ArgumentGroup") -> None:
    """``--sizes``."""
    group.add_argument(
        "--sizes",
        choices=SIZES,
        default="planned",
        help="planned (default), or the method's own: as it chooses them by itself, not aligned",
    )


def problem(arguments: argparse.Namespace) -> str:
    """Why the options do not go with ``--sizes own``; empty where they do, or where sizes are
    planned."""
    if arguments.sizes != "own":
        return ""
    if said := _given(arguments, _CURVES):
        return f"--sizes own needs the model and its text; leave out {said}, or take planned"
    asked = _given(arguments, _SEARCHED)
    if arguments.tp > 1:
        asked = ", ".join(filter(None, (asked, "--tp")))
    if not asked:
        return ""
    return (
        "--sizes own takes what the method chooses by itself, and nothing is searched; leave out "
        f"{asked}, or take --sizes planned"
    )


def _given(arguments: argparse.Namespace, known: dict[str, str]) -> str:
    """Those of some options that were given."""
    return ", ".join(option for option, name in known.items() if getattr(arguments, name, None))
