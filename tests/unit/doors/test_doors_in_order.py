"""Pivots in order on the whole road: planned, verified, saved, loaded, explained, under limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.allocation.allocate import keeps_limits
from gacfx.api import calibrate, load_profile, verify
from gacfx.core.decision import Pivot, PivotInOrder
from gacfx.core.offered import Offered
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.core.sites import MatmulSite, Workload
from gacfx.errors import GacError, PassError
from gacfx.explain import explain
from gacfx.knapsack.limits import Limit
from gacfx.speedup import graph_speedup
from gacfx.study import Study
from tests.families.test_families_road import corpus
from tests.families.zoo import FAMILIES
from tests.few import few

PROFILE, RATIO = load_profile("h200"), "0.5"
SEARCH = Search(value="two-sided", form="pivot")
LIMITED = Search(value="two-sided", form="pivot", limits=("limit-latency{share=1.95}",))
DOWN = "model.layers.0.mlp.down_proj"


@cache
def study(name: str = "llama") -> Study:
    return calibrate(FAMILIES[name].make(), calibration=corpus())


@cache
def found(search: Search = SEARCH) -> Planned:
    return study().plan(RATIO, profile=PROFILE, search=search)


def plain(monkeypatch: pytest.MonkeyPatch, search: Search = SEARCH) -> Planned:
    """The plan as it would be without."""
    monkeypatch.setattr("gacfx.best_plan.feeders", lambda _: {})
    return study().plan(RATIO, profile=PROFILE, search=search)


def in_order(made: Planned) -> list[str]:
    return [n for n, each in made.plan.decisions.items() if isinstance(each, PivotInOrder)]


@pytest.mark.parametrize("search", [SEARCH, LIMITED])
def test_budget_losses_and_proof_are_those_of_the_plan(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, normal = found(search), plain(monkeypatch, search)
    assert DOWN in in_order(made) and not in_order(normal)
    for name in in_order(made):
        assert normal.plan.decisions[name] == Pivot(made.plan.ranks[name])
    assert (made.plan.ranks, made.plan.kept_params) == (normal.plan.ranks, normal.plan.kept_params)
    assert (made.plan.loss_nats, made.plan.limits) == (normal.plan.loss_nats, normal.plan.limits)
    assert study().measure(made) == pytest.approx(study().measure(normal), abs=1e-5)


def test_it_is_never_forecast_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = study().graph
    ours, theirs = (
        graph_speedup(graph, each.plan, gpu=PROFILE, seq=1024, execution="eager")
        for each in (found(), plain(monkeypatch))
    )
    pairs = list(zip(ours.points, theirs.points, strict=True))
    assert pairs and all(one.ratio > other.ratio for one, other in pairs)


def test_the_rewritten_graph_is_verified() -> None:
    verify(study(), found(), PROFILE, Workload(batch=1, seq=1024))


@pytest.mark.parametrize("search", [SEARCH, LIMITED])
def test_it_is_explained_as_the_pivot_that_was_chosen(search: Search) -> None:
    curves = study().curves_of(found(search).plan)
    said = explain(found(search).plan, curves, DOWN, gpu=PROFILE)
    assert said.decision == found(search).plan.decisions[DOWN]
    assert (said.below or said.above) and all(other.params_change < 0 for other in said.below)
    assert all(other.params_change > 0 for other in said.above)
    assert said.decision.label not in {other.decision.label for other in (*said.below, *said.above)}


@pytest.mark.parametrize("name", few(["llama", "qwen2", "gpt2", "opt", "gptneox"], "llama", "gpt2"))
def test_it_is_saved_loaded_and_generates(name: str, tmp_path: Path) -> None:
    model: Any = FAMILIES[name].make()
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if n.endswith(".bias")):
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    made = gacfx.compress(model, calibration=corpus(), ratio=RATIO, search=SEARCH, force=True)
    assert in_order(made.planned)
    again, _ = gacfx.load(gacfx.save(made, tmp_path / "small"))
    ids = FAMILIES[name].inputs(2, 11)["input_ids"]
    with torch.no_grad():
        ours, theirs = (each(ids, use_cache=False)[0] for each in (model, again))
    assert torch.equal(ours, theirs)
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    settings["attention_mask"] = torch.ones_like(ids)
    assert torch.equal(*(each.generate(ids, **settings) for each in (model, again)))
    plan = Planned.load(tmp_path / "small" / "plan")
    dense = gacfx.apply(FAMILIES[name].make(), made.planned) if name == "llama" else None
    assert plan.plan == made.planned.plan
    assert dense is None or torch.equal(dense(ids, use_cache=False)[0], theirs)


@dataclass(frozen=True)
class Dear:
    """A limit under which pivots in order cost too much, or of which they are no part."""

    most: int
    refuses: bool = False

    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        """One for each candidate, two for a pivot in order."""
        assert offered.candidates is not None and sites.keys() == offered.candidates.keys()
        if self.refuses:
            raise PassError("dear: no such decision")
        costs = {
            name: [1 + isinstance(each, PivotInOrder) for each in candidates]
            for name, candidates in offered.candidates.items()
        }
        offered.limit(Limit("dear", self.most, costs))  # type: ignore[arg-type]


def test_a_plan_that_would_pass_a_limit_keeps_its_pivots(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = study().curves_of(found().plan)
    cost = len(found().plan.choices) + len(in_order(found()))
    assert keeps_limits(found().plan, curves, [])
    assert keeps_limits(found().plan, curves, [Dear(cost)])
    assert not keeps_limits(found().plan, curves, [Dear(cost - 1)])
    assert not keeps_limits(found().plan, curves, [Dear(cost, refuses=True)])
    monkeypatch.setattr("gacfx.best_plan.keeps_limits", lambda *_: False)
    assert not in_order(study().plan(RATIO, profile=PROFILE, search=SEARCH))


def test_it_is_not_asked_for_by_name() -> None:
    with pytest.raises(GacError, match="makes no 'pivot-in-order' decisions"):
        study().plan(RATIO, profile=PROFILE, search=Search(form="pivot-in-order"))
