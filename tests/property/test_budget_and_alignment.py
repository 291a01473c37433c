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


def search(align: int, form: str = "auto") -> Search:
    """Sizes in steps of ``align``, worth what the second-order model says."""
    return Search(align=align, value="two-sided", form=form)


FORMS = ("pair", "pivot", "auto")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(50, 600), st.sampled_from((8, 16, 32)), st.sampled_from(FORMS))
def test_changed_dims_are_aligned_and_the_budget_is_kept(
    thousandths: int, align: int, form: str
) -> None:
    ratio = f"{thousandths / 1000:.3f}"
    planned = study().plan(ratio, profile=PROFILE, search=search(align, form))
    plan = planned.plan
    assert plan.decisions and planned.factors.keys() == plan.decisions.keys()
    stored = [
        tensor
        for factors in planned.factors.values()
        for tensor in factors.tensors.values()
        if tensor.is_floating_point()
    ]
    # The dims of the dense weights, 64 to 704, are multiples of 32 too.
    assert all(size % align == 0 for tensor in stored for size in tensor.shape)
    dense = sum(c.dense_params for c in plan.choices)
    kept = sum(tensor.numel() for tensor in stored)
    kept += sum(c.dense_params for c in plan.choices if c.decision.is_dense)
    assert 1000 * kept <= (1000 - thousandths) * dense


@pytest.mark.parametrize(("align", "form"), [(8, "auto"), (16, "pair"), (32, "pivot")])
def test_rewritten_graph_passes_its_own_checks(align: int, form: str) -> None:
    planned = study().plan("0.4", profile=PROFILE, search=search(align, form))
    seen = verify(study(), planned, PROFILE, Workload(seq=64))
    kinds = [decision.kind for decision in planned.plan.decisions.values()]
    assert kinds
    for kind, name in (("low-rank", ".down"), ("pivot", ".product")):
        assert sum(row.name.endswith(name) for row in seen.rows) == kinds.count(kind)


def test_more_than_can_be_removed_is_refused() -> None:
    with pytest.raises(InfeasibleBudget, match="largest reachable ratio"):
        study().plan("0.999", profile=PROFILE, search=search(32))
