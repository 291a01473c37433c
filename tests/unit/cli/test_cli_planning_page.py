"""docs/planning.md: every command can be read, and every block on made-up curves runs."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from gacfx.cli import curves, made, options, parser
from gacfx.graph.gacpass import PASSES
from gacfx.passes.planning.limiting import limiting_passes
from gacfx.tracing import skeleton

PAGE = Path(__file__).parents[3] / "docs" / "planning.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    gacfx (plan .*?)(?: {2,}.*)?$", TEXT, re.MULTILINE)
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    if "plan_synthetic" in block  # the others need a model, or a file that a command wrote
]


def test_the_page_has_commands_and_blocks() -> None:
    assert len(COMMANDS) >= 7 and len(BLOCKS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_is_shown_for(command: str) -> None:
    command, _, _ = command.partition(" > ")
    arguments = parser().parse_args(shlex.split(command))
    curves.check(arguments)
    made.check(arguments)
    search = options.search_of(arguments)
    said = {options.goal_of(arguments).amount, *map(str, search.bounds), *search.limits}
    for option in ("--ratio", "--params", "--bytes", "--bound", "--limit"):
        if f"{option} " in command:
            assert shlex.split(command)[shlex.split(command).index(option) + 1] in said
    assert len(search.limits) == command.count("--latency") + command.count("--limit ")
    for limit in search.limits:
        assert limiting_passes((limit,))
        assert f"mode={arguments.mode}" in limit or "--limit" in command


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled = Path(skeleton.__file__).parent / "configs" / "llama-3-8b.json"
    config = {**json.loads(bundled.read_text()), "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = BLOCKS[number].replace("llama-3-8b", str(tmp_path)).replace("6.5G", "1.4G")
    (tmp_path / "block.py").write_text(code)
    try:
        runpy.run_path(str(tmp_path / "block.py"))
    finally:
        for name in ("tie-gate-and-up", "up-needs-gate"):
            PASSES.pop(name, None)
    assert "optimal" in capsys.readouterr().out
