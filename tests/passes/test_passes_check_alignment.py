"""check-alignment: reads the ranks from the weights, never from notes or plan."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from gacfx.core.planned import Planned
from gacfx.errors import PassError, PipelineError
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.passes.verify.check_alignment import CheckAlignment
from tests.passes.graphs import annotated, net, planned, run, snapshot

QKV, OUT = "layers.0.qkv", "layers.1.out"


def rewritten(ranks: dict[str, int], align: int) -> tuple[GraphModule, Planned]:
    gm = annotated(net())
    made = planned(gm, ranks, dense=("layers.0.out",), align=align)
    return run(gm, Factorize(plan=made.plan, factors=made.factors)), made


def test_aligned_ranks_pass_and_nothing_is_changed() -> None:
    gm, made = rewritten({QKV: 8, OUT: 16}, 8)
    before = snapshot(gm)
    step = CheckAlignment(plan=made.plan)
    assert not step(gm).modified
    assert not step(gm).modified
    assert snapshot(gm) == before


def test_a_rank_that_does_not_fit_is_named() -> None:
    gm, made = rewritten({QKV: 8, OUT: 12}, 8)
    with pytest.raises(
        PassError, match="^check-alignment: layers.1.out: rank 12: 12 is no multiple of 8$"
    ):
        CheckAlignment(plan=made.plan)(gm)


def test_the_plan_says_which_multiple() -> None:
    gm, made = rewritten({QKV: 8, OUT: 12}, 4)
    CheckAlignment(plan=made.plan)(gm)
    stricter = replace(made.plan, provenance=replace(made.plan.provenance, align=16))
    with pytest.raises(PassError, match="layers.0.qkv: rank 8: 8 is no multiple of 16"):
        CheckAlignment(plan=stricter)(gm)


def test_weights_count_and_not_what_the_plan_claims() -> None:
    gm, made = rewritten({QKV: 8}, 8)
    gm.get_submodule(f"{QKV}.down").weight = nn.Parameter(torch.ones(7, 20))
    with pytest.raises(
        PassError, match=r"qkv.down.weight is \[7, 20\]; the plan says rank 8, \[8, 20\]"
    ):
        CheckAlignment(plan=made.plan)(gm)


def test_a_graph_without_the_factors_fails() -> None:
    _, made = rewritten({QKV: 8}, 8)
    with pytest.raises(
        PassError,
        match="^check-alignment: the graph has no layers.0.qkv.down.weight; the plan says",
    ):
        CheckAlignment(plan=made.plan)(net())


def test_without_a_plan_it_says_what_to_bind() -> None:
    with pytest.raises(PipelineError, match="^check-alignment needs plan"):
        CheckAlignment()(net())
