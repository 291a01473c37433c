"""Passes of other people between ours: what they leave behind is used, refused or found again."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node, Transformer
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import (
    PassManager,
    pass_result_wrapper,
    this_before_that_pass_constraint,
)
from torch.fx.passes.tools_common import legalize_graph
from torch.fx.subgraph_rewriter import replace_pattern

from gacfx.core.planned import Planned
from gacfx.core.statistics import weight_digest
from gacfx.errors import PassError, PlanMismatch
from gacfx.graph import ops
from gacfx.graph.notes import Fact, facts, note, sites
from gacfx.graph.pipeline import Pipeline
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.estimate_latency import EstimateLatency
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.passes.verify.check_budget import CheckBudget
from gacfx.passes.verify.check_numerics import CheckNumerics
from tests.families.narrow import decision_of
from tests.passes.graphs import PREFILL, annotated, h200, ids, llama, net, planned, run
from tests.passes.pruning import KEPT, MLP, plan_of, prune, structure

aten = torch.ops.aten
QKV, OUT, SECOND = "layers.0.qkv", "layers.1.out", "layers.1.qkv"
NAMES = [
    *("layers.0.qkv", "layers.0", "layers.0.out"),
    *("layers.1.qkv", "layers.1", "layers.1.out", "head"),
]
"""Sites of the net, in order."""


def plan() -> Planned:
    """Ranks for two weights of the net."""
    return planned(net(), {QKV: 8, OUT: 8})


def rewrite(made: Planned) -> tuple[Any, ...]:
    return AnnotateSites(), Factorize(plan=made.plan, factors=made.factors), Clean()


def linear(gm: GraphModule, weight: str) -> Node:
    """The linear that reads a weight."""
    found = (n for n in gm.graph.nodes if n.target is aten.linear.default)
    node: Node = next(n for n in found if ops.weight_name(n.args[1]) == f"{weight}.weight")
    return node


def names(gm: GraphModule) -> list[str]:
    return [site.name for _, site in sites(gm)]


def with_values(gm: GraphModule) -> GraphModule:
    """As a pass that keeps no values is followed by one that finds them."""
    FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(ids())
    return gm


# -- under the manager -----------------------------------------------------------------------------


def scale_head(gm: GraphModule) -> PassResult:
    """Somebody's pass: twice what comes out of the head."""
    head = linear(gm, "head")
    with gm.graph.inserting_after(head):
        twice = gm.graph.call_function(aten.mul.Tensor, (head, 2))
    twice.meta["val"] = head.meta["val"] * 2
    head.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)
    return PassResult(gm, True)


def gelu_before_out(gm: GraphModule) -> PassResult:
    """Somebody's pass: an activation in front of a weight that is factorized."""
    whole = f"{OUT}.weight" in dict(gm.named_parameters())
    out = linear(gm, OUT if whole else f"{OUT}.down")
    with gm.graph.inserting_before(out):
        gelu = gm.graph.call_function(aten.gelu.default, (out.args[0],))
    gelu.meta["val"] = out.all_input_nodes[0].meta["val"]
    out.update_arg(0, gelu)
    return PassResult(gm, True)


def test_passes_of_others_may_come_first_and_last() -> None:
    ours = rewrite(plan())
    x, results = ids(), []
    for passes in (
        [scale_head, gelu_before_out, *ours],
        [*ours, scale_head, gelu_before_out],
        [ours[0], gelu_before_out, *ours[1:], scale_head],
    ):
        result = PassManager(passes, run_checks_after_each_pass=True)(net())
        assert result.modified
        results.append(result.graph_module(x))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert not torch.equal(results[0], run(net(), *ours)(x))


def test_order_constraints_between_our_passes_and_others_are_kept() -> None:
    annotate, factorize, clean = rewrite(plan())
    before = this_before_that_pass_constraint
    constraints = [
        before(annotate, factorize),
        before(factorize, scale_head),
        before(scale_head, clean),
    ]
    manager = PassManager([clean, scale_head, factorize, annotate], constraints)
    with pytest.raises(RuntimeError, match="pass schedule constraint violated"):
        manager.validate_constraints()
    manager.solve_constraints()
    assert manager.passes == [annotate, factorize, scale_head, clean]
    assert manager(net()).modified


def test_constraints_that_no_order_keeps_are_the_managers_error() -> None:
    annotate, factorize, _ = rewrite(plan())
    before = this_before_that_pass_constraint
    manager = PassManager(
        [annotate, factorize], [before(annotate, factorize), before(factorize, annotate)]
    )
    with pytest.raises(RuntimeError, match="Circular dependency"):
        manager(net())


def test_an_order_that_lacks_a_fact_is_refused_by_the_pass_that_needs_it() -> None:
    annotate, factorize, clean = rewrite(plan())
    with pytest.raises(Exception, match="'Factorize' pass") as caught:
        PassManager([factorize, annotate, clean])(net())
    assert str(caught.value.__cause__) == ("factorize: needs sites; run a pass that gives it first")


def test_a_pass_that_runs_until_nothing_changes() -> None:
    """The manager repeats its passes; those that are done must not undo or redo anything."""
    analysis = [AnnotateSites(), PredictTiers(profile=h200(), workload=PREFILL)]
    result = PassManager([*analysis, Clean()], steps=3)(net())
    assert not result.modified and Fact.TIERS in facts(result.graph_module)


# -- what survives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", [CSEPass(), pass_result_wrapper(legalize_graph)])
def test_notes_go_through_passes_that_copy_nodes(foreign: Callable[..., PassResult]) -> None:
    gm = annotated(net())
    found = foreign(gm).graph_module
    assert names(found) == NAMES and facts(found) >= {Fact.SITES, Fact.TARGETS}
    made = plan()
    want = run(net(), *rewrite(made))(ids())
    got = run(found, Factorize(plan=made.plan, factors=made.factors), Clean())(ids())
    assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")
def test_notes_go_with_a_deepcopy_and_the_original_keeps_its_own() -> None:
    gm, made = annotated(net()), plan()
    twin = copy.deepcopy(gm)
    run(twin, Factorize(plan=made.plan, factors=made.factors), Clean())
    assert names(gm) == NAMES and facts(gm) == {Fact.SITES, Fact.TARGETS}
    assert f"{QKV}.weight" in dict(gm.named_parameters())
    assert torch.equal(twin(ids()), run(net(), *rewrite(made))(ids()))


# -- what goes stale -------------------------------------------------------------------------------


def test_a_transformer_loses_values_so_that_passes_refuse_until_they_are_found_again() -> None:
    made = plan()
    gm = Transformer(annotated(net())).transform()
    assert facts(gm) == frozenset() and names(gm) == []
    with pytest.raises(PassError, match=r"^select-targets: needs sites"):
        SelectTargets()(gm)
    with pytest.raises(PassError, match=r"^annotate-sites: .* has no shape; .*FakeTensorProp"):
        AnnotateSites()(gm)
    run(with_values(gm), *rewrite(made))
    assert torch.equal(gm(ids()), run(net(), *rewrite(made))(ids()))


def test_linears_that_a_pattern_replaced_are_not_passed_over() -> None:
    """Their notes are gone, those of the others are not: a forecast would be of half the model."""
    gm = run(annotated(net()), PredictTiers(profile=h200(), workload=PREFILL))
    assert facts(gm) == {Fact.SITES, Fact.TARGETS, Fact.TIERS}

    def linear_of(x: Tensor, w: Tensor) -> Tensor:
        found: Tensor = aten.linear.default(x, w)
        return found

    def halved_twice(x: Tensor, w: Tensor) -> Tensor:
        found: Tensor = aten.mul.Tensor(aten.linear.default(aten.div.Tensor(x, 2), w), 2)
        return found

    assert len(replace_pattern(gm, linear_of, halved_twice)) == 3  # those without bias
    assert facts(gm) == frozenset()
    for step in (
        SelectTargets(),
        PredictTiers(profile=h200(), workload=PREFILL),
        EstimateLatency(profile=h200(), workload=PREFILL),
    ):
        with pytest.raises(PassError, match=f"^{step.name}: needs sites"):
            step(gm)
    made = plan()
    run(with_values(gm), *rewrite(made))
    torch.testing.assert_close(gm(ids()), run(net(), *rewrite(made))(ids()))
    assert {f"{OUT}.down", f"{QKV}.up"} <= set(names(run(gm, AnnotateSites())))


def test_a_linear_that_reads_another_weight_has_no_note_any_more() -> None:
    gm = annotated(net())
    first, second = (linear(gm, name) for name in (QKV, SECOND))
    weights = [first.args[1], second.args[1]]
    for node, weight in zip((first, second), reversed(weights), strict=True):
        assert isinstance(weight, Node)
        next(iter(gm.graph.nodes)).append(weight)
        node.update_arg(1, weight)
    gm.graph.lint()
    gm.recompile()
    assert facts(gm) == frozenset() and note(first).site is None and note(second).site is None
    made = plan()
    with pytest.raises(PassError, match="^factorize: needs sites"):
        Factorize(plan=made.plan, factors=made.factors)(gm)
    # Seen again, the plan goes by the weight, which is now read in the second layer.
    run(gm, *rewrite(made))
    want = net()
    for a, b in ((QKV, SECOND), (SECOND, QKV)):
        want.get_submodule(a).weight = net().get_submodule(b).weight
    run(want, *rewrite(planned(want, {SECOND: 8, OUT: 8})))
    assert torch.equal(gm(ids()), want(ids()))


# -- what would be wrong ---------------------------------------------------------------------------


class Twice(Transformer):
    """Every linear runs twice, and the mean of both is used."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One call as two."""
        out = super().call_function(target, args, kwargs)
        if target is not aten.linear.default:
            return out
        return (out + super().call_function(target, args, kwargs)) / 2


def test_a_weight_that_two_nodes_multiply_with_is_replaced_at_both() -> None:
    made = plan()
    gm = with_values(Twice(annotated(net())).transform())
    assert torch.equal(gm(ids()), net()(ids()))
    assert names(gm).count(QKV) == 2
    run(gm, *rewrite(made), AnnotateSites())
    assert names(gm).count(QKV) == 0 and names(gm).count(f"{QKV}.up") == 2
    torch.testing.assert_close(gm(ids()), run(net(), *rewrite(made))(ids()))


def test_a_weight_that_another_node_reads_too_is_not_replaced() -> None:
    made = plan()
    gm = annotated(net())
    weight = linear(gm, QKV).args[1]
    assert isinstance(weight, Node)
    with gm.graph.inserting_after(weight):
        gm.graph.call_function(aten.sum.default, (weight,))
    with pytest.raises(PlanMismatch, match=f"^factorize: {QKV}: 2 nodes read its weight, and 1 of"):
        Factorize(plan=made.plan, factors=made.factors)(gm)
    assert torch.equal(gm(ids()), net()(ids()))


def locked(made: Planned) -> Planned:
    """The plan with digests of the weights that it was made of, as gacfx.plan gives it."""
    gm = net()
    digests = {name: weight_digest(gm.get_parameter(f"{name}.weight")) for name in made.factors}
    made.plan.digests.update(digests)
    return made


def fold_in_place(gm: GraphModule) -> PassResult:
    """Somebody's pass: a scale goes into a weight, and its inverse where the result is read."""
    node = linear(gm, QKV)
    with torch.no_grad():
        halved = nn.Parameter(gm.get_parameter(f"{QKV}.weight") / 2, requires_grad=False)
    gm.get_submodule(QKV).weight = halved
    with gm.graph.inserting_before(node):
        twice = gm.graph.call_function(aten.mul.Tensor, (node.args[0], 2))
    twice.meta["val"] = node.all_input_nodes[0].meta["val"]
    node.update_arg(0, twice)
    gm.recompile()
    return PassResult(gm, True)


def test_factors_do_not_take_the_place_of_a_weight_that_was_changed_meanwhile() -> None:
    made = locked(plan())
    annotate, factorize, clean = rewrite(made)
    x = ids()
    assert torch.equal(fold_in_place(net()).graph_module(x), net()(x))
    with pytest.raises(Exception, match="'Factorize' pass") as caught:
        PassManager([annotate, fold_in_place, factorize, clean])(net())
    assert isinstance(caught.value.__cause__, PlanMismatch)
    assert f"{QKV}: its weight (torch.float32) is not what the factors were made of" in str(
        caught.value.__cause__
    )
    # After the factors, the pass finds no such weight; before a plan is made, all is well.
    assert PassManager([annotate, factorize, clean, scale_head])(net()).modified


def test_whoever_compared_the_weights_may_say_so() -> None:
    made = locked(plan())
    gm = run(fold_in_place(net()).graph_module, AnnotateSites())
    Factorize(locks=False, plan=made.plan, factors=made.factors)(gm)
    assert f"{QKV}.down.weight" in dict(gm.named_parameters())
    assert str(Pipeline.parse("factorize{locks=false}")) == "factorize{locks=false}"


def test_pruning_compares_the_weights_as_well() -> None:
    found = structure(MLP)
    made, gm = plan_of((found, decision_of(found, KEPT))), annotated(llama())
    cut = found.modules[0]
    weight = gm.get_parameter(f"{cut}.weight")
    made.plan.digests[cut] = weight_digest(weight)
    gm.get_submodule(cut).weight = nn.Parameter(2 * weight.detach(), requires_grad=False)
    with pytest.raises(PlanMismatch, match=f"^{cut}: its weight .* is not what the factors"):
        prune(gm, made)
    gm.get_submodule(cut).weight = weight
    prune(gm, made)
    assert gm.get_parameter(f"{cut}.weight").shape[0] == len(KEPT)


def test_our_checks_judge_what_passes_of_others_did_after_ours() -> None:
    made, x = plan(), {"ids": ids()}
    reference = run(net(), *rewrite(made))
    checks = [CheckBudget(plan=made.plan), CheckNumerics(reference=reference, inputs=x)]
    PassManager([*rewrite(made), *checks])(net())
    with pytest.raises(Exception, match="'CheckNumerics' pass") as caught:
        PassManager([*rewrite(made), scale_head, *checks])(net())
    assert "relative error 1.0e+00 against the reference" in str(caught.value.__cause__)
