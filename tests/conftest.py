"""Settings of every test: offline, one thread each, and the same hypothesis examples every time."""

import gc
import os
import sys

import pytest
from hypothesis import settings

# Set before torch or transformers is imported, and inherited by the interpreters that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # what is printed would be as wide as the terminal of the day

# Compiled modules are kept in __pycache__ even where the environment says no: else every process
# of the tests, and every interpreter that they start, compiles gacfx anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("gacfx", derandomize=True, deadline=None)
settings.load_profile("gacfx")

# Warnings are errors; these are torch's own, about itself, and nothing here can avoid them.
TOLERATED = (
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",  # copying a GraphModule
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",  # importing inductor
    "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning",  # Dynamo, of that patch alone
)


def pytest_configure(config: pytest.Config) -> None:
    """Tolerate the warnings above, beside ``filterwarnings`` of pyproject.toml."""
    for line in TOLERATED:
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_finish() -> None:
    """Keep the garbage collector out of what was imported, and let it come seldom: every tenth
    second of the tests was its."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what only repeats itself, unless it is asked for."""
    if os.environ.get("EXHAUSTIVE"):
        return
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.skip(reason="make test-exhaustive runs it"))
