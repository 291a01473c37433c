"""The command line in odd hands: closed streams, signals, empty commands, numbers without end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gacfx.cli import main
from tests import tiny

ROOT = Path(__file__).parents[3]

linux = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors of Unix")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line on the error stream of a command that fails."""
    assert main([*arguments]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@linux
def test_a_closed_output_is_no_traceback() -> None:
    command = f"'{sys.executable}' -m gacfx profiles >&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=str)
def test_a_signal_in_the_middle_of_a_write_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    # Whoever runs the tests in the background may have them ignored.
    script = f"""
import signal, sys, time
for each in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(each, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from gacfx.cli import main, verify
from gacfx.core.files.atomic import replacing_folder

def run(arguments):
    with replacing_folder(Path({str(tmp_path / "out")!r})) as folder:
        (folder / "half").touch()
        time.sleep(60)

verify.run = run
sys.exit(main(["verify", "."]))
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 30
    while not list(tmp_path.glob(".out.*/half")) and time.monotonic() < until:
        time.sleep(0.01)
    assert list(tmp_path.glob(".out.*/half"))
    worker.send_signal(number)
    _, said = worker.communicate(timeout=30)
    assert said == "gacfx verify: stopped\n"
    assert worker.returncode == 128 + number
    assert not list(tmp_path.iterdir())


def test_signals_are_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    refused(capsys, "verify", "nowhere")
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_of_an_empty_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "gacfx run: the command is empty; name one" in refused(capsys, "run", "--", "")


@pytest.mark.parametrize("number", ["100000", "9" * 20])
def test_more_threads_than_a_process_survives(
    capsys: pytest.CaptureFixture[str], number: str
) -> None:
    said = refused(capsys, "bench", "unread", "--threads", number)
    assert f"threads {number}: give a whole number, 1 to " in said


@pytest.mark.parametrize("ratio", ["1e400", "1e999999999", "1e-999999999"])
def test_a_ratio_without_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ratio: str
) -> None:
    tiny.llama().config.save_pretrained(tmp_path)
    said = refused(capsys, "plan", str(tmp_path), "--synthetic", "0.5", "--ratio", ratio)
    assert f"ratio {ratio}" in said.replace("'", "")


def test_more_budgets_than_a_sweep_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sweep = str(tmp_path / "sweep.csv")
    command = ("plan", "llama-3-8b", "--synthetic", "0.5", "--sweep", sweep, "--points")
    assert "--points 999999999: at most 10000 budgets" in refused(capsys, *command, "999999999")


def test_eval_of_logits_that_are_no_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tiny.checkpoint(tmp_path / "dense")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("1e-06", "NaN"))
    text = str(tiny.text_file(tmp_path / "t.txt"))
    for json in ([], ["--json"]):
        said = refused(capsys, "eval", str(folder), "--text", text, *json)
        assert "logits are NaN or infinite on document 1" in said
