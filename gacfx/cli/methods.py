"""``gacfx methods``: the compression methods and value models that there are, others' included."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.compressors.protocol import Compressor
    from gacfx.compressors.values import ValueModel


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "methods", "list compression methods, and what a rank can be worth", run
    )
    command.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """List both tables, with what entry points bring."""
    from gacfx.cli import screen
    from gacfx.compressors.methods import METHODS
    from gacfx.compressors.values import VALUES
    from gacfx.report.methods_view import methods_view

    methods, values = METHODS.everything(), VALUES.everything()
    if arguments.json:
        rows = {"methods": [*map(_method, methods)], "values": [*map(_value, values)]}
        print(json.dumps(rows, indent=1))
    else:
        screen.console().print(methods_view(methods, values))
    return 0


def _method(method: "Compressor") -> dict[str, Any]:
    """What the list says of a method."""
    return {
        "name": method.name,
        "minimises": method.minimises,
        "statistics": [*method.needs],
        "proxy": method.proxy,
        "kinds": list(method.all_kinds),
        "source": method.source,
    }


def _value(model: "ValueModel") -> dict[str, Any]:
    """What the list says of a value model."""
    return {
        "name": model.name,
        "in_nats": model.in_nats,
        "unit": model.unit,
        "what": model.what,
        "source": model.source,
    }
