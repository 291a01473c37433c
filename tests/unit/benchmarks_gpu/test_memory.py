"""Peaks that benchmarks report are of the process itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import peak_gib

ROOT = Path(__file__).parents[3]
MORE = 2**28


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells the peak itself")
def test_a_process_that_a_large_one_started_tells_its_own_peak() -> None:
    before = peak_gib()
    memory = bytearray(MORE)
    memory[::4096] = b"1" * (MORE // 4096)
    assert peak_gib() >= MORE / 2**30
    assert peak_gib() >= before
    code = "from benchmarks.memory import peak_gib; print(peak_gib())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0 < float(done.stdout) < 0.2
