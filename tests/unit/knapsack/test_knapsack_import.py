"""Planning is integers and floats: no torch, and nothing heavy at import."""

import subprocess
import sys


def test_import_loads_no_torch() -> None:
    code = "import gacfx.knapsack, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pulp", "pydantic"} & set(done.stdout.split())
