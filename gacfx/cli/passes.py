"""``gacfx passes``: every pass with its facts and options, and the default pipeline."""

import argparse
import json
from dataclasses import fields
from typing import Any

from gacfx.cli import options


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(commands, "passes", "list passes and the default pipeline", run)
    command.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """List the passes and print."""
    from gacfx.graph.gacpass import show
    from gacfx.graph.pipeline import known_passes
    from gacfx.pipelines import DEFAULT

    rows: list[dict[str, Any]] = []
    for name, cls in known_passes().items():
        own = [f for f in fields(cls) if not f.metadata.get("given")]
        rows.append(
            {
                "name": name,
                "does": (cls.__doc__ or "").splitlines()[0],
                "needs": sorted(cls.needs),
                "gives": sorted(cls.gives),
                "drops": sorted(cls.drops),
                "options": {f.name.replace("_", "-"): show(f.default) for f in own},
                "bound": [f.name for f in fields(cls) if f.metadata.get("given")],
            }
        )
    if arguments.json:
        print(json.dumps({"default": DEFAULT, "passes": rows}, indent=1))
        return 0
    for row in rows:
        print(f"{row['name']}\n    {row['does']}")
        for key in ("needs", "gives", "drops", "bound"):
            if row[key]:
                print(f"    {key:<8}{', '.join(row[key])}")
        if row["options"]:
            shown = " ".join(f"{k}={v}" for k, v in row["options"].items())
            print(f"    options {{{shown}}}")
    print(f"\ndefault pipeline\n    {DEFAULT.replace(',', ',' + chr(10) + '    ')}")
    return 0
