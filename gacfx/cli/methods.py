"""``gacfx methods``: the compression methods and value models that there are, others' included.

gacfx methods            both lists
gacfx methods asvd       one method in full: settings, its own ranks, claims of its paper
"""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.compressors.protocol import Compressor
    from gacfx.compressors.values import ValueModel
    from gacfx.compressors.whole import WholeMethod


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "methods", "list compression methods, and what a rank can be worth", run
    )
    command.add_argument(
        "name", nargs="?", metavar="NAME", help="one method in full, as asvd or asvd:alpha=0.3"
    )
    command.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """List both tables, with what entry points bring, or show one method.

    Raises:
        PipelineError: there is no method of that name, or with these settings.
    """
    from gacfx.cli import screen
    from gacfx.compressors.methods import METHODS
    from gacfx.compressors.values import VALUES
    from gacfx.compressors.whole import WHOLE
    from gacfx.report.method_view import method_view, whole_view
    from gacfx.report.methods_view import methods_view

    if arguments.name in WHOLE:
        whole = WHOLE[arguments.name]
        if arguments.json:
            print(json.dumps(_whole(whole), indent=1))
        else:
            screen.console().print(whole_view(whole))
        return 0
    if arguments.name is not None:
        method = METHODS.find(arguments.name)
        if arguments.json:
            print(json.dumps(_method(method), indent=1))
        else:
            screen.console().print(method_view(method))
        return 0
    methods, values = METHODS.everything(), VALUES.everything()
    if arguments.json:
        rows = {
            "methods": [*map(_method, methods)],
            "whole": [*map(_whole, WHOLE.values())],
            "values": [*map(_value, values)],
        }
        print(json.dumps(rows, indent=1))
    else:
        screen.console().print(methods_view(methods, values, tuple(WHOLE.values())))
    return 0


def _method(method: "Compressor") -> dict[str, Any]:
    """All that is known of a method."""
    from gacfx.core.settings import settings_of

    return {
        "name": method.name,
        "minimises": method.minimises,
        "statistics": [*method.needs],
        "proxy": method.proxy,
        "kinds": list(method.all_kinds),
        "source": method.source,
        "allocates": method.allocates,
        "leaves": list(method.leaves),
        "settings": [asdict(setting) for setting in settings_of(method)],
        "claims": [{**asdict(claim), "command": claim.command or None} for claim in method.claims],
    }


def _whole(method: "WholeMethod") -> dict[str, Any]:
    """All that is known of a method with a door of its own."""
    claims = [{**asdict(claim), "command": claim.command or None} for claim in method.claims]
    return {**asdict(method), "claims": claims}


def _value(model: "ValueModel") -> dict[str, Any]:
    """What the list says of a value model."""
    return {
        "name": model.name,
        "in_nats": model.in_nats,
        "unit": model.unit,
        "what": model.what,
        "source": model.source,
    }
