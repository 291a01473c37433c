"""measure-curves: one decomposition and one curve per target; a failure keeps the weight dense."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx import GraphModule

from gacfx.compressors.lowrank import decompose
from gacfx.compressors.methods import LOW_RANK
from gacfx.compressors.protocol import Decomposition
from gacfx.core.sites import Layout
from gacfx.core.statistics import Moments, Statistics
from gacfx.errors import PipelineError
from gacfx.graph.notes import Fact, Refusal, facts, matmuls, note, state, targets
from gacfx.passes.planning.measure_curves import MeasureCurves, dense_weight
from tests.passes.graphs import Q0, annotated, graph_of, llama, net, run, site_of, snapshot


@cache
def statistics(family: str = "llama") -> Statistics:
    """Moments of random inputs and gradients for every target of a tiny model."""
    draw = torch.Generator().manual_seed(0)
    gm, moments = annotated(graph_of(family)), {}
    for _, site in targets(gm):
        weight = dense_weight(gm, site).double()
        x, g = (torch.randn(99, s, generator=draw, dtype=torch.float64) for s in weight.T.shape)
        moments[site.name] = Moments.from_samples(weight, x, g)
    return Statistics(moments, 99, "", 0, 1.0)


def without(name: str) -> Statistics:
    found = statistics()
    return replace(found, moments={k: v for k, v in found.moments.items() if k != name})


def measured(
    gm: GraphModule, known: dict[str, Decomposition] | None = None, **options: Any
) -> GraphModule:
    found = {} if known is None else known
    return run(gm, MeasureCurves(statistics=statistics(), decompositions=found, **options))


def test_every_target_gets_the_curve_of_its_decomposition() -> None:
    known: dict[str, Decomposition] = {}
    gm = measured(annotated(llama()), known)
    curves = state(gm).curves
    assert curves is not None
    assert list(curves) == list(known) == [site.name for _, site in targets(gm)]
    weight, moments = gm.get_parameter(f"{Q0}.weight"), statistics().moments[Q0]
    want = decompose(weight, moments, LOW_RANK["gfwsvd"], module=Q0).curve("two-sided")
    np.testing.assert_array_equal(curves[Q0].loss_nats, want.loss_nats)
    assert (curves[Q0].rows, curves[Q0].columns) == (48, 48)


@pytest.mark.parametrize("value", ["two-sided", "fisher", "relative"])
def test_the_value_model_is_an_option(value: str) -> None:
    curves = state(measured(annotated(llama()), value=value)).curves
    assert curves is not None and {c.value_model for c in curves.values()} == {value}


@pytest.mark.parametrize("method", LOW_RANK)
def test_the_method_is_an_option(method: str) -> None:
    known: dict[str, Decomposition] = {}
    measured(annotated(llama()), known, method=method)
    assert {d.method.name for d in known.values()} == {method}


def test_a_second_value_model_reuses_the_decompositions() -> None:
    known: dict[str, Decomposition] = {}
    gm = measured(annotated(llama()), known)
    first = dict(known)
    measured(gm, known, value="fisher")
    assert all(known[name] is first[name] for name in first)
    curves = state(gm).curves
    assert curves is not None and {c.value_model for c in curves.values()} == {"fisher"}


def test_conv1d_is_decomposed_as_outputs_by_inputs() -> None:
    gm = annotated(graph_of("gpt2"))
    sites = [site for _, site in matmuls(gm) if site.layout is Layout.CONV1D]
    assert {tuple(dense_weight(gm, s).shape) for s in sites} == {
        (144, 48),
        (48, 48),
        (88, 48),
        (48, 88),
    }
    run(gm, MeasureCurves(statistics=statistics("gpt2"), decompositions={}))
    curves = state(gm).curves
    assert curves is not None
    found = curves["transformer.h.0.attn.c_attn"]
    assert (found.rows, found.columns) == (144, 48)


def test_a_target_without_statistics_stays_dense_and_the_reason_is_recorded() -> None:
    gm = annotated(llama())
    run(gm, MeasureCurves(statistics=without(Q0), decompositions={}))
    node, _ = site_of(gm, Q0)
    assert note(node).refusals == (Refusal("measure-curves", "no calibration statistics"),)
    curves = state(gm).curves
    assert curves is not None and len(curves) == 14
    assert curves[Q0].failed == "no calibration statistics" and len(curves[Q0].loss_nats) == 0
    assert not any(c.failed for name, c in curves.items() if name != Q0)


def test_a_weight_that_no_token_reached_stays_dense() -> None:
    gm, found = annotated(llama()), statistics()
    dead = replace(found.moments[Q0], input_square_mean=torch.zeros(48, dtype=torch.float64))
    spoilt = replace(found, moments={**found.moments, Q0: dead})
    run(gm, MeasureCurves(statistics=spoilt, decompositions={}))
    curves = state(gm).curves
    assert curves is not None
    assert curves[Q0].failed == "no calibration token reached this weight"


def test_a_weight_that_runs_without_gradient_stays_dense() -> None:
    gm, found = annotated(llama()), statistics()
    blind = replace(found.moments[Q0], grad_square_mean=0.0)
    spoilt = replace(found, moments={**found.moments, Q0: blind})
    run(gm, MeasureCurves(statistics=spoilt, decompositions={}))
    node, _ = site_of(gm, Q0)
    (refusal,) = note(node).refusals
    assert refusal.reason == "it runs without gradient, so its loss cannot be measured"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "no method 'magic'; known: svd, asvd, svd-llm, svd-llm-v2"),
        (
            {"value": "gold"},
            "no value model 'gold'; known: auto, two-sided, fisher, per-token, ",
        ),
    ],
)
def test_unknown_names_are_refused_before_any_work(options: dict[str, str], message: str) -> None:
    known: dict[str, Decomposition] = {}
    with pytest.raises(PipelineError, match=message):
        measured(annotated(llama()), known, **options)
    assert known == {}


def test_without_statistics_it_says_what_to_bind() -> None:
    with pytest.raises(PipelineError, match="^measure-curves needs decompositions, statistics;"):
        MeasureCurves()(annotated(net()))


def test_the_graph_is_left_alone_and_twice_is_once() -> None:
    gm = annotated(llama())
    text, notes, held = snapshot(gm)
    known: dict[str, Decomposition] = {}
    step = MeasureCurves(statistics=without(Q0), decompositions=known)
    assert not step(gm).modified
    assert snapshot(gm)[0] == text
    assert facts(gm) == held | {Fact.CURVES}
    before = snapshot(gm)
    assert snapshot(run(gm, step)) == before
    assert before[1] != notes  # the refusal, recorded once
