"""Commands that pages show can be read, and what they link to is there."""

import re
import shlex
from pathlib import Path

import pytest

from gacfx.calibration.sanity import WORSE_THAN_GUESSING_NATS
from gacfx.calibration.text import DEFAULT_WINDOWS, MIN_TOKENS
from gacfx.cli import parser
from gacfx.core import names
from gacfx.core.config_json import MAX_BYTES, MAX_COUNT, MAX_MODULES, MAX_SIZE
from gacfx.core.rise import MAX_LOSS_NATS

ROOT = Path(__file__).parents[3]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
COMMANDS = [
    (page, command)
    for page in PAGES
    for command in re.findall(
        r"^    gacfx (.+?)(?: {2,}.*)?$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE
    )
]
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
]


def test_the_pages_have_commands_and_links() -> None:
    assert {"README.md", "docs/planning.md", "docs/file-format.md"} <= {
        page for page, _ in COMMANDS
    }
    assert len(COMMANDS) > 25 and len(LINKS) > 20
    named = {command.split()[0] for page, command in COMMANDS if page == "README.md"}
    assert named >= {"inspect", "plan", "compress", "verify", "eval", "bench", "profiles", "run"}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_can_be_read(page: str, command: str) -> None:
    shown, _, _ = command.partition(" > ")
    told = shown.replace("compress MODEL ... ", "compress MODEL --calibration texts.jsonl ")
    arguments = parser().parse_args(shlex.split(told))
    assert arguments.command == command.split()[0]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    assert ((ROOT / page).parent / link).exists()


def test_the_bounds_of_files_are_those_that_their_page_says() -> None:
    said = " ".join((ROOT / "docs/file-format.md").read_text(encoding="utf-8").split())
    assert (
        f"at most {names.MOST_NAME} characters; other texts have at most {names.MOST_TEXT}" in said
    )
    power, mib = MAX_SIZE.bit_length() - 1, MAX_BYTES / 2**20
    sizes = f"over {MAX_COUNT:,} layers, 2^{power} features"
    assert f"{sizes}, {MAX_MODULES:,} compressed layers, {mib:g} MiB" in said


def test_the_limits_of_losses_are_those_that_their_page_says() -> None:
    said = " ".join((ROOT / "docs/planning.md").read_text(encoding="utf-8").split())
    assert f"rises by more than {MAX_LOSS_NATS:g} nat per token" in said
    assert f"above ln(vocabulary) + {WORSE_THAN_GUESSING_NATS:g}" in said
    assert f"under {MIN_TOKENS} tokens are left out" in said
    assert "256 windows of it" in said and DEFAULT_WINDOWS == 256
