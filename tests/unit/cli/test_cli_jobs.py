"""``--jobs N``: the same plan by more processes, and none of them is left behind."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from gacfx.cli import main

ROOT = Path(__file__).parents[3]


def road(narrow: Path, text: Path) -> list[str]:
    return [str(narrow), "--calibration", str(text), "--ratio", "0.3", "--align", "8", "--force"]


def test_plans_and_models_are_the_same(narrow: Path, text: Path, tmp_path: Path) -> None:
    for out, more in (("alone", ()), ("many", ("--jobs", "2"))):
        words = [*road(narrow, text), "--max-loss", "9", "--out", str(tmp_path / out), *more]
        assert main(["compress", *words]) == 0
    for name in ("model.safetensors", "plan/plan.json"):
        one, other = ((tmp_path / out / name).read_bytes() for out in ("alone", "many"))
        assert one == other
    assert not active_children()


def test_what_ends_the_work_ends_the_processes(
    narrow: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        assert active_children()
        raise KeyboardInterrupt

    monkeypatch.setattr("gacfx.compressors.methods.Method.restored", stopped)
    words = [*road(narrow, text), "--jobs", "1", "--work", str(tmp_path / "work")]
    assert main(["plan", *words]) == 130
    assert capsys.readouterr().err.splitlines() == ["gacfx plan: stopped"]
    until = time.monotonic() + 30
    while active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert not active_children()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are read from /proc")
def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "from gacfx.cli.jobs import workers\n"
        "import os, time\n"
        "if __name__ == '__main__':\n"
        "    with workers(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert lives(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while lives(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(worker)


def lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "x", "--synthetic", "0.5", "--jobs", "2"), "leave out --jobs"),
        (("plan", "--curves", "x.safetensors", "--jobs", "2"), "leave out --jobs"),
    ],
)
def test_jobs_without_work_are_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words]) == 2
    assert said in capsys.readouterr().err
