"""From measured structures to a pruned graph, pass by pass: what a study does, and no study."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.allocation.budget import make_budget
from gacfx.api import apply_to_graph, load_profile, read_calibration
from gacfx.calibration.text import Corpus
from gacfx.core.decision import DENSE
from gacfx.core.goal import Goal
from gacfx.core.pruning import Heads, Width
from gacfx.core.search import Search
from gacfx.core.statistics import Statistics
from gacfx.errors import PassError
from gacfx.graph.notes import note, state, targets
from gacfx.graph.pipeline import Pipeline
from gacfx.passes.planning.measure_curves import MeasureCurves
from gacfx.passes.planning.measure_structures import MeasureStructures
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from gacfx.passes.verify.check_budget import CheckBudget
from gacfx.study import Study
from gacfx.tracing.export import export_model
from tests import tiny
from tests.passes.graphs import text_of

PROFILE = load_profile("h200")
SETTINGS: dict[str, Any] = {"layers": 1, "num_key_value_heads": 4, "seed": 3}


@cache
def corpus() -> Corpus:
    return read_calibration(tiny.texts(), tiny.llama(), tiny.tokenizer())


@cache
def study() -> Study:
    made = Study.make(tiny.llama(**SETTINGS), corpus(), structures=True)
    # Without its blocks a random model is as good as with them; here something shall be left.
    made.skips.update({each.name: 9.0 for each in made.structures})
    return made


def selected() -> GraphModule:
    gm = export_model(tiny.llama(**SETTINGS))
    Pipeline.parse(pipelines.SELECT).run(gm)
    return gm


def bound(text: str, known: Statistics, **more: Any) -> Pipeline:
    return Pipeline.parse(text).bind(statistics=known, decompositions={}, **more)


@pytest.mark.parametrize("menu", ["only", "either", "both"])
def test_passes_plan_what_a_study_plans(menu: Any) -> None:
    search = Search(prune=menu, value="fisher")
    theirs = study().plan("0.4", profile=PROFILE, search=search)
    gm, facts = selected(), study().curves("fisher", structures=True).facts
    text = pipelines.PRUNE.replace("both", menu)
    text = text.replace("-curves,", "-curves{value=fisher},")
    text = text.replace("-structures,", "-structures{value=fisher},")
    budget = make_budget(facts, Goal(ratio="0.4"))
    more = {"skip_nats": study().skips, "budget": budget, "provenance": facts.provenance}
    plan = bound(text, study().full.statistics, **more)
    plan.run(gm)
    ours = state(gm).plan
    assert ours is not None
    assert any(isinstance(c.decision, Width | Heads) for c in ours.choices)
    bare = [replace(choice, wanted=None) for choice in theirs.plan.choices]
    assert [choice.group for choice in ours.choices] == [choice.group for choice in bare]
    assert ours.kept_params == theirs.plan.kept_params
    assert ours.loss_nats == pytest.approx(theirs.plan.loss_nats, rel=1e-12)
    assert (ours.refusals, ours.unpruned) == (theirs.plan.refusals, theirs.plan.unpruned)
    factors, failed = study().full.factors(ours, study().graph, study().structures)
    assert not failed
    made = Pipeline.parse(pipelines.REWRITE).bind(plan=ours, factors=factors)
    fresh = selected()
    made.run(fresh)
    CheckBudget(plan=ours)(fresh)
    if all(part.kind != "pivot-in-order" for part in theirs.plan.decisions.values()):
        assert text_of(fresh) == text_of(apply_to_graph(study().graph, theirs))


def test_without_curves_of_structures_nothing_can_be_pruned() -> None:
    gm = selected()
    bound("measure-curves", study().full.statistics).run(gm)
    with pytest.raises(PassError, match="run measure-structures first"):
        SweepCandidates(prune="both")(gm)
    with pytest.raises(
        PassError, match="no prune 'auto'; known: none, only, either, both, cautious"
    ):
        SweepCandidates(prune="auto")(gm)
    SweepCandidates()(gm)
    assert state(gm).joints is None


def test_losses_of_two_kinds_are_not_added_up() -> None:
    gm, known = selected(), study().full.statistics
    MeasureCurves(statistics=known, decompositions={}, value="fisher")(gm)
    MeasureStructures(statistics=known, ranks=False)(gm)
    with pytest.raises(PassError, match=r"losses of fisher \(of .*\) and two-sided \(of .*\) do"):
        SweepCandidates(prune="either")(gm)


def test_what_is_in_no_structure_stays_as_it_is_under_only() -> None:
    gm, known = selected(), study().full.statistics
    MeasureCurves(statistics=known, decompositions={})(gm)
    MeasureStructures(statistics=known, ranks=False)(gm)
    about = state(gm)
    about.structure_curves = about.structure_curves[:1]
    SweepCandidates(prune="only")(gm)
    (name,) = about.joints or {}
    assert about.candidates is not None
    alone = [group for group in about.candidates if group != name]
    assert {about.candidates[group] for group in alone} == {(DENSE,)}
    reasons = {
        site.name: note(node).refusals[-1].reason
        for node, site in targets(gm)
        if site.name in alone
    }
    assert set(reasons.values()) == {"belongs to no structure that can be pruned"}
    SweepCandidates()(gm)
    assert about.joints is None and about.members == {}
    assert not any(note(node).refusals for node, _ in targets(gm))


def test_a_structure_with_a_weight_that_runs_without_gradient_stays() -> None:
    gm, known = selected(), study().full.statistics
    made = "model.layers.0.mlp.gate_proj"
    blind = replace(known.moments[made], grad_square_mean=0.0)
    spoilt = replace(known, moments={**known.moments, made: blind})
    MeasureCurves(statistics=spoilt, decompositions={})(gm)
    MeasureStructures(statistics=spoilt, ranks=False)(gm)
    reasons = {each.name: each.facts.refused for each in state(gm).structure_curves}
    why = "it runs without gradient, so its loss cannot be measured"
    assert reasons.pop("model.layers.0.mlp") == why
    assert set(reasons.values()) == {""}
