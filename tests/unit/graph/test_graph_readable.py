"""Graphs of other makers: what hides a matmul, a weight or a shape is refused with the remedy."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node, Tracer, Transformer, symbolic_trace
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.shape_prop import ShapeProp
from torch.fx.passes.split_module import split_module
from torch.nn import functional

from gacfx.core.sites import Layout, MatmulSite
from gacfx.errors import PassError
from gacfx.graph.gacpass import GacPass
from gacfx.graph.notes import facts, sites
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.couple_dims import CoupleDims
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.tracing.export import export_model
from tests.passes.graphs import Net, annotated, ids, net, planned, run

READERS = (AnnotateSites(), CoupleDims())


@cache
def exported() -> ExportedProgram:
    """The toy net, with its parameters as inputs of ``graph_module``."""
    return torch.export.export(Net().eval(), (), {"ids": ids()}, strict=False)


class Wide(nn.Module):
    """A linear of its own, and a functional one whose weight the caller gives."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(20, 24)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[B, S, 20], [5, 24] -> [B, S, 5]."""
        return functional.linear(self.up(x), weight=w)


WIDE = {"x": torch.ones(3, 17, 20), "w": torch.ones(5, 24)}


class Deep(Tracer):
    """Looks inside every module."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """None is a leaf."""
        return False


def traced(model: nn.Module) -> GraphModule:
    return GraphModule(model, Deep().trace(model))


def sites_of(gm: GraphModule) -> list[object]:
    return [site for _, site in sites(gm)]


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_parameters_that_are_inputs_are_refused_with_the_remedy(reader: GacPass) -> None:
    gm = exported().graph_module
    with pytest.raises(PassError) as caught:
        reader(gm)
    assert str(caught.value) == (
        f"{reader.name}: the weight of linear is the input p_layers_0_qkv_weight, no parameter of "
        "the graph; take exported.module() (or the graph before it was split), or capture the "
        "model with gacfx.capture"
    )
    assert facts(gm) == frozenset()


def test_the_remedy_for_parameters_that_are_inputs_works() -> None:
    gm = exported().module(check_guards=False)
    assert isinstance(gm, GraphModule)
    assert sites_of(run(gm, *READERS)) == sites_of(annotated(net()))


def test_parameters_that_are_inputs_are_found_behind_decomposed_linears() -> None:
    with pytest.raises(PassError, match="the weight of addmm is the input p_layers_0_qkv_weight"):
        AnnotateSites()(exported().run_decompositions().graph_module)


@pytest.mark.parametrize(
    "of", [export_model, lambda model, _: traced(model)], ids=["export", "trace"]
)
def test_a_functional_linear_of_two_inputs_is_a_product_of_activations(of: object) -> None:
    assert callable(of)
    gm = of(Wide().eval(), WIDE)
    ShapeProp(gm).propagate(*WIDE.values())
    own, given = sites_of(run(gm, AnnotateSites()))
    assert isinstance(own, MatmulSite) and isinstance(given, MatmulSite)
    assert (own.weight, own.layout, own.bias) == ("up.weight", Layout.LINEAR, True)
    assert (given.weight, given.layout, given.bias) == (None, Layout.ACTIVATION, False)
    assert (given.k.times, given.n.times) == (24, 5)


def test_parameters_that_are_inputs_are_found_beside_other_attributes_of_the_graph() -> None:
    gm = copy.deepcopy(exported().graph_module)
    gm.register_buffer("extra", torch.ones(3))
    with gm.graph.inserting_before(next(iter(gm.graph.nodes))):
        gm.graph.get_attr("extra")
    with pytest.raises(PassError, match="the weight of linear is the input p_layers_0_qkv_weight"):
        AnnotateSites()(gm)


def test_a_graph_of_functions_alone_is_refused_where_a_weight_may_be_meant() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return functional.linear(x, w)

    class Scores(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return x @ w.transpose(0, 1)

    given = {"x": torch.ones(3, 17, 24), "w": torch.ones(5, 24)}
    with pytest.raises(PassError, match="the weight of linear is the input w, no parameter of the"):
        AnnotateSites()(export_model(Bare(), given))
    (site,) = sites_of(run(export_model(Scores(), given), AnnotateSites()))
    assert isinstance(site, MatmulSite) and site.layout is Layout.ACTIVATION


def test_a_linear_that_is_called_as_a_module_is_refused_with_the_remedy() -> None:
    with pytest.raises(PassError) as caught:
        AnnotateSites()(symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU())))
    assert str(caught.value) == (
        "annotate-sites: 0 is one Linear whose matmuls cannot be seen from here; capture the model "
        "with gacfx.capture"
    )


def test_called_modules_without_a_matrix_hide_nothing() -> None:
    model = nn.Sequential(nn.Embedding(11, 20), nn.LayerNorm(20), Wide().up, nn.ReLU())

    class Some(Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return not isinstance(m, nn.Linear | nn.Sequential)

    gm = GraphModule(model, Some().trace(model))
    ShapeProp(gm).propagate(ids())
    assert [site.name for _, site in sites(run(gm, AnnotateSites()))] == ["2"]


def test_a_graph_without_shapes_is_refused_with_the_remedy() -> None:
    gm = traced(nn.Sequential(nn.Linear(20, 24)))
    with pytest.raises(PassError) as caught:
        AnnotateSites()(gm)
    assert str(caught.value) == (
        "annotate-sites: input_1 has no shape; capture the model with gacfx.capture, or run "
        "FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs) first"
    )


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_transformed_graph_lost_its_shapes_and_says_so(reader: GacPass) -> None:
    gm = Transformer(annotated(net())).transform()
    with pytest.raises(PassError, match=f"^{reader.name}: embedding_default has no shape; capture"):
        reader(gm)


def test_a_transformed_graph_with_shapes_again_is_like_any_other() -> None:
    gm = Transformer(annotated(net())).transform()
    FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(ids())
    whole = annotated(net())
    assert sites_of(run(gm, *READERS)) == sites_of(whole)
    for each in (gm, whole):
        made = planned(each, {"layers.0.qkv": 5})
        run(each, Factorize(plan=made.plan, factors=made.factors), Clean(), AnnotateSites())
    assert sites_of(gm) == sites_of(whole)
    assert torch.equal(gm(ids()), whole(ids()))


def test_shapes_of_shape_prop_are_read() -> None:
    gm = Transformer(net()).transform()
    ShapeProp(gm).propagate(ids())
    assert sites_of(run(gm, AnnotateSites())) == sites_of(annotated(net()))


def test_after_a_rewrite_shapes_of_shape_prop_are_missing_and_not_stale() -> None:
    gm = Transformer(net()).transform()
    ShapeProp(gm).propagate(ids())
    run(gm, AnnotateSites())
    made = planned(gm, {"layers.0.qkv": 5})
    run(gm, Factorize(plan=made.plan, factors=made.factors))
    with pytest.raises(PassError, match="^annotate-sites: layers_0_qkv_down_weight has no shape"):
        AnnotateSites()(gm)


def test_a_graph_that_was_split_is_refused_with_the_remedy() -> None:
    def part(node: Node) -> int:
        return int("layers.1" in str(node.meta.get("nn_module_stack")) or node.name == "linear_4")

    gm = net()
    last = [n for n in gm.graph.nodes if n.name in ("add_1", "linear_4")]
    gm = split_module(gm, None, lambda n: 1 if n in last else part(n))  # type: ignore[arg-type]
    with pytest.raises(PassError) as caught:
        AnnotateSites()(gm)
    assert str(caught.value) == (
        "annotate-sites: submod_0 is one graph whose matmuls cannot be seen from here; run the "
        "passes before the graph is split"
    )
    with pytest.raises(PassError, match="is the input layers_0_qkv_weight, no parameter"):
        AnnotateSites()(gm.get_submodule("submod_0"))  # type: ignore[arg-type]


def test_copies_and_cleaned_graphs_are_read_like_the_original() -> None:
    gm = net()
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()
    assert sites_of(run(copy.deepcopy(gm), AnnotateSites())) == sites_of(annotated(net()))
