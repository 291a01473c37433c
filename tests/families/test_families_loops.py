"""Models that run their layers in a loop: a weight is one, however often it is used."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gacfx
from gacfx.allocation.latency import Clock
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.sites import MatmulSite, Mode, Workload
from gacfx.coupling.structures import coupled_structures
from gacfx.graph.notes import note, target_nodes, target_sites
from gacfx.passes.planning.read_graph import targeted_params
from gacfx.replan import plan_from_curves, synthetic_curves
from gacfx.speedup import curves_speedup, graph_speedup
from tests.families.test_families_road import corpus
from tests.families.zoo import VOCAB
from tests.passes.graphs import annotated, h200

LOOPED = "model.L_module.layers.0.mlp.down_proj"
"""Used three times; those of the other stack once."""


def looped() -> Any:
    """Two stacks of a layer each, one of which runs three times."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 88,
        "num_layers_per_stack": 1,
        "H_cycles": 1,
        "L_cycles": 3,
        "L_bp_cycles": [3],
        "num_hidden_layers": 4,  # places in the cache, one for each run
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "head_dim": 8,
        "pad_token_id": 0,
    }
    config = transformers.HrmTextConfig(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.HrmTextForCausalLM(config).eval()


pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "HrmTextConfig"), reason="this transformers has no HrmText"
)


@pytest.fixture(scope="module")
def planned() -> Planned:
    search = Search(value="two-sided")
    return gacfx.plan(looped(), calibration=corpus(), ratio=0.3, search=search)


def test_a_weight_is_a_target_once_and_its_products_count_as_often_as_they_run() -> None:
    model, gm = looped(), annotated(gacfx.capture(looped()))
    assert len(target_nodes(gm)[LOOPED]) == target_sites(gm)[LOOPED].runs == 3
    weights = (model.get_submodule(name).weight.numel() for name in target_sites(gm))
    assert targeted_params(gm) == sum(weights)


def test_graph_and_module_compute_the_same_with_a_plan(planned: Planned) -> None:
    decision = planned.plan.decisions[LOOPED]
    assert not decision.is_dense
    model = looped()
    graph, module = gacfx.apply(gacfx.capture(model), planned), gacfx.apply(model, planned)
    ids = torch.arange(51).reshape(3, 17) % VOCAB
    with torch.no_grad():
        want = module(ids, use_cache=False).logits
        assert torch.equal(graph(input_ids=ids, use_cache=False)[0], want)
        assert not torch.equal(model(ids, use_cache=False).logits, want)
    dense, left, rewritten = (
        sum(p.numel() for p in each.parameters()) for each in (model, module, graph)
    )
    saved = sum(choice.dense_params - choice.params for choice in planned.plan.choices)
    assert left == rewritten == dense - saved


def test_it_is_saved_and_read_again(tmp_path: Path) -> None:
    model = looped()
    search = Search(value="two-sided")
    made = gacfx.compress(model, calibration=corpus(), ratio=0.3, search=search)
    folder = gacfx.save(made, tmp_path / "small")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(51).reshape(3, 17) % VOCAB
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_plain_saving_writes_the_names_in_memory(planned: Planned, tmp_path: Path) -> None:
    """The dense checkpoint has q, k, v and the gate in one tensor; guards would be joined too."""
    small = gacfx.apply(looped(), planned)
    small.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    third = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = torch.arange(51).reshape(3, 17) % VOCAB
    with torch.no_grad():
        assert torch.equal(small(ids).logits, third(ids).logits)


def test_compiled_with_a_plan_it_computes_the_same(planned: Planned) -> None:
    model = looped()
    options: Any = {"plan": planned, "inner": "eager"}
    compiled: Any = torch.compile(model, backend="gacfx", options=options)
    ids = torch.arange(51).reshape(3, 17) % VOCAB
    with torch.no_grad():
        want = gacfx.apply(model, planned)(ids, use_cache=False).logits
        assert torch.equal(compiled(ids, use_cache=False).logits, want)


def test_curves_know_how_often_a_weight_is_used(tmp_path: Path) -> None:
    looped().config.save_pretrained(tmp_path)
    curves = synthetic_curves(tmp_path)
    counts = {weight.module: weight.runs for weight in curves.facts.weights}
    assert counts[LOOPED] == 3
    assert counts[LOOPED.replace("L_module", "H_module")] == 1


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_what_runs_three_times_takes_three_times_as_long(mode: Mode) -> None:
    gm = annotated(gacfx.capture(looped()))
    site, once = target_sites(gm)[LOOPED], note(target_nodes(gm)[LOOPED][0]).site
    assert isinstance(once, MatmulSite)
    workload = Workload(2, 64, mode)
    clock = Clock(h200(), workload)
    for decision in (DENSE, LowRank(8), Pivot(8)):
        assert clock.ns(site, decision) == 3 * clock.ns(once, decision)
    assert site.flops(workload) == 3 * once.flops(workload)


def test_curves_forecast_the_time_that_the_graph_does(tmp_path: Path) -> None:
    looped().config.save_pretrained(tmp_path)
    curves = synthetic_curves(tmp_path)
    plan = plan_from_curves(curves, ratio="0.3")
    graph = graph_speedup(annotated(gacfx.capture(tmp_path)), plan)
    for one, other in zip(curves_speedup(curves, plan).points, graph.points, strict=True):
        saved = one.dense_us - one.planned_us
        assert saved == pytest.approx(other.dense_us - other.planned_us)


def test_its_sizes_stay_and_the_reason_is_said() -> None:
    reasons = {each.refused for each in coupled_structures(gacfx.capture(looped()))}
    assert any("its weight is used 3 times" in reason for reason in reasons)
