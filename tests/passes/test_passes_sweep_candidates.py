"""sweep-candidates: legal ranks below break-even, and the dense weight, for every curve."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import GraphModule

from gacfx.allocation.offers import Offers
from gacfx.core.curves import Curve
from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.offered import Candidates
from gacfx.errors import PassError, PlanError
from gacfx.graph.notes import Fact, Refusal, facts, note, state
from gacfx.hardware.contracts import CONTRACTS
from gacfx.knapsack.limits import SameLabel
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from tests.passes.graphs import Q0, annotated, llama, run, site_of, snapshot

K1, UP1 = "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.up_proj"


def curve(rows: int, columns: int, failed: str = "") -> Curve:
    return Curve("m", rows, columns, np.zeros(0), "two-sided", failed)


def with_curves() -> GraphModule:
    return run(annotated(llama()), SyntheticCurves())


def swept(form: str = "pair", **options: Any) -> dict[str, Candidates]:
    """The tiny Llama's candidates: 48 x 48 (break-even 23), 16 x 48 (11), 88 x 48 (31)."""
    found = state(run(with_curves(), SweepCandidates(form=form, **options))).candidates
    assert found is not None
    return found


def pairs(*ranks: int) -> Candidates:
    """Pairs of these ranks."""
    return tuple(map(LowRank, ranks))


def pivots(*ranks: int) -> Candidates:
    """Pivots of these ranks."""
    return tuple(map(Pivot, ranks))


def offered(rows: int, columns: int, wanted: float = 0.0, **options: Any) -> Candidates:
    """The candidates of one weight, pairs unless a form is given."""
    step = SweepCandidates(**{"form": "pair", **options})
    return step.offers().candidates(curve(rows, columns), wanted)[0]


def aligned_ranks(rows: int, columns: int, align: int) -> list[int]:
    """Multiples of ``align`` below break-even, one by one."""
    useful = [r for r in range(1, min(rows, columns) + 1) if r * (rows + columns) < rows * columns]
    return [r for r in useful if r % align == 0]


def test_every_target_gets_its_candidates() -> None:
    found = swept()
    assert len(found) == 14
    assert found[Q0] == (*pairs(8, 16), DENSE)
    assert found[UP1] == (*pairs(8, 16, 24), DENSE)
    assert found[K1] == (*pairs(8), DENSE)


def test_pivots_stand_beside_pairs_up_to_full_rank() -> None:
    found = swept("auto")
    assert found[Q0] == (*pairs(8, 16), *pivots(8, 16, 24, 32, 40), DENSE)
    assert found[UP1] == (*pairs(8, 16, 24), *pivots(8, 16, 24, 32, 40), DENSE)
    assert found[K1] == (*pairs(8), *pivots(8), DENSE)
    assert swept("pivot")[K1] == (*pivots(8), DENSE)
    assert swept("dense")[K1] == (DENSE,)


def test_the_unit_is_an_option() -> None:
    assert swept(align=10)[Q0] == (*pairs(10, 20), DENSE)
    # 48 - 10 is no multiple of 10: both parts of the short side are aligned, or there is no pivot.
    assert swept("auto", align=10)[Q0] == (*pairs(10, 20), DENSE)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_candidates_are_aligned_and_save_something(rows: int, columns: int, align: int) -> None:
    ranks = aligned_ranks(rows, columns, align)
    assert offered(rows, columns, align=align) == (*pairs(*ranks), DENSE)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_pivots_leave_an_aligned_rest_and_save_something(
    rows: int, columns: int, align: int
) -> None:
    short = min(rows, columns)
    ranks = [r for r in range(1, short) if r % align == 0 and (short - r) % align == 0]
    found = offered(rows, columns, align=align, form="pivot")
    assert found == (*pivots(*ranks), DENSE)
    assert all(each.params(rows, columns) < rows * columns for each in found[:-1])


def test_a_weight_whose_curve_failed_can_only_stay_dense() -> None:
    failed = curve(48, 48, failed="no calibration statistics")
    assert Offers().candidates(failed) == ((DENSE,), "no calibration statistics")


def test_a_weight_too_small_for_the_unit_can_only_stay_dense() -> None:
    assert offered(48, 48, align=32) == (DENSE,)
    assert offered(48, 48, align=32, form="auto") == (DENSE,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": 0}, "align must be at least 1, not 0"),
        ({"align": -8}, "align must be at least 1, not -8"),
        ({"tp": 0}, "tp must be at least 1, not 0"),
        ({"window": -1}, "window must be at least 0, not -1"),
        (
            {"form": "pivot", "tp": 2},
            "tp 2 splits ranks, and pivots cannot be split; take form 'pair'",
        ),
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
    assert swept(align=4, tp=2)[UP1] == (*pairs(8, 16, 24), DENSE)
    assert swept(align=4, tp=3)[UP1] == (*pairs(12, 24), DENSE)
    assert swept("auto", align=4, tp=2)[UP1] == (*pairs(8, 16, 24), DENSE)


@pytest.mark.parametrize("quant", CONTRACTS)
@pytest.mark.parametrize("tp", [1, 2, 3])
def test_every_part_of_a_rank_is_legal_in_the_format(quant: str, tp: int) -> None:
    contract = CONTRACTS[quant]  # type: ignore[index]
    found = offered(4096, 4096, align=8, tp=tp, quant=quant)
    ranks = [each.rank for each in found if each.rank is not None]
    assert ranks and found[-1] is DENSE
    for part in (rank / tp for rank in ranks):
        assert part % 8 == part % contract.n == part % contract.k == 0


def test_a_weight_that_the_format_cannot_store_says_why_it_stays_dense() -> None:
    gm = run(with_curves(), SweepCandidates(align=1, quant="fp8", form="pair"))
    found = state(gm).candidates
    assert found is not None
    assert found[Q0] == (*pairs(16), DENSE)
    assert found[UP1] == (DENSE,)  # 88 outputs
    node, _ = site_of(gm, UP1)
    said = "fp8 cannot store it: N=88 %16==8"
    assert note(node).refusals == (Refusal("sweep-candidates", said),)
    run(gm, SweepCandidates(align=1))
    assert note(node).refusals == ()


def test_inputs_count_as_well_as_outputs() -> None:
    found = Offers(align=1, quant="fp8").candidates(curve(48, 40))
    assert found == ((DENSE,), "fp8 cannot store it: K=40 %16==8")


def test_a_format_with_no_rank_below_break_even_says_what_was_asked() -> None:
    pair = Offers(tp=2, quant="int4-g128", kinds=("low-rank",))
    found, why = pair.candidates(curve(256, 256))
    assert found == (DENSE,)
    assert why == "no rank in steps of 256 (align 8, tp 2, int4-g128) is below break-even"


# -- bounds --------------------------------------------------------------------------------------


def test_bounds_hold_for_what_they_match_and_only_that() -> None:
    found = swept(bounds=("*.up_proj=16:24", "model.layers.1.*=1:16"))
    assert found[UP1] == pairs(16)
    assert found["model.layers.0.mlp.up_proj"] == pairs(16, 24)
    assert found[Q0] == (*pairs(8, 16), DENSE)


def test_bounds_are_on_ranks_whatever_the_form() -> None:
    found = swept("auto", bounds=("*.up_proj=16:32",))
    assert found[UP1] == (*pairs(16, 24), *pivots(16, 24, 32))


def test_a_dense_weight_counts_as_its_full_rank() -> None:
    assert swept(bounds=("*.up_proj=16:",))[UP1] == (*pairs(16, 24), DENSE)
    assert swept(bounds=("*.up_proj=16:48",))[UP1] == (*pairs(16, 24), DENSE)
    assert swept(bounds=("*.up_proj=16:47",))[UP1] == pairs(16, 24)
    assert swept(bounds=("*.up_proj=48:",))[UP1] == (DENSE,)


def test_bounds_that_leave_nothing_name_the_weight_and_the_bound() -> None:
    gm = with_curves()
    message = (
        "sweep-candidates: model.layers.0.mlp.up_proj: no candidate is left: no rank from 8 to 24 "
        "in steps of 8 is in *.up_proj=9:15, and *.up_proj=9:15 leaves out the dense weight, of "
        "rank 48"
    )
    with pytest.raises(PassError) as caught:
        SweepCandidates(form="pair", bounds=("*.up_proj=9:15",))(gm)
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
    assert found == (*pairs(96, 104, 112, 120), DENSE)
    assert offered(4096, 4096, 104.0, window=2) == (*pairs(104, 112), DENSE)
    assert offered(4096, 4096, 103.9, window=1) == (*pairs(96), DENSE)


def test_the_window_of_pivots_lies_around_the_parameters_of_the_wanted_pair() -> None:
    # 107.3 * 8192 = 879,002 parameters; pivot 104 has 841,152 and pivot 112 has 904,960.
    found = offered(4096, 4096, 107.3, window=4, form="pivot")
    assert found == (*pivots(96, 104, 112, 120), DENSE)
    # 1500 * 8192 = 12,288,000; pivot 1976 has 12,282,816 and pivot 1984 has 12,316,672.
    found = offered(4096, 4096, 1500.0, window=2, form="auto")
    assert found == (*pairs(1496, 1504), *pivots(1976, 1984), DENSE)


@given(st.floats(0, 3000), st.integers(1, 40))
def test_a_window_has_its_size_wherever_it_lies(wanted: float, size: int) -> None:
    for form in ("pair", "pivot"):
        *found, last = offered(4096, 4096, wanted, window=size, form=form)
        assert last is DENSE and len(found) == size
        every: list[Decision] = list(offered(4096, 4096, form=form)[:-1])
        start = every.index(found[0])
        assert every[start : start + size] == found


def test_a_window_wider_than_all_ranks_holds_them_all() -> None:
    assert offered(48, 48, 20.0, window=9) == (*pairs(8, 16), DENSE)


def test_near_the_wanted_rank_the_dense_weight_is_offered_where_the_window_reaches_it() -> None:
    assert offered(48, 48, 8.0, window=2, dense=False) == pairs(8, 16)
    assert offered(48, 48, 16.0, window=2, dense=False) == (*pairs(16), DENSE)  # break-even is 24
    assert offered(48, 48, 24.0, window=2, dense=False) == (*pairs(16), DENSE)
    assert offered(48, 48, 8.0, align=32, window=2, dense=False) == (DENSE,)


def test_bounds_are_applied_before_the_window() -> None:
    gm = with_curves()
    module_of = dict.fromkeys(state(gm).curves or {}, 20.0)
    step = SweepCandidates(
        align=2, form="pair", window=2, wanted=module_of, bounds=("*.q_proj=2:6",)
    )
    found = state(run(gm, step)).candidates
    assert found is not None
    assert found[Q0] == pairs(4, 6)
    assert found[UP1] == (*pairs(20, 22), DENSE)


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
