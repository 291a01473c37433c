"""A plan put into the graph and the same plan put into the module compute the very same numbers.

For every kind of decision that is known, with and without bias, wide and tall.

The module is captured again after its linears were replaced, so both graphs run the same operators
on the same factors; nothing is left that could round differently.
"""

import copy
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Choice, Plan
from gacfx.core.planned import Planned
from gacfx.core.sites import Layout
from gacfx.graph import edit, ops
from gacfx.graph.notes import targets
from gacfx.modules.install import install_
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.planning.measure_curves import dense_weight
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.tracing.export import export_model
from tests.families.zoo import VOCAB
from tests.passes.graphs import annotated, ids, model_of, planned, run
from tests.svd import Svd

LINEAR, BIASED = (Layout.LINEAR, False), (Layout.LINEAR, True)
FAMILIES = {"llama": {LINEAR}, "gpt2": {(Layout.CONV1D, True)}, "qwen2": {LINEAR, BIASED}}
"""Family -> (layout, bias) of its targets: together all that can be factorized."""


def plan_all(gm: GraphModule, decision: Decision | None) -> Planned:
    """Two of three targets under a decision, or all of them at full rank when it is None."""
    sites = [site for _, site in targets(annotated(gm))]
    choices, factors = [], FactorSet()
    for number, site in enumerate(sites):
        if decision is not None and number % 3 == 1:
            continue
        weight = dense_weight(gm, site)
        rows, columns = weight.shape
        made = Svd.of(weight, site.name).factors(decision or LowRank(min(rows, columns)))
        factors[site.name] = made
        choices.append(Choice.single(site.name, rows, columns, made.decision, None, 0.0))
    like = planned(gm, {}).plan
    return Planned(Plan(tuple(choices), like.budget, None, like.provenance), factors)


def with_biases(model: nn.Module) -> nn.Module:
    """A copy with biases that are not zero, as fresh ones are, so that a lost one shows."""
    made = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(".bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return made


@dataclass(frozen=True)
class Case:
    """One family, dense and with most targets at rank 13, in the graph and in the module."""

    family: str
    made: Planned
    dense: GraphModule
    graph: GraphModule
    module: GraphModule


CASES = [(family, kind) for family in FAMILIES for kind in (LowRank, Pivot)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1].kind}")
def case(request: pytest.FixtureRequest) -> Case:
    family, kind = request.param
    model = with_biases(model_of(family))
    dense = export_model(model)
    made = plan_all(edit.fork(dense), kind(13))
    installed = copy.deepcopy(model)
    install_(installed, made.factors)
    return Case(family, made, dense, rewritten(edit.fork(dense), made), export_model(installed))


def rewritten(gm: GraphModule, made: Planned) -> GraphModule:
    return run(gm, AnnotateSites(), Factorize(plan=made.plan, factors=made.factors), Clean())


def logits(gm: GraphModule) -> Tensor:
    out: Tensor = gm(input_ids=ids(VOCAB), use_cache=False)[0]
    return out.detach()


def test_the_graph_and_the_module_agree_to_the_last_bit(case: Case) -> None:
    assert (logits(case.graph) - logits(case.module)).abs().max().item() == 0.0


def test_the_factors_were_in_use(case: Case) -> None:
    assert (logits(case.graph) - logits(case.dense)).abs().max().item() > 1e-3


def test_both_graphs_have_the_same_operators(case: Case) -> None:
    ours, theirs = operators(case.graph), operators(case.module)
    assert ours == theirs != operators(case.dense)


def test_weights_of_both_sides_were_replaced(case: Case) -> None:
    shapes = {(made.rows > made.columns) for made in case.made.factors.values()}
    assert shapes == {True, False}


def test_both_graphs_hold_the_same_parameters(case: Case) -> None:
    ours = dict(case.graph.named_parameters())
    # The module knows a tied weight by both of its names, a copied graph by one.
    theirs = dict(case.module.named_parameters(remove_duplicate=False))
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in ours.items())
    assert len(ours) == len(list(case.module.parameters()))
    buffers = [
        f"{module}.{stored.parameter}"
        for module, made in case.made.factors.items()
        for stored in made.decision.tensors(made.rows, made.columns).values()
        if stored.integer
    ]
    for name in buffers:
        assert torch.equal(case.graph.get_buffer(name), case.module.get_buffer(name))


def test_factors_of_full_rank_compute_what_the_dense_model_does(case: Case) -> None:
    made = plan_all(edit.fork(case.dense), None)
    gm = rewritten(edit.fork(case.dense), made)
    assert len(made.factors) >= 8
    torch.testing.assert_close(logits(gm), logits(case.dense), rtol=1e-5, atol=1e-5)


def operators(gm: GraphModule) -> Counter[str]:
    """Every operator but views, which the two graphs of a Conv1D have in other places."""
    names = (ops.short_name(n) for n in gm.graph.nodes if n.op == "call_function")
    return Counter(name for name in names if name not in ("view", "getitem"))


def test_the_family_has_the_layouts_that_it_stands_for(case: Case) -> None:
    found = targets(annotated(edit.fork(case.dense)))
    assert {(site.layout, site.bias) for _, site in found} == FAMILIES[case.family]
