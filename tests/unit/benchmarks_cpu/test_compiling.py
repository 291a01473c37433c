"""benchmarks/compiling.py: plans of experts are compiled as well."""

import pytest
import torch

from benchmarks import compiling
from tests.families.zoo import FAMILIES


@pytest.mark.parametrize("name", ["mixtral", "opt"])
def test_a_compiled_plan_computes_what_the_applied_one_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "ROUNDS", {"eager": 1})
    with torch.no_grad():
        (found,) = compiling.differences(FAMILIES[name])
    assert found.largest == 0 and found.moved > 0.01 * found.logit
    assert found.decisions > 0
