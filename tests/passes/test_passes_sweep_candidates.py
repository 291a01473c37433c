"""sweep-candidates: aligned ranks below break-even, and the dense weight, for every curve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.curves import Curve
from gacfx.core.notes import Fact, facts, state
from gacfx.errors import PassError
from gacfx.passes.planning.sweep_candidates import SweepCandidates, candidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from tests.passes.graphs import Q0, annotated, llama, run, snapshot


def curve(rows: int, columns: int, failed: str = "") -> Curve:
    return Curve("m", rows, columns, np.zeros(0), "two-sided", failed)


def test_every_target_gets_its_candidates() -> None:
    gm = run(annotated(llama()), SyntheticCurves(), SweepCandidates())
    found = state(gm).candidates
    assert found is not None and len(found) == 14
    # 48 x 48: break-even is 23. 88 x 48: 31.
    assert found[Q0] == (8, 16, None)
    assert found["model.layers.1.mlp.up_proj"] == (8, 16, 24, None)
    assert found["model.layers.1.self_attn.k_proj"] == (8, None)


def test_the_unit_is_an_option() -> None:
    gm = run(annotated(llama()), SyntheticCurves(), SweepCandidates(align=10))
    found = state(gm).candidates
    assert found is not None and found[Q0] == (10, 20, None)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_candidates_are_aligned_and_save_something(rows: int, columns: int, align: int) -> None:
    *ranks, last = candidates(curve(rows, columns), align)
    assert last is None
    useful = [r for r in range(1, min(rows, columns) + 1) if r * (rows + columns) < rows * columns]
    assert ranks == [r for r in useful if r % align == 0]


def test_a_weight_whose_curve_failed_can_only_stay_dense() -> None:
    assert candidates(curve(48, 48, failed="no calibration statistics"), 8) == (None,)


def test_a_weight_too_small_for_the_unit_can_only_stay_dense() -> None:
    assert candidates(curve(48, 48), 32) == (None,)


@pytest.mark.parametrize("align", [0, -8])
def test_a_unit_below_one_is_refused(align: int) -> None:
    gm = run(annotated(llama()), SyntheticCurves())
    with pytest.raises(PassError, match=f"align must be at least 1, not {align}"):
        SweepCandidates(align=align)(gm)
    assert Fact.CANDIDATES not in facts(gm)


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = run(annotated(llama()), SyntheticCurves())
    text, notes, held = snapshot(gm)
    assert not SweepCandidates()(gm).modified
    first = state(gm).candidates
    assert snapshot(gm) == (text, notes, held | {Fact.CANDIDATES})
    run(gm, SweepCandidates())
    assert state(gm).candidates == first
