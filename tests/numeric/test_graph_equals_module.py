"""A plan put into the graph and the same plan put into the module compute the very same numbers.

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
from gacfx.tracing.export import capture
from tests.families.zoo import VOCAB
from tests.passes.graphs import annotated, ids, model_of, planned, run, svd_factors

LINEAR, BIASED = (Layout.LINEAR, False), (Layout.LINEAR, True)
FAMILIES = {"llama": {LINEAR}, "gpt2": {(Layout.CONV1D, True)}, "qwen2": {LINEAR, BIASED}}
"""Family -> (layout, bias) of its targets: together all that can be factorized."""


def plan_all(gm: GraphModule, rank: int | None) -> Planned:
    """Every second target at ``rank``, or all of them at full rank when it is None."""
    sites = [site for _, site in targets(annotated(gm))]
    choices, factors = [], FactorSet()
    for site in sites if rank is None else sites[::2]:
        weight = dense_weight(gm, site)
        rows, columns = weight.shape
        pair = factors[site.name] = svd_factors(weight, min(rank or rows, rows, columns))
        choices.append(Choice.single(site.name, rows, columns, pair.decision, None, 0.0))
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
    """One family, dense and with every second target at rank 13, in the graph and in the module."""

    family: str
    dense: GraphModule
    graph: GraphModule
    module: GraphModule


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    model = with_biases(model_of(request.param))
    dense = capture(model)
    made = plan_all(edit.fork(dense), 13)
    installed = copy.deepcopy(model)
    install_(installed, made.factors)
    return Case(request.param, dense, rewritten(edit.fork(dense), made), capture(installed))


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
    ours, theirs = matmul_counts(case.graph), matmul_counts(case.module)
    assert ours == theirs != matmul_counts(case.dense)


def test_both_graphs_hold_the_same_parameters(case: Case) -> None:
    ours = dict(case.graph.named_parameters())
    # The module knows a tied weight by both of its names, a copied graph by one.
    theirs = dict(case.module.named_parameters(remove_duplicate=False))
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in ours.items())
    assert len(ours) == len(list(case.module.parameters()))


def test_factors_of_full_rank_compute_what_the_dense_model_does(case: Case) -> None:
    made = plan_all(edit.fork(case.dense), None)
    gm = rewritten(edit.fork(case.dense), made)
    assert len(made.factors) >= 8
    torch.testing.assert_close(logits(gm), logits(case.dense), rtol=1e-5, atol=1e-5)


def matmul_counts(gm: GraphModule) -> Counter[str]:
    return Counter(str(op) for n in gm.graph.nodes if (op := ops.op_of(n)) is not None)


def test_the_family_has_the_layouts_that_it_stands_for(case: Case) -> None:
    found = targets(annotated(edit.fork(case.dense)))
    assert {(site.layout, site.bias) for _, site in found} == FAMILIES[case.family]
