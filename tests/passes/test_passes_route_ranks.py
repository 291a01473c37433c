"""Pools in graphs: factorize runs the static prefix, route-ranks lets the graph follow a pick."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.core.decision import Decision, LowRank
from gacfx.core.materialise import Factors
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.routed import Routed
from gacfx.core.sites import CopySite, Extent, MatmulSite
from gacfx.errors import PassError, PlanError
from gacfx.graph import edit, ops
from gacfx.graph.notes import matmuls, note, sites, state
from gacfx.graph.ops import module_stack
from gacfx.modules.install import install_
from gacfx.modules.routing_hooks import pools
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.couple_dims import CoupleDims
from gacfx.passes.analysis.estimate_latency import EstimateLatency
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.passes.rewrite.route_ranks import RouteRanks, routed_weights, set_pick
from gacfx.passes.verify.check_alignment import CheckAlignment
from gacfx.passes.verify.check_budget import CheckBudget, weight_params
from tests.passes.graphs import (
    PREFILL,
    Net,
    annotated,
    h200,
    ids,
    llama,
    model_of,
    net,
    planned,
    run,
    snapshot,
    text_of,
    with_limit,
)

QKV, OUT = "layers.0.qkv", "layers.1.out"
"""24 x 20 with a bias, 20 x 24 without."""
POOLS: dict[str, int | Decision] = {QKV: Routed(36, 12, 4, 4), OUT: Routed(24, 16, 0, 8)}
UP0, O1 = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"
LLAMA: dict[str, int | Decision] = {UP0: Routed(72, 24, 8, 8), O1: Routed(32, 16, 0, 8)}


def pooled(gm: GraphModule, asked: Mapping[str, int | Decision], *, align: int = 1) -> Planned:
    """A plan whose pools are random, as larger ones than the weight cannot be decomposed."""
    pairs = {n: d if not isinstance(d, Routed) else LowRank(2) for n, d in asked.items()}
    made = planned(gm, pairs, align=align)
    for name, decision in asked.items():
        if not isinstance(decision, Routed):
            continue
        rows, columns = gm.get_parameter(f"{name}.weight").shape
        sizes = {n: s.shape for n, s in decision.tensors(rows, columns).items()}
        tensors = {n: torch.randn(*shape) / 4 for n, shape in sizes.items()}
        made.factors[name] = Factors(decision, rows, columns, tensors)
    choices = []
    for choice in made.plan.choices:
        decision = asked[choice.group]
        choices.append(
            replace(choice, decision=decision) if isinstance(decision, Routed) else choice
        )
    plan = replace(made.plan, choices=tuple(choices))
    return Planned(with_limit(plan, plan.kept_params), made.factors)


def factorized(
    asked: Mapping[str, int | Decision] = POOLS, *, align: int = 1
) -> tuple[GraphModule, Planned]:
    gm = annotated(net())
    made = pooled(gm, asked, align=align)
    return run(gm, Factorize(plan=made.plan, factors=made.factors), Clean()), made


def routed(
    asked: Mapping[str, int | Decision] = POOLS, *, align: int = 1
) -> tuple[GraphModule, Planned]:
    gm, made = factorized(asked, align=align)
    return run(gm, RouteRanks(plan=made.plan), Clean()), made


def module_of(made: Planned) -> nn.Module:
    """The toy net with the same parameters, its linears replaced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().eval()
    model.load_state_dict(dict(net().named_parameters()))
    install_(model, made.factors)
    return model


def some(made: Planned) -> dict[str, Tensor]:
    """A pick of every pool, not in order."""
    found = routed_weights(made.plan)
    return {name: torch.randperm(each.blocks)[: each.picks] for name, each in found.items()}


def test_factorize_runs_the_prefix_as_the_module_does_to_the_last_bit() -> None:
    gm, made = factorized()
    assert torch.equal(gm(ids()), module_of(made)(ids()))
    assert gm.get_parameter(f"{QKV}.down").shape == (36, 20)
    assert gm.get_parameter(f"{QKV}.up").shape == (36, 24)
    assert gm.get_parameter(f"{QKV}.bias") is net().get_parameter(f"{QKV}.bias")
    calls = [
        (str(node.target), [path for path, _ in module_stack(node)][-1])
        for node in gm.graph.nodes
        if any(path == OUT for path, _ in module_stack(node))
    ]
    assert calls == [
        ("aten.slice.Tensor", OUT),
        ("aten.slice.Tensor", OUT),
        ("aten.linear.default", OUT),
        ("aten.numpy_T.default", OUT),
        ("aten.linear.default", OUT),
    ]


def test_without_a_pick_a_routed_graph_runs_the_prefix() -> None:
    gm, made = routed()
    assert torch.equal(gm(ids()), module_of(made)(ids()))
    for name, decision in routed_weights(made.plan).items():
        assert gm.get_buffer(f"{name}.pick").tolist() == list(range(decision.active))
    assert f"{QKV}.pick" in gm.state_dict()


def test_a_graph_follows_each_pick_as_the_module_does() -> None:
    gm, made = routed()
    model, places = module_of(made), {n: b.data_ptr() for n, b in gm.named_buffers()}
    seen = list[Tensor]()
    for _ in range(4):
        picks = some(made)
        set_pick(gm, picks, made.plan)
        for name, layer in pools(model).items():
            layer.choose(picks[name][None])
        seen.append(gm(ids()))
        assert torch.equal(seen[-1], model(ids()))
    assert not torch.equal(seen[0], seen[1])
    assert {n: b.data_ptr() for n, b in gm.named_buffers()} == places
    set_pick(gm, {OUT: some(made)[OUT]}, made.plan)
    assert gm.get_buffer(f"{QKV}.pick").tolist() == list(range(12))
    set_pick(gm, {}, made.plan)
    assert torch.equal(gm(ids()), module_of(made)(ids()))


def test_a_compiled_graph_follows_picks_without_another_compilation() -> None:
    torch._dynamo.reset()
    gm, made = routed()
    graphs = []

    def backend(inner: GraphModule, _: Any) -> Any:
        graphs.append(inner)
        return inner.forward

    compiled: Any = torch.compile(gm, backend=backend)
    for _ in range(3):
        set_pick(gm, some(made), made.plan)
        torch.testing.assert_close(compiled(ids()), gm(ids()))
    assert len(graphs) == 1


def test_the_llama_graph_with_picks_is_its_module_with_them() -> None:
    gm = annotated(llama())
    made = pooled(gm, LLAMA)
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean(), RouteRanks(plan=made.plan))
    model: Any = copy.deepcopy(model_of("llama"))
    install_(model, made.factors)
    picks = some(made)
    set_pick(gm, picks, made.plan)
    for name, layer in pools(model).items():
        layer.choose(picks[name][None])
    tokens = torch.randint(3, 90, (3, 17))
    inputs = {"input_ids": tokens}
    names = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
    found = gm(*(inputs.get(name, torch.ones_like(tokens)) for name in names))
    want = model(tokens, use_cache=False).logits
    found = found if isinstance(found, Tensor) else found[0]
    assert float((found - want).detach().norm() / want.detach().norm()) < 1e-5


# -- other passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [factorized, routed])
def test_cleaning_keeps_the_pools(form: Any) -> None:
    gm, made = form()
    before = snapshot(gm)
    assert not Clean()(gm).modified
    assert snapshot(gm) == before
    for name, decision in routed_weights(made.plan).items():
        assert len(gm.get_parameter(f"{name}.down")) == decision.pool
        with pytest.raises(AttributeError):
            gm.get_parameter(f"{name}.weight")


@pytest.mark.parametrize("form", [factorized, routed])
def test_the_budget_counts_what_is_stored(form: Any) -> None:
    gm, made = form()
    CheckBudget(plan=made.plan)(gm)
    assert weight_params(gm, QKV) == 36 * 44
    with pytest.raises(PassError, match="1 more than the limit"):
        CheckBudget(plan=with_limit(made.plan, made.plan.kept_params - 1))(gm)


@pytest.mark.parametrize("form", [factorized, routed])
def test_what_runs_and_the_block_are_aligned(form: Any) -> None:
    gm, made = form(align=4)
    CheckAlignment(plan=made.plan)(gm)
    gm, made = form(align=8)
    with pytest.raises(PassError, match="qkv: routed 12 of 36, 4 shared: 12 is no multiple of 8"):
        CheckAlignment(plan=made.plan)(gm)


@pytest.mark.parametrize("route", [False, True])
def test_sites_have_the_rank_that_runs(route: bool) -> None:
    gm = annotated(llama())
    made = pooled(gm, LLAMA)
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean())
    if route:
        run(gm, RouteRanks(plan=made.plan), Clean())
    run(gm, AnnotateSites(), SelectTargets(), PredictTiers(profile=h200(), workload=PREFILL))
    run(gm, EstimateLatency(profile=h200(), workload=PREFILL))
    sizes = {s.name: s.sizes(PREFILL) for _, s in matmuls(gm)}
    assert sizes[f"{UP0}.down"] == (1024, 48, 24)
    assert sizes[f"{UP0}.up"] == (1024, 24, 88)
    assert sizes[f"{O1}.down"] == (1024, 48, 16)
    assert sizes[f"{O1}.up"] == (1024, 16, 48)
    for node, site in sites(gm):
        if site.name.startswith((UP0, O1)) and isinstance(site, MatmulSite):
            assert [each.reason for each in note(node).refusals] == ["already factorized"]
            assert note(node).tier is not None
    gathers = {s.name: (s.m, s.elements, s.what) for _, s in sites(gm) if isinstance(s, CopySite)}
    both = ("gather", "gather")
    wanted = {UP0: (Extent(24), (48, 88), both), O1: (Extent(16), (48, 48), both)}
    assert gathers == (wanted if route else {})  # as many rows for any input


def test_coupling_follows_what_is_gathered_and_freezes_it() -> None:
    gm = annotated(llama())
    made = pooled(gm, LLAMA)
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean())
    run(gm, RouteRanks(plan=made.plan), CoupleDims())
    dims = state(gm).dims
    assert dims is not None and dims.notes == ()
    frozen = {(u.weight, u.axis) for d in dims.dims if "index_select" in d.frozen for u in d.uses}
    assert {(f"{name}.{part}", 0) for name in LLAMA for part in ("down", "up")} <= frozen


def test_a_fork_computes_the_same_and_has_its_own_graph() -> None:
    gm, made = routed()
    set_pick(gm, some(made), made.plan)
    other = edit.fork(gm)
    assert torch.equal(other(ids()), gm(ids()))


# -- refusals --------------------------------------------------------------------------------------


def test_without_factorize_it_is_refused_and_nothing_changes() -> None:
    gm = annotated(net())
    made = pooled(gm, POOLS)
    before = text_of(gm)
    message = f"route-ranks: the graph has no pool {QKV}; run factorize with this plan first"
    with pytest.raises(PassError, match=message):
        RouteRanks(plan=made.plan)(gm)
    assert text_of(gm) == before


def test_a_prefix_that_is_left_is_seen() -> None:
    gm, made = factorized()
    with pytest.raises(PassError, match="qkv still runs its static prefix"):
        RouteRanks(plan=made.plan).verify(gm)


def test_a_plan_without_pools_changes_nothing() -> None:
    gm = annotated(net())
    made = planned(gm, {QKV: 8}, dense=[OUT])
    run(gm, Factorize(plan=made.plan, factors=made.factors), Clean())
    before, want = text_of(gm), gm(ids())
    assert not RouteRanks(plan=made.plan)(gm).modified
    assert text_of(gm) == before and torch.equal(gm(ids()), want)
    set_pick(gm, {}, made.plan)


def test_other_slices_stay() -> None:
    gm, made = factorized()
    count = sum(ops.short_name(node) == "slice" for node in gm.graph.nodes)
    one = replace(made.plan, choices=made.plan.choices[:1])
    run(gm, RouteRanks(plan=one))
    assert sum(ops.short_name(node) == "slice" for node in gm.graph.nodes) == count - 2


@pytest.mark.parametrize(
    ("picks", "message"),
    [
        ({"layers.0.out": [0, 1, 2]}, "layers.0.out: the plan has no pool there"),
        ({QKV: [0, 1]}, r"qkv: \[0, 1\] are not 3 different ones of the 9 blocks"),
        ({QKV: [0, 1, 2, 3]}, "are not 3 different ones of the 9 blocks of routed 12 of 36"),
        ({QKV: [0, 1, 1]}, "are not 3 different ones"),
        ({QKV: [0, 1, 9]}, "are not 3 different ones"),
        ({QKV: [-1, 1, 2]}, "are not 3 different ones"),
        ({QKV: [[0, 1, 2]]}, "are not 3 different ones"),
        ({QKV: [8, 1, 2], OUT: [0, 3]}, r"out: \[0, 3\] are not 2 different ones of the 3"),
    ],
    ids=str,
)
def test_what_is_no_pick_is_refused_and_none_is_taken(picks: Any, message: str) -> None:
    gm, made = routed()
    before = {name: value.clone() for name, value in gm.named_buffers()}
    with pytest.raises(PlanError, match=message):
        set_pick(gm, {name: torch.tensor(found) for name, found in picks.items()}, made.plan)
    assert all(torch.equal(value, before[name]) for name, value in gm.named_buffers())


def test_a_graph_without_a_pick_to_be_set_is_refused() -> None:
    gm, made = factorized()
    with pytest.raises(PlanError, match=f"{QKV}: the graph has no pick; run route-ranks"):
        set_pick(gm, some(made), made.plan)


def test_the_weights_that_become_pools() -> None:
    _, made = factorized({**POOLS, "layers.0.out": 5})
    plan: Plan = made.plan
    assert routed_weights(plan) == POOLS
