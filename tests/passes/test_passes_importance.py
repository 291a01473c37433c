"""Importance and the linear curve of GAC-v2: scores against their definitions, choices by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.fx import GraphModule

from gacfx.compressors.importance import importance, linear_curve, literal_importance
from gacfx.compressors.methods import METHODS
from gacfx.core.curves import Curve
from gacfx.core.defaults import PROXIES
from gacfx.core.plan import Budget, Plan
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed, PipelineError
from gacfx.graph.notes import state
from gacfx.passes.planning.measure_curves import MeasureCurves
from gacfx.passes.planning.solve import Solve
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.planning.synthetic_curves import SyntheticCurves
from tests.passes.graphs import Q0, annotated, llama, net, run
from tests.passes.test_passes_measure_curves import statistics

DRAW = torch.Generator().manual_seed(3)
W_MN, X_TN, G_TM = (
    torch.randn(*shape, generator=DRAW, dtype=torch.float64) for shape in ((6, 4), (50, 4), (50, 6))
)


def test_scores_are_means_per_parameter() -> None:
    moments = Moments.from_samples(W_MN, X_TN, G_TM)
    assert importance(W_MN, moments, "magnitude") == pytest.approx(float((W_MN**2).mean()))
    assert importance(W_MN, moments, "activation") == pytest.approx(float((X_TN**2).mean()))
    product = float((G_TM**2).mean() * (X_TN**2).mean())
    assert importance(W_MN, moments, "fisher") == pytest.approx(product)
    sizes_T = (G_TM * (X_TN @ W_MN.T)).abs().sum(1)
    assert importance(W_MN, moments, "gradient") == pytest.approx(float(sizes_T.mean()) / 24)


def test_the_literal_forms_count_the_whole_weight() -> None:
    moments = Moments.from_samples(W_MN, X_TN, G_TM)

    def score(proxy: str) -> float:
        return literal_importance(W_MN, moments, proxy)

    assert score("magnitude") == pytest.approx(float(W_MN.norm()))
    assert score("activation") == pytest.approx(float(X_TN.norm()))
    product = float((G_TM**2).mean() * (X_TN**2).mean())
    assert score("fisher") == pytest.approx(24 * product)
    sizes_T = (G_TM * (X_TN @ W_MN.T)).abs().sum(1)
    assert score("gradient") == pytest.approx(float(sizes_T.mean()))


def test_a_score_that_was_not_gathered_is_said() -> None:
    old = replace(Moments.from_samples(W_MN, X_TN, G_TM), grad_output_mean=None)
    with pytest.raises(DecompositionFailed, match="q: its gradient importance was not gathered"):
        importance(W_MN, old, "gradient", module="q")
    assert importance(W_MN, None, "magnitude") == importance(W_MN, old, "magnitude")
    with pytest.raises(DecompositionFailed, match="q: fisher needs calibration, and there was no"):
        importance(W_MN, None, "fisher", module="q")


def test_the_fisher_score_is_the_mean_of_the_diagonal_for_independent_gradients() -> None:
    # Every gradient meets every input, so that they are independent exactly.
    x_TN, g_TM = X_TN.repeat(50, 1), G_TM.repeat_interleave(50, 0)
    diagonal_MN = (g_TM**2).T @ (x_TN**2) / len(x_TN)
    found = importance(W_MN, Moments.from_samples(W_MN, x_TN, g_TM), "fisher")
    assert found == pytest.approx(float(diagonal_MN.mean()))


def test_a_score_does_not_grow_with_the_weight() -> None:
    once = Moments.from_samples(W_MN, X_TN, G_TM)
    twice = Moments.from_samples(W_MN.repeat(2, 1), X_TN, G_TM.repeat(1, 2))
    for proxy in PROXIES:
        score = importance(W_MN.repeat(2, 1), twice, proxy)
        assert score == pytest.approx(importance(W_MN, once, proxy))


def test_methods_have_the_proxies_of_table_1() -> None:
    assert {name: method.proxy for name, method in METHODS.items()} == {
        "svd": "magnitude",
        "svd-llm": "magnitude",
        "svd-llm-v2": "magnitude",
        "dobi-svd": "magnitude",
        "basis-sharing": "magnitude",
        "asvd": "activation",
        "gfwsvd": "fisher",
        "palu": "fisher",
        "llm-pruner": "taylor-first",
        "magnitude": "magnitude-l2",
        "random": "random",
    }


def test_a_weight_without_importance_is_named() -> None:
    moments = Moments.from_samples(W_MN, X_TN, G_TM * 0)
    with pytest.raises(DecompositionFailed, match="up_proj: its importance by fisher is 0.0"):
        importance(W_MN, moments, "fisher", module="up_proj")


def test_a_proxy_that_there_is_not_is_refused() -> None:
    moments = Moments.from_samples(W_MN, X_TN, G_TM)
    with pytest.raises(PipelineError, match="no proxy 'gold'; known: magnitude, activation, fish"):
        importance(W_MN, moments, "gold")


def test_the_pass_gives_the_curve_of_the_proxy_of_its_method() -> None:
    gm = annotated(llama())
    run(gm, MeasureCurves("asvd", "paper", statistics=statistics(), decompositions={}))
    curves = state(gm).curves
    assert curves is not None
    assert {curve.value_model for curve in curves.values()} == {"paper:activation"}
    score = float(statistics().moments[Q0].input_square_mean.mean())
    np.testing.assert_allclose(curves[Q0].loss_nats[:25:8], score * np.array([2304, 1536, 768, 0]))


def test_made_up_importances_are_linear_too_and_the_same_for_the_same_seed() -> None:
    found = []
    for value in ("energy", "paper"):
        curves = state(run(annotated(llama()), SyntheticCurves(value=value))).curves
        assert curves is not None
        found.append(curves[Q0])
    energy, line = found
    assert line.value_model == "paper:synthetic"
    # The energy curve begins at the drawn importance.
    np.testing.assert_allclose(line.loss_nats[:24], energy.loss_nats[0] * (2304 - 96 * np.r_[:24]))


# -- a plan by hand ------------------------------------------------------------------------------

# Two weights of 24 x 20 (44 parameters a rank, 480 dense, break-even 10.9), d* 6 and 6.
# Window of four sizes in steps of 1: 5, 6, 7, 8 around 6.5. Eq. 4 values s (44 r - 44 d*).
FIRST, SECOND = "layers.0.qkv", "layers.1.qkv"
LIMIT = 2 * 6 * 44 + 50


def two_weights(scores: tuple[float, float]) -> GraphModule:
    gm = annotated(net())
    state(gm).curves = {
        name: linear_curve(name, 24, 20, score, "paper:test")
        for name, score in zip((FIRST, SECOND), scores, strict=True)
    }
    return gm


def paper_plan(scores: tuple[float, float], wanted: float = 6.5, solver: str = "dp") -> Plan:
    gm, names = two_weights(scores), {FIRST: wanted, SECOND: wanted}
    budget = Budget("0.2", "targeted", 960, 960, LIMIT)
    run(gm, SweepCandidates(align=1, form="pair", window=4, dense=False, wanted=names))
    run(gm, Solve(solver=solver, budget=budget, wanted=names))
    plan = state(gm).plan
    assert plan is not None
    return plan


def test_the_more_important_weight_gets_what_the_other_gives() -> None:
    # 578 // 44 = 13 ranks for both. 3 to 1: 3 (8 - 6.5) + (5 - 6.5) = 3.0 beats
    # (7, 6) with 1.0, (6, 7) with -1.0 and (5, 8) with -3.0; (8, 5) is all of the budget.
    assert paper_plan((3.0, 1.0)).ranks == {FIRST: 8, SECOND: 5}
    assert paper_plan((1.0, 3.0)).ranks == {FIRST: 5, SECOND: 8}


def test_the_plan_is_worth_what_equation_4_says_but_for_a_constant() -> None:
    plan = paper_plan((3.0, 1.0))
    eq_4 = 3 * 44 * (8 - 6.5) + 44 * (5 - 6.5)
    constant = 3 * (480 - 44 * 6.5) + (480 - 44 * 6.5)
    assert plan.proof is not None
    assert plan.proof.value == pytest.approx(eq_4 - constant)


@pytest.mark.parametrize("solver", ["core", "ilp"])
def test_other_exact_solvers_agree(solver: str) -> None:
    assert paper_plan((3.0, 1.0), solver=solver).ranks == {FIRST: 8, SECOND: 5}


def test_outside_the_window_nothing_is_offered() -> None:
    # d* 2.5: 1, 2, 3, 4 each, although the budget would pay for 6.
    assert paper_plan((3.0, 1.0), wanted=2.5).ranks == {FIRST: 4, SECOND: 4}


def test_the_curve_is_a_straight_line_down_to_the_dense_weight() -> None:
    curve: Curve = linear_curve("m", 24, 20, 0.5, "paper:test")
    assert curve.loss_nats[0] == 240.0 and curve.loss_nats[10] == 20.0
    assert (curve.loss_nats[11:] == 0.0).all()
