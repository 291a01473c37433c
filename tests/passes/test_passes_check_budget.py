"""check-budget: counts the parameters of the weights themselves, not the plan's sums."""

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from gacfx.core.planned import Planned
from gacfx.errors import PassError, PipelineError
from gacfx.graph import edit
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.passes.verify.check_budget import CheckBudget, weight_params
from tests.passes.graphs import annotated, net, planned, run, snapshot, with_limit

QKV, OUT = "layers.0.qkv", "layers.1.out"
KEPT = 8 * (20 + 24) + 24 * 20


def rewritten() -> tuple[GraphModule, Planned]:
    """QKV at rank 8, OUT dense; the budget is exactly what they keep."""
    gm = annotated(net())
    made = planned(gm, {QKV: 8}, dense=(OUT,))
    assert made.plan.budget.limit_params == KEPT
    return run(gm, Factorize(plan=made.plan, factors=made.factors)), made


def test_exactly_the_budget_passes_and_nothing_is_changed() -> None:
    gm, made = rewritten()
    before = snapshot(gm)
    step = CheckBudget(plan=made.plan)
    assert not step(gm).modified
    assert not step(gm).modified
    assert snapshot(gm) == before


def test_one_parameter_too_many_fails_with_the_numbers() -> None:
    gm, made = rewritten()
    with pytest.raises(
        PassError, match="^check-budget: the graph keeps 832 .*, 1 more than the limit 831$"
    ):
        CheckBudget(plan=with_limit(made.plan, KEPT - 1))(gm)


def test_dense_weights_without_a_bias_are_counted() -> None:
    gm, _ = rewritten()
    assert weight_params(gm, OUT) == 24 * 20
    assert weight_params(net(), QKV) == 24 * 20


def test_factors_are_counted_without_the_bias() -> None:
    gm, _ = rewritten()
    assert weight_params(gm, QKV) == 8 * (20 + 24)


def test_a_neighbour_whose_name_begins_alike_is_not_counted() -> None:
    gm, _ = rewritten()
    edit.set_parameter(gm, f"{OUT}_2.weight", torch.ones(24, 20))
    assert weight_params(gm, OUT) == 24 * 20


def test_a_dense_weight_that_was_left_behind_counts() -> None:
    gm, made = rewritten()
    edit.set_parameter(gm, f"{QKV}.weight", torch.ones(24, 20))
    with pytest.raises(PassError, match="480 more than the limit"):
        CheckBudget(plan=made.plan)(gm)


def test_weights_count_and_not_what_the_plan_claims() -> None:
    gm, made = rewritten()
    gm.get_submodule(f"{QKV}.up").weight = nn.Parameter(torch.ones(24, 9))
    with pytest.raises(PassError, match="24 more than the limit"):
        CheckBudget(plan=made.plan)(gm)


def test_a_graph_that_was_never_rewritten_is_over_the_budget() -> None:
    _, made = rewritten()
    with pytest.raises(PassError, match="the graph keeps 960 of the targeted parameters"):
        CheckBudget(plan=made.plan)(net())


def test_a_missing_module_is_named() -> None:
    gm, made = rewritten()
    edit.delete_parameter(gm, f"{OUT}.weight")
    with pytest.raises(PassError, match="^check-budget: the graph has no weight of layers.1.out$"):
        CheckBudget(plan=made.plan)(gm)


def test_without_a_plan_it_says_what_to_bind() -> None:
    with pytest.raises(PipelineError, match="^check-budget needs plan"):
        CheckBudget()(net())
