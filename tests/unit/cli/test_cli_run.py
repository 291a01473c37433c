"""``gacfx run``: other people's programs load gacfx folders, and their children do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gacfx.cli import main
from gacfx.cli.run import STARTUP, environment

ROOT = Path(__file__).parents[3]
FIRST = ROOT / "tests" / "fixtures" / "checkpoint-format-1"
WRAPPED = [sys.executable, "-m", "gacfx", "run", "--"]


def ran(command: list[str], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [more.pop("PYTHONPATH", "")])])
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **more},
        capture_output=True,
        text=True,
    )


LOADS = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.model.layers[0].self_attn.q_proj).__name__)
"""

STARTS_IT = """
import subprocess, sys
assert any(type(finder).__module__ == "gacfx._transformers_hook" for finder in sys.meta_path)
assert "torch" not in sys.modules
subprocess.run([sys.executable, *sys.argv[1:]], check=True)
"""


def test_item_2_a_script_of_plain_transformers_that_another_starts_loads_a_folder(
    tmp_path: Path,
) -> None:
    # That it stops without gacfx run is item 1 of unit/checkpoint/test_other_hands.py.
    (tmp_path / "loads.py").write_text(LOADS)
    (tmp_path / "starts_it.py").write_text(STARTS_IT)
    done = ran([*WRAPPED, sys.executable, "starts_it.py", "loads.py", str(FIRST)], tmp_path)
    assert (done.returncode, done.stdout) == (0, "LowRankLinear\n"), done.stderr[-2000:]


def test_item_2_the_command_keeps_its_options_its_exit_code_and_its_sitecustomize(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.mine = 'chained'\n")
    code = "import json, sys; print(json.dumps([sys.mine, 'gacfx' in sys.modules, *sys.argv[1:]]))"
    tail = [sys.executable, "-c", f"{code}; sys.exit(7)", "--help", "--", "-x"]
    # gacfx run inside gacfx run puts its folder there twice.
    done = ran([*WRAPPED, *WRAPPED, *tail], tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 7
    assert json.loads(done.stdout) == ["chained", True, "--help", "--", "-x"]
    assert done.stderr == ""


def test_item_2_a_python_without_gacfx_is_warned_and_goes_on(tmp_path: Path) -> None:
    # -P and another folder: only the start-up folder itself is found.
    env = {**os.environ, "PYTHONPATH": str(STARTUP)}
    code = "import sys; sys.modules.pop('gacfx', None); print('goes on')"
    hidden = tmp_path / "gacfx.py"
    hidden.write_text("raise ImportError('not in this one')\n")
    env["PYTHONPATH"] = os.pathsep.join([str(STARTUP), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("gacfx run: ") and line.endswith("cannot import gacfx: not in this one")


@pytest.mark.parametrize("arguments", [["run"], ["run", "--"]])
def test_item_2_no_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "gacfx run: name a command, for example: gacfx run -- python serve.py"


def test_item_2_a_command_that_is_missing_or_cannot_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("no program")
    assert main(["run", "no-such-command-here"]) == 127
    assert main(["run", "--", str(tmp_path / "text")]) == 126
    assert capsys.readouterr().err.splitlines() == [
        "gacfx run: no-such-command-here: there is no such command",
        f"gacfx run: {tmp_path / 'text'}: cannot be run: Permission denied",
    ]


def test_the_start_up_folder_stands_in_front() -> None:
    assert environment({"A": "b"}) == {"A": "b", "PYTHONPATH": str(STARTUP)}
    assert environment({"PYTHONPATH": "x"})["PYTHONPATH"] == f"{STARTUP}{os.pathsep}x"
    assert (STARTUP / "sitecustomize.py").is_file()
