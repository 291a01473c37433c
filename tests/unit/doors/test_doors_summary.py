"""The summary's headline: changed dims that the GPU's kernels like, of all that were changed."""

import pytest

from gacfx.core.sites import Workload
from gacfx.hardware.profile import load
from gacfx.inspection import Inspection
from gacfx.summary import is_aligned, make_side
from tests.passes.graphs import Q0, Q1, annotated, llama, planned

H200 = load("h200")


@pytest.mark.parametrize(
    ("rank", "dtype", "good"),
    [
        (1112, "bf16", True),
        (1107, "bf16", False),
        (1108, "fp32", False),  # 16 bytes in fp32, 8 in the half precision it is deployed in
        (24, "bf16", True),
        (24, "fp8", False),  # 48 bytes in bf16, 24 in fp8
        (32, "fp8", True),
    ],
)
def test_a_rank_is_aligned_in_its_own_dtype_and_in_half_precision(
    rank: int, dtype: str, good: bool
) -> None:
    assert is_aligned(rank, dtype, H200) is good


def test_changed_dims_are_counted_and_aligned_ones_among_them() -> None:
    gm = annotated(llama())
    seen = Inspection("tiny", H200, Workload(), (), 1000, gm)
    plan = planned(gm, {Q0: 16, Q1: 11}, dense=["model.layers.0.mlp.up_proj"]).plan
    side = make_side("gacfx", seen, 1.5, plan, 0)
    assert (side.aligned_dims, side.changed_dims) == (1, 2)
    assert side.targeted_params == plan.kept_params
    dense = make_side("dense", seen, 1.5, None, 77)
    assert (dense.aligned_dims, dense.changed_dims, dense.targeted_params) == (0, 0, 77)
