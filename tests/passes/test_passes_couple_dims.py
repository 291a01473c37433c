"""couple-dims: the free sizes of the model into the state, the graph left alone."""

from gacfx.coupling.analyse import couple
from gacfx.graph.notes import Fact, facts, state
from gacfx.passes.analysis.couple_dims import CoupleDims
from tests.passes.graphs import llama, run, snapshot


def test_the_mlp_width_shows_in_all_three_projections() -> None:
    gm = run(llama(), CoupleDims())
    dims = state(gm).dims
    assert dims is not None
    mlp = next(d for d in dims.dims if d.size == 88)
    shown = {(u.weight.split(".")[-2], u.axis) for u in mlp.uses}
    assert shown == {("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)}
    assert not mlp.frozen


def test_it_is_the_coupling_of_the_graph() -> None:
    gm = run(llama(), CoupleDims())
    assert state(gm).dims == couple(llama())


def test_the_graph_and_its_notes_are_left_alone() -> None:
    gm = llama()
    text, notes, _ = snapshot(gm)
    assert not CoupleDims()(gm).modified
    assert snapshot(gm) == (text, notes, frozenset({Fact.DIMS}))


def test_it_needs_no_sites() -> None:
    assert CoupleDims.needs == frozenset()
    assert facts(run(llama(), CoupleDims())) == {Fact.DIMS}


def test_twice_is_once() -> None:
    gm = run(llama(), CoupleDims())
    first, before = state(gm).dims, snapshot(gm)
    run(gm, CoupleDims())
    assert state(gm).dims == first and snapshot(gm) == before
