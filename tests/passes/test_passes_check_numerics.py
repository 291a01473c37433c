"""check-numerics: graph and reference on the same inputs, and no NaN gets through."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.errors import PassError, PipelineError
from gacfx.passes.verify.check_numerics import CheckNumerics, first, relative_error
from tests.passes.graphs import annotated, ids, net, snapshot

INPUTS = {"ids": ids()}
NAN, INF = float("nan"), float("inf")


def check(gm: GraphModule, reference: Callable[..., Any], **options: float) -> None:
    CheckNumerics(reference=reference, inputs=INPUTS, **options)(gm)


def scaled(factor: float) -> Callable[..., Tensor]:
    return lambda **inputs: factor * net()(**inputs)


def test_the_same_computation_passes_and_nothing_is_changed() -> None:
    gm = annotated(net())
    before = snapshot(gm)
    step = CheckNumerics(reference=net(), inputs=INPUTS, tolerance=0.0)
    assert not step(gm).modified
    assert not step(gm).modified
    assert snapshot(gm) == before


def test_a_difference_above_the_tolerance_fails_with_both_numbers() -> None:
    with pytest.raises(
        PassError, match=r"^check-numerics: relative error 1.0e-02 .* allowed 1e-05$"
    ):
        check(net(), scaled(1 / 1.01))


def test_the_tolerance_is_an_option() -> None:
    check(net(), scaled(1 / 1.01), tolerance=0.011)
    with pytest.raises(PassError):
        check(net(), scaled(1 / 1.01), tolerance=0.009)


def test_nan_fails_whatever_the_tolerance() -> None:
    with pytest.raises(PassError, match="relative error nan"):
        check(net(), scaled(NAN), tolerance=1e30)


def masked(rows: slice, fill: float = -INF) -> GraphModule:
    """The toy net whose head masks rows of the vocabulary by its bias."""
    gm = net()
    bias_V = torch.zeros(11)
    bias_V[rows] = fill
    node = next(n for n in gm.graph.nodes if n.name == "linear_4")
    gm.register_buffer("mask", bias_V)
    with gm.graph.inserting_before(node):
        node.args = (*node.args, gm.graph.get_attr("mask"))
    gm.recompile()
    return gm


def test_equal_infinities_of_a_masked_vocabulary_agree() -> None:
    check(masked(slice(8, None)), masked(slice(8, None)), tolerance=0.0)


def test_beside_a_masked_vocabulary_the_finite_part_is_compared() -> None:
    gm = masked(slice(8, None))
    gm.get_submodule("head").weight = nn.Parameter(1.01 * net().get_parameter("head.weight"))
    with pytest.raises(PassError, match=r"^check-numerics: relative error 1.0e-02 "):
        check(gm, masked(slice(8, None)))
    check(gm, masked(slice(8, None)), tolerance=0.011)


@pytest.mark.parametrize(("rows", "fill"), [(7, -INF), (8, INF), (11, -INF)])
def test_unlike_infinities_fail_and_are_counted(rows: int, fill: float) -> None:
    unlike = 51 * (1 if rows == 7 else 3)
    message = f"^check-numerics: {unlike} of 561 numbers are infinite on one side and not on the"
    with pytest.raises(PassError, match=message):
        check(masked(slice(8, None)), masked(slice(rows, None), fill), tolerance=1e30)


def test_a_nan_beside_infinities_is_still_said() -> None:
    gm = masked(slice(8, None))
    gm.get_submodule("head").weight = nn.Parameter(torch.full((11, 20), NAN))
    with pytest.raises(PassError, match="relative error nan"):
        check(gm, masked(slice(8, None)), tolerance=1e30)


def test_outputs_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(
        PassError, match=r"the graph gives \[3, 17, 11\], the reference \[1, 17, 11\]"
    ):
        check(net(), lambda **inputs: net()(**inputs)[:1], tolerance=1e30)


def test_two_outputs_of_zeros_agree_and_one_does_not() -> None:
    zeros, ones = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    assert relative_error(zeros, zeros) == 0.0
    assert relative_error(ones, zeros) > 1e300


def test_unlike_infinities_have_no_finite_error() -> None:
    one, other = (torch.tensor([number, 1.0]).double() for number in (INF, -INF))
    assert not relative_error(one, other) < INF and not relative_error(one, other.abs() * 0) < INF
    assert relative_error(one, one) == 0.0


def test_nan_in_the_graph_fails() -> None:
    gm = net()
    gm.get_submodule("head").weight = nn.Parameter(torch.full((11, 20), float("nan")))
    with pytest.raises(PassError, match="relative error nan"):
        check(gm, net(), tolerance=1e30)


def test_a_graph_without_weights_cannot_be_checked() -> None:
    gm = net()
    gm.get_submodule("head").weight = nn.Parameter(torch.empty(11, 20, device="meta"))
    with pytest.raises(
        PassError, match=r"^check-numerics: the graph has no weights \(meta device\)$"
    ):
        check(gm, net())


def test_the_first_output_is_compared() -> None:
    check(net(), lambda **inputs: (net()(**inputs), "cache"), tolerance=0.0)
    assert first((torch.ones(2), None)).dtype == torch.float64


def test_the_error_is_relative_to_the_reference() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    assert relative_error(3 * ones, 2 * ones) == 0.5
    assert relative_error(2 * ones, 2 * ones) == 0.0


def test_without_a_reference_it_says_what_to_bind() -> None:
    with pytest.raises(PipelineError, match="^check-numerics needs inputs, reference"):
        CheckNumerics()(net())
