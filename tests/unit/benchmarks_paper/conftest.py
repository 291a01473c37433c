"""The method of these benchmarks is known while their tests run, and to no other test."""

from collections.abc import Iterator

import pytest

from benchmarks.paper.recipes import PRUNER, GatePruner
from gacfx.compressors.methods import METHODS, register

METHODS.forget(PRUNER)
# Imports that register happen at collection, before any test; the fixture puts it back.


@pytest.fixture(autouse=True, scope="module")
def _known() -> Iterator[None]:
    register(GatePruner(PRUNER))
    yield
    METHODS.forget(PRUNER)
