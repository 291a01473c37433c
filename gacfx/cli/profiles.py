"""``gacfx profiles``: the GPUs that gacfx knows, how well, and where each constant comes from."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gacfx.cli import options

if TYPE_CHECKING:
    from gacfx.hardware.profile import Profile


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = options.add_command(
        commands, "profiles", "list the GPUs that gacfx knows, and how well it knows them", run
    )
    command.add_argument("name", nargs="?", help="one profile, with the source of every constant")
    command.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """List, or show one."""
    from gacfx.cli import screen
    from gacfx.hardware import profile as profiles
    from gacfx.report.profiles_view import profile_view, profiles_view

    if arguments.name is not None:
        one = profiles.load(arguments.name)
        if arguments.json:
            print(json.dumps(_whole(one), indent=1))
        else:
            screen.console().print(profile_view(one))
        return 0
    # Those that are known better come first.
    found = sorted(map(profiles.load, profiles.names()), key=lambda p: p.evidence == "vendor")
    if arguments.json:
        print(json.dumps([_row(profile) for profile in found], indent=1))
    else:
        screen.console().print(profiles_view(found))
    return 0


def _row(profile: "Profile") -> dict[str, Any]:
    """What the list says of a profile."""
    usual = profile.usual_dtype
    return {
        "name": profile.name,
        "device": profile.device,
        "compute_capability": list(profile.compute_capability),
        "sms": profile.sms,
        "dtype": usual,
        "peak_tflops": profile.peak_for(usual),
        "bandwidth_gbps": profile.bandwidth_gbps,
        "rank_step": profile.align_for(usual),
        "known": profile.known,
        "measured_entries": len(profile.measured),
    }


def _whole(profile: "Profile") -> dict[str, Any]:
    """That and every constant with its source."""
    from gacfx.hardware.constants import constants

    found = [asdict(one) for one in constants(profile)]
    return _row(profile) | {"constants": found}
