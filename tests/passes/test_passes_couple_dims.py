"""couple-dims: the free sizes of the model into the state, the graph left alone."""

from gacfx.coupling.analyse import couple
from gacfx.graph.notes import Fact, drop, facts, state
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


def test_structures_come_and_go_with_the_dims() -> None:
    gm = run(llama(), CoupleDims())
    found = state(gm).structures
    assert found is not None
    assert [(each.kind, each.refused) for each in found] == [("heads", ""), ("width", "")] * 2
    drop(gm, frozenset({Fact.DIMS}))
    assert state(gm).structures is None
