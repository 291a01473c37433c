"""The pass protocol: facts, errors that name the pass, rewrites that settle, torch.fx's manager."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import (
    PassManager,
    pass_result_wrapper,
    this_before_that_pass_constraint,
)

from gacfx.errors import PassError, PipelineError, UnsupportedModel
from gacfx.graph import edit, gacpass, ops
from gacfx.graph.gacpass import GacPass, given, register
from gacfx.graph.notes import Fact, annotate, facts, sites, state
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from tests.passes.graphs import PREFILL, annotated, h200, ids, net, planned, run, site_of

aten = torch.ops.aten
Work = Callable[[GraphModule], bool]


@dataclass(frozen=True)
class Does(GacPass):
    """Does what it is told."""

    name = "does"

    work: Work = given()

    def run(self, gm: GraphModule) -> bool:
        return self.work(gm)


def double_head(gm: GraphModule) -> bool:
    """Put ``2 *`` after the head, through a node whose meta is empty."""
    head = next(n for n in gm.graph.nodes if ops.weight_name(n) is None and n.name == "linear_4")
    with gm.graph.inserting_after(head):
        twice = gm.graph.call_function(aten.mul.Tensor, (head, 2))
    head.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)
    return True


# -- facts ---------------------------------------------------------------------------------------


def test_a_missing_fact_is_named_with_the_pass() -> None:
    with pytest.raises(PassError, match="^select-targets: needs sites; run a pass that gives it"):
        SelectTargets()(net())


def test_a_pass_that_breaks_its_promise_is_named() -> None:
    @dataclass(frozen=True)
    class Empty(Does):
        name = "empty"
        gives = frozenset({Fact.SITES, Fact.PLAN})

    with pytest.raises(PassError, match="^empty: ran, but did not give plan, sites$"):
        Empty(lambda gm: False)(net())


def test_dropped_facts_are_gone_after_the_pass_but_what_it_gives_stays() -> None:
    @dataclass(frozen=True)
    class Drops(Does):
        name = "drops"
        gives = frozenset({Fact.SITES})
        drops = frozenset({Fact.SITES, Fact.TARGETS})

    gm = annotated(net())
    Drops(lambda gm: False)(gm)
    assert facts(gm) == {Fact.SITES}


def test_an_unbound_field_is_an_error_that_says_how_to_bind_it() -> None:
    gm = annotated(net())
    with pytest.raises(PipelineError, match=r"^predict-tiers needs profile, workload; .*bind\(pro"):
        PredictTiers()(gm)
    with pytest.raises(PipelineError, match=r"^predict-tiers needs workload; "):
        PredictTiers(profile=h200())(gm)
    PredictTiers(profile=h200(), workload=PREFILL)(gm)


# -- errors --------------------------------------------------------------------------------------


def fail(error: Exception) -> Work:
    def work(gm: GraphModule) -> bool:
        raise error

    return work


def test_any_failure_becomes_an_error_that_names_the_pass() -> None:
    with pytest.raises(PassError, match="^does: KeyError: 'x'$") as caught:
        Does(fail(KeyError("x")))(net())
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_on_purpose_is_passed_on_as_it_is() -> None:
    error = UnsupportedModel("q_proj: shared")
    with pytest.raises(UnsupportedModel) as caught:
        Does(fail(error))(net())
    assert caught.value is error


def test_a_failed_pass_is_not_in_the_log() -> None:
    gm = net()
    with pytest.raises(PassError):
        Does(fail(ValueError("no")))(gm)
    assert state(gm).log == []


def test_passes_that_ran_are_in_the_log_as_text() -> None:
    gm = run(net(), AnnotateSites(), SelectTargets(skip=("*.out", "*.qkv")))
    assert state(gm).log == ["annotate-sites", "select-targets{skip=*.out;*.qkv}"]


def test_verify_sees_the_result_and_not_what_was_there_before() -> None:
    seen: list[str] = []

    @dataclass(frozen=True)
    class Checks(Does):
        name = "checks"

        def verify(self, gm: GraphModule) -> None:
            out = gm.graph.output_node().all_input_nodes[0]
            seen.append(f"{out.target} {ops.shape(out)}")
            raise PassError("checks: not so")

    with pytest.raises(PassError, match="checks: not so"):
        Checks(double_head)(net())
    assert seen == ["aten.mul.Tensor (3, 17, 11)"]


# -- rewrites ------------------------------------------------------------------------------------


def test_a_rewrite_is_compiled_and_its_new_nodes_get_values() -> None:
    gm = net()
    before = gm(ids())
    assert Does(double_head)(gm).modified
    torch.testing.assert_close(gm(ids()), 2 * before)
    new = gm.graph.output_node().all_input_nodes[0]
    assert new.target is aten.mul.Tensor and ops.shape(new) == (3, 17, 11)


def test_a_broken_graph_is_refused() -> None:
    def use_before_definition(gm: GraphModule) -> bool:
        first, *_, last = (n for n in gm.graph.nodes if n.op == "call_function")
        first.args = (*first.args[:-1], last)
        return True

    with pytest.raises(PassError, match="^does: RuntimeError: Argument .* was used before it"):
        Does(use_before_definition)(net())


def test_a_pass_that_changes_nothing_says_so() -> None:
    assert not Does(lambda gm: False)(net()).modified
    assert not AnnotateSites()(net()).modified


def test_a_graph_without_recorded_values_can_be_rewritten_too() -> None:
    class Adds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.exp()  # dead
            return x + 1

    gm = symbolic_trace(Adds())
    assert Clean()(gm).modified
    assert [n.op for n in gm.graph.nodes] == ["placeholder", "call_function", "output"]
    assert gm(torch.ones(2)).tolist() == [2.0, 2.0]


# -- text ----------------------------------------------------------------------------------------


def test_default_options_and_bound_fields_are_not_written() -> None:
    assert str(PredictTiers(profile=h200(), workload=PREFILL)) == "predict-tiers"
    assert str(PredictTiers(measured=False)) == "predict-tiers{measured=false}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (8, "8"), (0.2, "0.2"), ("svd", "svd"), (("a", "b"), "a;b"), ((), "")],
)
def test_options_as_text(value: object, text: str) -> None:
    assert gacpass.show(value) == text


def test_a_second_pass_of_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gacpass, "PASSES", dict(gacpass.PASSES))

    class Other(Does):
        name: ClassVar[str] = "annotate-sites"

    with pytest.raises(PipelineError, match="^two passes are called 'annotate-sites'$"):
        register(Other)
    assert gacpass.PASSES["annotate-sites"] is AnnotateSites
    assert register(AnnotateSites) is AnnotateSites


def test_passes_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PredictTiers().measured = False  # type: ignore[misc]


# -- torch.fx's own PassManager ------------------------------------------------------------------


class Foreign(PassBase):
    """A pass by somebody who has never heard of gacfx: relu(x) in front of the head."""

    def call(self, graph_module: GraphModule) -> PassResult:
        head = next(n for n in graph_module.graph.nodes if n.name == "linear_4")
        with graph_module.graph.inserting_before(head):
            relu = graph_module.graph.call_function(aten.relu.default, (head.args[0],))
        relu.meta["val"] = head.all_input_nodes[0].meta["val"]
        head.update_arg(0, relu)
        return PassResult(graph_module, True)


def lint(module: nn.Module) -> None:
    """The check that a user of PassManager would add."""
    assert isinstance(module, GraphModule)
    module.graph.lint()
    assert all(ops.value(n) is not None for n in module.graph.nodes if ops.op_of(n) is not None)


def test_passes_run_unchanged_under_the_pass_manager() -> None:
    gm = net()
    made = planned(gm, {"layers.0.qkv": 8, "layers.1.out": 8})
    manager = PassManager(
        [
            AnnotateSites(),
            SelectTargets(),
            Factorize(plan=made.plan, factors=made.factors),
            Clean(),
            AnnotateSites(),
            PredictTiers(profile=h200(), workload=PREFILL),
        ],
        run_checks_after_each_pass=True,
    )
    manager.add_checks(lint)
    result = manager(gm)
    assert result.modified and result.graph_module is gm
    assert facts(gm) >= {Fact.SITES, Fact.TIERS, Fact.PLAN}
    assert {s.name for _, s in sites(gm)} >= {"layers.0.qkv.down", "layers.0.qkv.up"}


def test_foreign_passes_may_stand_between_ours() -> None:
    gm = net()
    made = planned(gm, {"layers.0.qkv": 8})

    def rename(gm: GraphModule) -> None:
        for node in gm.graph.nodes:
            if ops.op_of(node) is not None:
                node.name = f"their_{node.name}"

    manager = PassManager(
        [
            AnnotateSites(),
            Foreign(),
            SelectTargets(),
            pass_result_wrapper(rename),
            Factorize(plan=made.plan, factors=made.factors),
            Clean(),
        ],
        run_checks_after_each_pass=True,
    )
    manager.add_checks(lint)
    x = ids()
    want = net()
    want_made = run(want, AnnotateSites(), Factorize(plan=made.plan, factors=made.factors))
    Foreign()(want_made)
    want_made.recompile()
    assert manager(gm).modified
    assert torch.equal(gm(x), want_made(x))
    node, _ = site_of(run(gm, AnnotateSites()), "head")
    assert node.all_input_nodes[0].target is aten.relu.default


def test_the_manager_can_sort_passes_that_are_bound() -> None:
    # It sorts them as keys of a dict, and a profile holds dicts.
    tiers, annotates = PredictTiers(profile=h200(), workload=PREFILL), AnnotateSites()
    manager = PassManager(
        [tiers, annotates], constraints=[this_before_that_pass_constraint(annotates, tiers)]
    )
    gm = net()
    manager(gm)
    assert Fact.TIERS in facts(gm)


def test_an_error_under_the_manager_still_names_the_pass() -> None:
    manager = PassManager([AnnotateSites(), PredictTiers(profile=h200())])
    with pytest.raises(Exception, match="'PredictTiers' pass after .*'AnnotateSites'") as caught:
        manager(net())
    assert str(caught.value.__cause__).startswith("predict-tiers needs workload")


def test_a_foreign_copy_keeps_the_notes() -> None:
    # Passes like those of torch.fx.passes build a new module; notes go with the nodes.
    gm = annotated(net())
    copied = edit.fork(gm)
    assert facts(copied) == facts(gm)
    for node, _ in sites(copied):
        annotate(node, latency_us=1.0)
    assert Fact.LATENCY not in facts(gm)
