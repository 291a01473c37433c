"""For every ratio and alignment: each changed dim is aligned and no parameter is over budget."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gacfx.api import load_profile, read_calibration, verify
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.errors import InfeasibleBudget
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")


@cache
def study() -> Study:
    """Sizes at which even ranks in steps of 32 are below break-even."""
    model = tiny.llama(hidden=256, width=704, layers=1)
    return Study.make(model, read_calibration(tiny.texts(), model, tiny.tokenizer()))


def search(align: int) -> Search:
    """Ranks in steps of ``align``, worth what the second-order model says."""
    return Search(align=align, value="two-sided")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(50, 600), st.sampled_from((8, 16, 32)))
def test_changed_dims_are_aligned_and_the_budget_is_kept(thousandths: int, align: int) -> None:
    ratio = f"{thousandths / 1000:.3f}"
    planned = study().plan(ratio, profile=PROFILE, search=search(align))
    ranks = planned.plan.ranks
    assert ranks
    assert all(r % align == 0 for r in ranks.values())
    dense = sum(c.rows * c.columns for c in planned.plan.choices)
    kept = sum(
        f.tensors["down"].numel() + f.tensors["up"].numel() for f in planned.factors.values()
    ) + sum(c.rows * c.columns for c in planned.plan.choices if c.rank is None)
    assert 1000 * kept <= (1000 - thousandths) * dense


@pytest.mark.parametrize("align", [8, 16, 32])
def test_rewritten_graph_passes_its_own_checks(align: int) -> None:
    planned = study().plan("0.4", profile=PROFILE, search=search(align))
    seen = verify(study(), planned, PROFILE, Workload(seq=64))
    assert sum(r.name.endswith(".down") for r in seen.rows) == len(planned.plan.ranks)


def test_more_than_can_be_removed_is_refused() -> None:
    with pytest.raises(InfeasibleBudget, match="largest reachable ratio"):
        study().plan("0.999", profile=PROFILE, search=search(32))
