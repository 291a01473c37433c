"""Pipelines: text that prints back to itself, an order that is checked before anything runs."""

from dataclasses import dataclass, fields
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.plan import Budget
from gacfx.errors import GacError, PipelineError
from gacfx.graph import gacpass
from gacfx.graph.gacpass import GacPass
from gacfx.graph.notes import Fact, facts, state
from gacfx.graph.pipeline import Pipeline, known_passes
from gacfx.passes.analysis.predict_tiers import PredictTiers
from gacfx.passes.analysis.select_targets import SelectTargets
from gacfx.passes.planning.sweep_candidates import SweepCandidates
from tests.passes.graphs import PREFILL, annotated, h200, net, planned, provenance

WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789.*_-/", min_size=1, max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(-(2**40), 2**40),
    "float": st.floats(allow_nan=False),
    "str": WORDS,
    "tuple": st.lists(WORDS, max_size=4).map(tuple),
}


@st.composite
def a_pass(draw: st.DrawFn) -> GacPass:
    """Any known pass with any options, its given fields left empty."""
    cls = draw(st.sampled_from(list(known_passes().values())))
    options = {}
    for option in fields(cls):
        if not option.metadata.get("given") and draw(st.booleans()):
            options[option.name] = draw(VALUES[getattr(option.type, "__name__", "")])
    return cls(**options)


@for_all(st.lists(a_pass(), min_size=1, max_size=6))
def test_a_pipeline_prints_back_to_itself(passes: list[GacPass]) -> None:
    made = Pipeline(tuple(passes))
    assert Pipeline.parse(str(made)) == made


@pytest.mark.parametrize(
    "text", ["annotate-sites", pipelines.DEFAULT, "select-targets{skip=a;b},sweep-candidates"]
)
def test_text_prints_back_as_it_was(text: str) -> None:
    assert str(Pipeline.parse(text)) == text


def test_blanks_and_lines_between_passes_do_not_matter() -> None:
    loose = Pipeline.parse("  annotate-sites,\n  select-targets{skip=*.out   }, clean ")
    assert str(loose) == "annotate-sites,select-targets{skip=*.out},clean"


def test_options_are_read_as_their_types() -> None:
    read = Pipeline.parse(
        "predict-tiers{measured=false},sweep-candidates{align=16},synthetic-curves{decay=0.25},"
        "select-targets{skip=*.a;*.b},measure-curves{method=svd-llm},select-targets{skip=}"
    ).passes
    assert read[0] == PredictTiers(measured=False)
    assert read[1] == SweepCandidates(align=16)
    assert getattr(read[2], "decay", None) == 0.25
    assert read[3] == SelectTargets(skip=("*.a", "*.b"))
    assert getattr(read[4], "method", None) == "svd-llm"
    assert read[5] == SelectTargets()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the pipeline is empty; `gacfx passes` lists"),
        ("  ", "the pipeline is empty"),
        ("annotate-sites,frobnicate", "no pass 'frobnicate'; known: annotate-sites, check-align"),
        ("annotate-sites,,clean", "cannot read the pipeline from ',clean' on"),
        ("clean{", "cannot read the pipeline from 'clean{' on"),
        ("clean clean", "cannot read the pipeline from 'clean clean' on"),
        ("Clean", "cannot read the pipeline from 'Clean' on"),
        ("clean{deep=true}", "clean has no option 'deep'; it has: none"),
        ("sweep-candidates{unit=8}", "sweep-candidates has no option 'unit'; it has: align"),
        ("predict-tiers{profile=h200}", "no option 'profile'; it has: measured"),
        ("sweep-candidates{align=eight}", "sweep-candidates: align='eight' is not a int"),
        ("sweep-candidates{align}", "sweep-candidates: align='' is not a int"),
        ("predict-tiers{measured=yes}", "predict-tiers: measured='yes' is not a bool"),
        ("synthetic-curves{decay=a}", "synthetic-curves: decay='a' is not a float"),
        ("sweep-candidates{align=8 align=16}", "sweep-candidates: align is given twice"),
    ],
)
def test_bad_text_is_refused_with_the_spot(text: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(text)
    assert message in str(caught.value)


def test_binding_fills_every_pass_that_has_the_field() -> None:
    text = "annotate-sites,predict-tiers,estimate-latency"
    bound = Pipeline.parse(text).bind(profile=h200(), workload=PREFILL)
    assert [getattr(step, "profile", None) for step in bound.passes] == [None, h200(), h200()]
    assert str(bound) == text


def test_binding_reaches_options_too() -> None:
    assert str(Pipeline.parse("sweep-candidates").bind(align=16)) == "sweep-candidates{align=16}"


def test_binding_leaves_the_pipeline_itself_as_it_was() -> None:
    pipeline = Pipeline.parse("sweep-candidates")
    pipeline.bind(align=16)
    assert str(pipeline) == "sweep-candidates"


def test_binding_what_no_pass_takes_is_refused() -> None:
    with pytest.raises(PipelineError, match="^no pass in annotate-sites,clean takes 'profile'$"):
        Pipeline.parse("annotate-sites,clean").bind(profile=h200())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("predict-tiers", "predict-tiers needs sites, given by: annotate-sites"),
        ("annotate-sites,solve", "solve needs candidates, curves, targets, given by: measure-c"),
        ("sweep-candidates", "given by: measure-curves, synthetic-curves"),
        ("annotate-sites,factorize,predict-tiers", "predict-tiers needs sites, given by: annotate"),
        ("annotate-sites,predict-tiers", "predict-tiers needs profile, workload; bind it"),
        ("check-budget", "check-budget needs plan; bind it"),
    ],
)
def test_the_order_is_checked_and_the_error_names_who_would_help(text: str, message: str) -> None:
    made = planned(net(), {})
    pipeline = Pipeline.parse(text)
    if "factorize" in text:
        pipeline = pipeline.bind(plan=made.plan, factors=made.factors)
    with pytest.raises(PipelineError) as caught:
        pipeline.check()
    assert message in str(caught.value)


def test_nothing_runs_when_the_order_is_wrong() -> None:
    gm = net()
    with pytest.raises(PipelineError):
        Pipeline.parse("annotate-sites,sweep-candidates").run(gm)
    assert facts(gm) == frozenset() and state(gm).log == []


def test_facts_that_the_graph_holds_already_count() -> None:
    gm = annotated(net())
    Pipeline.parse("synthetic-curves,sweep-candidates").run(gm)
    assert {Fact.CURVES, Fact.CANDIDATES} <= facts(gm)


def test_no_pass_gives_what_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gacpass.PASSES["synthetic-curves"], "gives", frozenset())
    monkeypatch.setattr(gacpass.PASSES["measure-curves"], "gives", frozenset())
    with pytest.raises(PipelineError, match="needs curves, given by: no pass$"):
        Pipeline.parse("sweep-candidates").check()


def test_the_default_pipeline_is_in_order() -> None:
    made = planned(net(), {})
    Pipeline.parse(pipelines.DEFAULT).bind(
        profile=h200(),
        workload=PREFILL,
        statistics=object(),
        decompositions={},
        budget=Budget("0.2", "targeted", 1, 1, 1),
        provenance=provenance(),
        plan=made.plan,
        factors=made.factors,
        reference=net(),
        inputs={},
    ).check()


def test_watching_sees_every_pass_before_it_runs() -> None:
    gm, seen = net(), list[tuple[str, int]]()
    pipeline = Pipeline.parse("annotate-sites,select-targets")
    pipeline.run(gm, watch=lambda step: seen.append((step.name, len(state(gm).log))))
    assert seen == [("annotate-sites", 0), ("select-targets", 1)]


def test_running_says_whether_any_pass_changed_the_graph() -> None:
    gm = net()
    made = planned(gm, {"layers.0.qkv": 8})
    rewrite = Pipeline.parse("annotate-sites,factorize,clean,annotate-sites")
    assert rewrite.bind(plan=made.plan, factors=made.factors).run(gm)
    assert not Pipeline.parse("annotate-sites,clean").run(gm)


def test_every_pass_is_found_and_describes_itself() -> None:
    found = known_passes()
    assert list(found) == sorted(found)
    assert {"annotate-sites", "factorize", "solve", "check-numerics"} <= found.keys()
    for name, cls in found.items():
        assert cls.name == name and (cls.__doc__ or "").endswith(".")
        assert cls.required <= {f.name for f in fields(cls) if f.metadata.get("given")}


def test_a_pass_without_a_module_of_ours_is_known_once_it_is_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True)
    class Greets(GacPass):
        """Greets."""

        name = "greets"
        times: "int" = 1  # as text, the way every annotation of a module may be

        def run(self, gm: GraphModule) -> bool:
            state(gm).log.extend(["hello"] * self.times)
            return False

    monkeypatch.setitem(gacpass.PASSES, "greets", Greets)
    gm = net()
    Pipeline.parse("greets{times=2}").run(gm)
    assert state(gm).log == ["hello", "hello", "greets{times=2}"]


def test_errors_of_pipelines_are_errors_of_gacfx() -> None:
    assert issubclass(PipelineError, GacError)
