"""predict-tiers: the tier of every site under the bound profile and workload."""

from dataclasses import replace

from gacfx.core.sites import MatmulSite, Workload
from gacfx.core.tiers import TierPrediction
from gacfx.graph.notes import Fact, facts, note, sites
from gacfx.hardware.predict import measured_key, predict
from gacfx.hardware.profile import Measurement
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.analysis.predict_tiers import PredictTiers
from tests.passes.graphs import PREFILL, annotated, h200, llama, net, run, site_of, snapshot

DECODE = Workload(batch=1, seq=1024, mode="decode")


def test_every_site_gets_what_the_rules_say() -> None:
    gm = run(annotated(llama()), PredictTiers(profile=h200(), workload=PREFILL))
    found = list(sites(gm))
    assert len(found) == 17
    for node, site in found:
        assert note(node).tier == predict(site, h200(), PREFILL)


def test_an_odd_width_is_below_tier_1_with_the_reason() -> None:
    gm = run(annotated(net()), PredictTiers(profile=h200(), workload=PREFILL))
    odd, even = note(site_of(gm, "head")[0]).tier, note(site_of(gm, "layers.0.qkv")[0]).tier
    assert odd is not None and odd.tier > 1 and "N=11 %" in odd.reason
    assert even is not None and even.tier == 1 and even.reason == ""


def test_the_workload_decides() -> None:
    gm = annotated(net())
    run(gm, PredictTiers(profile=h200(), workload=DECODE))
    tier = note(site_of(gm, "layers.0.qkv")[0]).tier
    assert tier is not None and tier.kernel == "gemv"
    run(gm, PredictTiers(profile=h200(), workload=PREFILL))
    tier = note(site_of(gm, "layers.0.qkv")[0]).tier
    assert tier is not None and tier.kernel == "native"


def test_a_measured_shape_beats_the_rules_unless_it_is_told_not_to() -> None:
    gm = annotated(net())
    node, site = site_of(gm, "head")
    assert isinstance(site, MatmulSite)
    seen = Measurement(1, "native", us=5.0)
    profile = replace(h200(), measured={measured_key(site, PREFILL): seen})
    run(gm, PredictTiers(profile=profile, workload=PREFILL))
    assert note(node).tier == TierPrediction(1, "native", "", source="measured")
    run(gm, PredictTiers(profile=profile, workload=PREFILL, measured=False))
    tier = note(node).tier
    assert tier is not None and (tier.source, tier.tier) == ("rule", 2)


def test_the_graph_and_the_other_notes_are_left_alone() -> None:
    gm = annotated(net())
    before = [(note(n).site, note(n).targeted, note(n).refusals) for n, _ in sites(gm)]
    text = str(gm.graph)
    assert not PredictTiers(profile=h200(), workload=PREFILL)(gm).modified
    assert str(gm.graph) == text
    assert [(note(n).site, note(n).targeted, note(n).refusals) for n, _ in sites(gm)] == before
    assert facts(gm) == {Fact.SITES, Fact.TARGETS, Fact.TIERS}


def test_twice_is_once() -> None:
    step = PredictTiers(profile=h200(), workload=PREFILL)
    gm = run(net(), AnnotateSites(), step)
    before = snapshot(gm)
    assert snapshot(run(gm, step)) == before
