"""sweep-candidates: legal ranks below break-even, and the dense weight, for every curve."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import GraphModule

from gacfx.core.curves import Curve
from gacfx.errors import PassError, PlanError
from gacfx.graph.notes import Fact, Refusal, facts, note, state
from gacfx.hardware.contracts import CONTRACTS
from gacfx.knapsack.limits import SameLabel
from gacfx.passes.planning.sweep_candidates import Sizes, SweepCandidates, aligned_ranks
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from tests.passes.graphs import Q0, annotated, llama, run, site_of, snapshot

K1, UP1 = "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.up_proj"


def curve(rows: int, columns: int, failed: str = "") -> Curve:
    return Curve("m", rows, columns, np.zeros(0), "two-sided", failed)


def with_curves() -> GraphModule:
    return run(annotated(llama()), SyntheticCurves())


def swept(**options: Any) -> dict[str, Sizes]:
    """The tiny Llama's candidates: 48 x 48 (break-even 23), 16 x 48 (11), 88 x 48 (31)."""
    found = state(run(with_curves(), SweepCandidates(**options))).candidates
    assert found is not None
    return found


def offered(rows: int, columns: int, wanted: float = 0.0, **options: Any) -> Sizes:
    """The candidates of one weight."""
    step = SweepCandidates(wanted={"m": wanted}, **options)
    return step.sizes(curve(rows, columns), [])[0]


def test_every_target_gets_its_candidates() -> None:
    found = swept()
    assert len(found) == 14
    assert found[Q0] == (8, 16, None)
    assert found[UP1] == (8, 16, 24, None)
    assert found[K1] == (8, None)


def test_the_unit_is_an_option() -> None:
    assert swept(align=10)[Q0] == (10, 20, None)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_candidates_are_aligned_and_save_something(rows: int, columns: int, align: int) -> None:
    ranks = aligned_ranks(curve(rows, columns), align)
    useful = [r for r in range(1, min(rows, columns) + 1) if r * (rows + columns) < rows * columns]
    assert ranks == [r for r in useful if r % align == 0]
    assert offered(rows, columns, align=align) == (*ranks, None)


def test_a_weight_whose_curve_failed_can_only_stay_dense() -> None:
    failed = curve(48, 48, failed="no calibration statistics")
    assert aligned_ranks(failed, 8) == []
    assert SweepCandidates().sizes(failed, []) == ((None,), "no calibration statistics")


def test_a_weight_too_small_for_the_unit_can_only_stay_dense() -> None:
    assert offered(48, 48, align=32) == (None,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": 0}, "align must be at least 1, not 0"),
        ({"align": -8}, "align must be at least 1, not -8"),
        ({"tp": 0}, "tp must be at least 1, not 0"),
        ({"window": -1}, "window must be at least 0, not -1"),
        ({"quant": "fp6"}, "no format 'fp6'; known: fp8, int8, int4-g128, mxfp8, nvfp4, 2:4"),
        ({"bounds": ("*.no_such=1:8",)}, r"bound \*.no_such=1:8 matches no targeted weight"),
        ({"window": 2}, "q_proj: a window needs wanted ranks; bind them"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    gm = with_curves()
    with pytest.raises(PassError, match=f"^sweep-candidates: .*{message}$"):
        SweepCandidates(**options)(gm)
    assert Fact.CANDIDATES not in facts(gm)


# -- tensor parallelism and formats --------------------------------------------------------------


def test_every_device_gets_an_aligned_part_of_the_rank() -> None:
    assert swept(align=4, tp=2)[UP1] == (8, 16, 24, None)
    assert swept(align=4, tp=3)[UP1] == (12, 24, None)


@pytest.mark.parametrize("quant", CONTRACTS)
@pytest.mark.parametrize("tp", [1, 2, 3])
def test_every_part_of_a_rank_is_legal_in_the_format(quant: str, tp: int) -> None:
    contract = CONTRACTS[quant]  # type: ignore[index]
    found = offered(4096, 4096, align=8, tp=tp, quant=quant)
    ranks = [rank for rank in found if rank is not None]
    assert ranks and found[-1] is None
    for part in (rank / tp for rank in ranks):
        assert part % 8 == part % contract.n == part % contract.k == 0


def test_a_weight_that_the_format_cannot_store_says_why_it_stays_dense() -> None:
    gm = run(with_curves(), SweepCandidates(align=1, quant="fp8"))
    found = state(gm).candidates
    assert found is not None
    assert found[Q0] == (16, None)
    assert found[UP1] == (None,)  # 88 outputs
    node, _ = site_of(gm, UP1)
    said = "fp8 cannot store it: N=88 %16==8"
    assert note(node).refusals == (Refusal("sweep-candidates", said),)
    run(gm, SweepCandidates(align=1))
    assert note(node).refusals == ()


def test_inputs_count_as_well_as_outputs() -> None:
    found = SweepCandidates(align=1, quant="fp8").sizes(curve(48, 40), [])
    assert found == ((None,), "fp8 cannot store it: K=40 %16==8")


def test_a_format_with_no_rank_below_break_even_says_what_was_asked() -> None:
    sizes, why = SweepCandidates(tp=2, quant="int4-g128").sizes(curve(256, 256), [])
    assert sizes == (None,)
    assert why == "no rank in steps of 256 (align 8, tp 2, int4-g128) is below break-even"


# -- bounds --------------------------------------------------------------------------------------


def test_bounds_hold_for_what_they_match_and_only_that() -> None:
    found = swept(bounds=("*.up_proj=16:24", "model.layers.1.*=1:16"))
    assert found[UP1] == (16,)
    assert found["model.layers.0.mlp.up_proj"] == (16, 24)
    assert found[Q0] == (8, 16, None)


def test_a_dense_weight_counts_as_its_full_rank() -> None:
    assert swept(bounds=("*.up_proj=16:",))[UP1] == (16, 24, None)
    assert swept(bounds=("*.up_proj=16:48",))[UP1] == (16, 24, None)
    assert swept(bounds=("*.up_proj=16:47",))[UP1] == (16, 24)
    assert swept(bounds=("*.up_proj=48:",))[UP1] == (None,)


def test_bounds_that_leave_nothing_name_the_weight_and_the_bound() -> None:
    gm = with_curves()
    message = (
        "sweep-candidates: model.layers.0.mlp.up_proj: no candidate is left: no rank from 8 to 24 "
        "in steps of 8 is in *.up_proj=9:15, and *.up_proj=9:15 leaves out the dense weight, of "
        "rank 48"
    )
    with pytest.raises(PassError) as caught:
        SweepCandidates(bounds=("*.up_proj=9:15",))(gm)
    assert str(caught.value) == message


def test_a_failed_weight_that_must_not_stay_dense_is_named_with_its_reason() -> None:
    gm = with_curves()
    curves = state(gm).curves
    assert curves is not None
    curves[Q0] = Curve(Q0, 48, 48, np.zeros(0), "x", "no statistics")
    with pytest.raises(PassError, match="q_proj: no candidate is left: no statistics, and"):
        SweepCandidates(bounds=("*.q_proj=8:16",))(gm)


def test_a_bound_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(PlanError, match="write PATTERN=LEAST:MOST"):
        SweepCandidates(bounds=("*.q_proj",))(with_curves())


# -- the window ----------------------------------------------------------------------------------


def test_the_window_lies_around_the_wanted_rank() -> None:
    # The example of GAC-v2: d* = 107.3.
    found = offered(4096, 4096, 107.3, window=4)
    assert found == (96, 104, 112, 120, None)
    assert offered(4096, 4096, 104.0, window=2) == (104, 112, None)
    assert offered(4096, 4096, 103.9, window=1) == (96, None)


@given(st.floats(0, 3000), st.integers(1, 40))
def test_a_window_has_its_size_wherever_it_lies(wanted: float, size: int) -> None:
    *ranks, last = offered(4096, 4096, wanted, window=size)
    assert last is None and len(ranks) == size
    every = aligned_ranks(curve(4096, 4096), 8)
    start = every.index(ranks[0] or 0)
    assert every[start : start + size] == ranks


def test_a_window_wider_than_all_ranks_holds_them_all() -> None:
    assert offered(48, 48, 20.0, window=9) == (8, 16, None)


def test_near_the_wanted_rank_the_dense_weight_is_offered_where_the_window_reaches_it() -> None:
    assert offered(48, 48, 8.0, window=2, dense=False) == (8, 16)
    assert offered(48, 48, 16.0, window=2, dense=False) == (16, None)  # break-even is 24
    assert offered(48, 48, 24.0, window=2, dense=False) == (16, None)
    assert offered(48, 48, 8.0, align=32, window=2, dense=False) == (None,)


def test_bounds_are_applied_before_the_window() -> None:
    gm = with_curves()
    module_of = dict.fromkeys(state(gm).curves or {}, 20.0)
    step = SweepCandidates(align=2, window=2, wanted=module_of, bounds=("*.q_proj=2:6",))
    found = state(run(gm, step)).candidates
    assert found is not None
    assert found[Q0] == (4, 6)
    assert found[UP1] == (20, 22, None)


# -- the protocol --------------------------------------------------------------------------------


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = with_curves()
    text, notes, held = snapshot(gm)
    assert not SweepCandidates()(gm).modified
    first = state(gm).candidates
    assert snapshot(gm) == (text, notes, held | {Fact.CANDIDATES})
    run(gm, SweepCandidates())
    assert state(gm).candidates == first


def test_what_was_said_of_old_candidates_is_void() -> None:
    gm = run(with_curves(), SweepCandidates())
    state(gm).rule(SameLabel((Q0, K1)))
    run(gm, SweepCandidates())
    assert (state(gm).limits, state(gm).rules) == ((), ())
