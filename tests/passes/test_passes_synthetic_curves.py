"""synthetic-curves: made-up curves that fall from rank 0 to nothing, the same for the same seed."""

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from gacfx.graph.notes import Fact, state
from gacfx.passes.planning.synthetic_curves import SyntheticCurves, tail
from tests.passes.graphs import annotated, llama, run, snapshot


def losses(gm: GraphModule) -> dict[str, NDArray[np.float64]]:
    curves = state(gm).curves
    assert curves is not None
    return {name: curve.loss_nats for name, curve in curves.items()}


def test_every_target_gets_a_curve_that_falls_to_zero() -> None:
    gm = run(annotated(llama()), SyntheticCurves())
    found = losses(gm)
    assert len(found) == 14
    assert {len(loss) for loss in found.values()} == {16 + 1, 48 + 1}
    for loss in found.values():
        assert (np.diff(loss) < 0).all() and loss[-1] == 0.0


def test_weights_differ_in_importance() -> None:
    found = losses(run(annotated(llama()), SyntheticCurves()))
    assert len({loss[0] for loss in found.values()}) == 14


def test_without_spread_all_are_equally_important() -> None:
    found = losses(run(annotated(llama()), SyntheticCurves(spread=0.0)))
    assert {loss[0] for loss in found.values()} == {1e-2}


def test_a_steeper_spectrum_leaves_less_behind() -> None:
    assert (tail(64, 1.0)[1:-1] < tail(64, 0.2)[1:-1]).all()
    assert tail(64, 1.0)[0] == 1.0 and tail(64, 1.0)[-1] == 0.0


def test_the_seed_decides() -> None:
    gm = annotated(llama())
    first = losses(run(gm, SyntheticCurves(seed=1)))
    again = losses(run(gm, SyntheticCurves(seed=1)))
    other = losses(run(gm, SyntheticCurves(seed=2)))
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not any(np.array_equal(first[n], other[n]) for n in first)


def test_the_graph_and_its_notes_are_left_alone() -> None:
    gm = annotated(llama())
    text, notes, held = snapshot(gm)
    assert not SyntheticCurves()(gm).modified
    assert snapshot(gm) == (text, notes, held | {Fact.CURVES})
