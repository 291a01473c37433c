"""estimate-latency: microseconds for every site, from its tier and the profile."""

from dataclasses import replace

import pytest

from gacfx.core.sites import Workload
from gacfx.errors import PassError
from gacfx.graph.notes import Fact, annotate, facts, note, sites
from gacfx.hardware.latency import estimate_us
from gacfx.passes.analysis.estimate_latency import EstimateLatency
from gacfx.passes.analysis.predict_tiers import PredictTiers
from tests.passes.graphs import PREFILL, annotated, h200, llama, net, run, site_of, snapshot

TIERS = PredictTiers(profile=h200(), workload=PREFILL)
LATENCY = EstimateLatency(profile=h200(), workload=PREFILL)


def test_every_site_gets_what_the_model_says() -> None:
    gm = run(annotated(llama()), TIERS, LATENCY)
    for node, site in sites(gm):
        known = note(node)
        assert known.tier is not None and known.latency_us is not None
        assert known.latency_us == estimate_us(site, known.tier, h200(), PREFILL).us > 0
    assert Fact.LATENCY in facts(gm)


def test_more_tokens_take_longer() -> None:
    gm = run(annotated(net()), TIERS, LATENCY)
    node, _ = site_of(gm, "layers.0")
    short = note(node).latency_us
    run(gm, EstimateLatency(profile=h200(), workload=Workload(batch=64, seq=4096)))
    long = note(node).latency_us
    assert short is not None and long is not None and long > short


def test_the_tier_in_the_note_is_the_one_that_counts() -> None:
    gm = run(annotated(llama()), TIERS, LATENCY)
    node, _ = site_of(gm, "lm_head")
    known = note(node)
    assert known.tier is not None and known.latency_us is not None
    workload = Workload(batch=64, seq=4096)
    run(gm, EstimateLatency(profile=h200(), workload=workload))
    rule = note(node).latency_us
    annotate(node, tier=replace(known.tier, tier=1, kernel="native"))
    run(gm, EstimateLatency(profile=h200(), workload=workload))
    fast = note(node).latency_us
    assert rule is not None and fast is not None and fast < rule


def test_without_tiers_it_does_not_run() -> None:
    with pytest.raises(PassError, match="^estimate-latency: needs tiers;"):
        LATENCY(annotated(net()))


def test_the_graph_and_the_other_notes_are_left_alone() -> None:
    gm = run(annotated(net()), TIERS)
    text = str(gm.graph)
    before = [replace(note(n), latency_us=0.0) for n, _ in sites(gm)]
    assert not LATENCY(gm).modified
    assert str(gm.graph) == text
    assert [replace(note(n), latency_us=0.0) for n, _ in sites(gm)] == before


def test_twice_is_once() -> None:
    gm = run(annotated(net()), TIERS, LATENCY)
    before = snapshot(gm)
    assert snapshot(run(gm, LATENCY)) == before
