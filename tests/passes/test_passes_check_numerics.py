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


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_fail_whatever_the_tolerance(number: float) -> None:
    with pytest.raises(PassError, match="relative error nan"):
        check(net(), scaled(number), tolerance=1e30)


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
