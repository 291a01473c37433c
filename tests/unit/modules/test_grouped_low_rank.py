"""The layer of groups: what it computes, how its tensors are made, and its graph nodes."""

# G groups, R rank of each, P outputs of each, M = G P outputs, N inputs, S = min(M, N)

import copy
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.allocation.latency import Clock
from gacfx.api import load_profile
from gacfx.core.decision import Copy, Gemm, LowRank
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.plan import Choice, Plan
from gacfx.core.planned import Planned
from gacfx.core.sites import CopySite, Extent, MatmulSite, Site, Workload
from gacfx.errors import DecompositionFailed
from gacfx.exports.dense import product
from gacfx.graph.notes import sites
from gacfx.modules.grouped_low_rank import GroupedLowRankLinear
from gacfx.modules.install import install_
from gacfx.modules.make import make_factors
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.tracing.export import export_model
from tests.numeric.test_graph_equals_module import logits, operators, rewritten, with_biases
from tests.passes.graphs import model_of, planned
from tests.svd import Svd

M, N = 12, 20


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors_of(decision: GroupedLowRank, rows: int = M, columns: int = N) -> Factors:
    stored = decision.tensors(rows, columns)
    made = {name: draw(*each.shape, seed=len(name)) for name, each in stored.items()}
    return Factors(decision, rows, columns, made)


def whole(factors: Factors) -> Tensor:
    """The weight [M, N] that factors stand for, group by group."""
    up_GPR, down_RN = factors.tensors["up"], factors.tensors["down"]
    parts = zip(up_GPR, down_RN.chunk(len(up_GPR)), strict=True)
    return torch.cat([up_PR @ own_RN for up_PR, own_RN in parts])


@pytest.mark.parametrize("decision", [GroupedLowRank(3, 2), GroupedLowRank(1, 5)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_the_outputs_are_those_of_the_product(decision: GroupedLowRank, bias: bool) -> None:
    factors, own = factors_of(decision), nn.Parameter(draw(M, seed=5)) if bias else None
    layer = GroupedLowRankLinear.holding(factors, own)
    for shape in ((N,), (4, N), (2, 3, N), (2, 0, N)):
        x = draw(*shape, seed=7)
        expected = nn.functional.linear(x, whole(factors), own)
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(product(layer), whole(factors))
    assert layer.decision == decision and layer.bias is own


@pytest.mark.parametrize("bias", [False, True])
def test_its_parameters_are_what_the_decision_says(bias: bool) -> None:
    layer = GroupedLowRankLinear(N, M, GroupedLowRank(3, 2), bias)
    inside = sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
    assert inside == GroupedLowRank(3, 2).params(M, N) and layer(torch.ones(2, N)).shape == (2, M)
    other = GroupedLowRankLinear(N, M, GroupedLowRank(3, 2), bias)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(torch.ones(2, N)), layer(torch.ones(2, N)))


class Blocks:
    """A source whose components are those of groups, by turns."""

    def __init__(self, weight_MN: Tensor, groups: int) -> None:
        self.module, self.weight_MN, self.groups = "here", weight_MN, groups

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """Singular vectors of each group."""
        parts = [torch.linalg.svd(part, full_matrices=False) for part in self.blocks]
        up_MR = self.weight_MN.new_zeros(len(self.weight_MN), rank)
        down_RN = self.weight_MN.new_zeros(rank, self.weight_MN.shape[1])
        size = len(self.weight_MN) // self.groups
        for at in range(rank):
            which, group = divmod(at, self.groups)
            u, s, vh = parts[group]
            up_MR[group * size : (group + 1) * size, at] = u[:, which] * s[which]
            down_RN[at] = vh[which]
        return up_MR, down_RN

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """[P, N] each."""
        return self.weight_MN.chunk(self.groups)


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_its_tensors_are_the_best_of_each_group(rank: int) -> None:
    source = Blocks(draw(M, N), 3)
    made = make_factors(source, GroupedLowRank(3, rank), M, N, torch.float64)
    for got, block in zip(whole(made).chunk(3), source.blocks, strict=True):
        u, s, vh = torch.linalg.svd(block, full_matrices=False)
        torch.testing.assert_close(got, u[:, :rank] * s[:rank] @ vh[:rank])
    up_GPR, down_RN = made.tensors["up"], made.tensors["down"]
    torch.testing.assert_close(up_GPR.norm(dim=1).flatten(), down_RN.norm(dim=1))


def test_components_that_know_no_groups_are_refused() -> None:
    with pytest.raises(DecompositionFailed, match=r"a\.b: 3 x rank 2: .* take method 'palu'"):
        make_factors(Svd.of(draw(M, N), "a.b"), GroupedLowRank(3, 2), M, N, torch.float64)
    lopsided = Blocks(draw(M, N), 6)  # the groups of six are no groups of four
    with pytest.raises(DecompositionFailed, match="not those of groups"):
        make_factors(lopsided, GroupedLowRank(4, 2), M, N, torch.float64)
    uneven = Blocks(draw(M, N), 3)
    pair = uneven.pair(6)
    order = [0, 3, 1, 4, 2, 5]
    with (
        patch.object(uneven, "pair", lambda _: (pair[0][:, order][:, :3], pair[1][order][:3])),
        pytest.raises(DecompositionFailed, match="not those of groups"),
    ):
        make_factors(uneven, GroupedLowRank(3, 1), M, N, torch.float64)


def test_any_components_are_those_of_one_group() -> None:
    source = Svd.of(draw(M, N))
    made = make_factors(source, GroupedLowRank(1, 5), M, N, torch.float64)
    pair = source.factors(LowRank(5)).tensors
    torch.testing.assert_close(whole(made), pair["up"] @ pair["down"])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_graph_and_module_run_the_same_and_forecasts_count_it(family: str) -> None:
    model = with_biases(model_of(family))
    decisions = {
        f"model.layers.{layer}.self_attn.{name}_proj": GroupedLowRank(groups, 3)
        for layer, name, groups in ((0, "k", 2), (0, "v", 1), (1, "v", 2))
    }
    factors = dict[str, Factors]()
    for name, decision in decisions.items():
        rows, columns = model.get_parameter(f"{name}.weight").shape
        factors[name] = factors_of(decision, rows, columns)
    dense = export_model(model)
    made = plan_of(dense, factors)
    graph, installed = rewritten(dense, made), copy.deepcopy(model)
    install_(installed, factors)
    captured = export_model(installed)
    assert torch.equal(logits(graph), logits(captured))
    assert operators(graph) == operators(captured)
    AnnotateSites()(graph)
    for name, decision in decisions.items():
        found = [site for _, site in sites(graph) if site.name.startswith(name)]
        biased = family == "qwen2"
        check_work(found, decision, factors[name].rows, factors[name].columns, biased)


def plan_of(gm: GraphModule, factors: FactorSet) -> Planned:
    choices = (
        Choice.single(name, made.rows, made.columns, made.decision, None, 0.0)
        for name, made in factors.items()
    )
    like = planned(gm, {}).plan
    return Planned(Plan(tuple(choices), like.budget, None, like.provenance), factors)


def check_work(
    found: list[Site], decision: GroupedLowRank, rows: int, columns: int, bias: bool
) -> None:
    """The graph's sites multiply and copy what the decision says that runs."""
    run, work = Workload(), decision.work(rows, columns, bias)
    copies = [s for s in found if isinstance(s, CopySite)]
    products = [s for s in found if isinstance(s, MatmulSite)]
    got = [(s.k.times, s.n.times, s.count.times) for s in products]
    assert got == [(g.k, g.n, g.count) for g in work if isinstance(g, Gemm)]
    dense = MatmulSite("w", Extent(1, "token"), Extent(columns), Extent(rows), "fp32", bias=bias)
    steps = Clock(load_profile("h200"), run).steps(dense, decision)
    timed = [s for s in steps if isinstance(s, MatmulSite)]
    assert [(s.sizes(run), s.count) for s in timed] == [(s.sizes(run), s.count) for s in products]
    written = sum(n for site in copies for n in site.kernels(run))
    assert written == run.new_tokens * sum(c.elements for c in work if isinstance(c, Copy))
