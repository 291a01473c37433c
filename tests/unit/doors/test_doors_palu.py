"""Palu on the whole road: plans of keys and values alone, files, and what it refuses."""

from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import gacfx
from gacfx.api import calibrate, load_profile
from gacfx.calibration.text import Corpus
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.planned import Planned
from gacfx.core.search import Search
from gacfx.coupling.key_values import NEITHER
from gacfx.errors import PipelineError, PlanError
from gacfx.modules.grouped_low_rank import GroupedLowRankLinear
from gacfx.modules.install import compressed_modules
from gacfx.replan import plan_from_curves
from gacfx.report.plan_view import latents_line, plan_view
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
METHOD = "palu:heads-per-group=2"
SEARCH = Search(align=2, value="two-sided")
NAMES = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in ("k", "v")]
DENSE = 4 * 32 * 64


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, 258, (48,), generator=random) for _ in range(8)))


def model_of() -> Any:
    return tiny.llama(width=48, num_attention_heads=8, num_key_value_heads=4)


def calibrated(method: str, work: Path | None = None) -> Study:
    return calibrate(model_of(), calibration=corpus(), method=method, force=True, work=work)


@cache
def whole() -> Study:
    """Of all weights, which Palu narrows."""
    return calibrated("svd-llm")


@cache
def planned() -> Planned:
    return whole().with_method(METHOD).plan("0.5", profile=PROFILE, search=SEARCH)


def test_a_ratio_is_of_keys_and_values_and_all_others_say_why_they_stay() -> None:
    plan = planned().plan
    assert [choice.module for choice in plan.choices] == NAMES
    assert plan.budget.targeted_params == DENSE
    assert 0 < plan.kept_params <= plan.budget.limit_params == DENSE // 2
    made = [choice.decision for choice in plan.choices if not choice.decision.is_dense]
    assert made and all(isinstance(d, GroupedLowRank) and d.groups == 2 for d in made)
    assert not any(size % 2 for d in made for size in d.sizes(32, 64))
    left = {n for n, why in plan.refusals.items() if why == NEITHER}
    assert len(left) == 2 * 5 and "model.layers.0.self_attn.q_proj" in left
    assert plan.proof is not None and plan.proof.status == "optimal"


def test_the_planned_loss_is_at_most_that_of_its_own_ranks() -> None:
    by = whole().with_method(METHOD)
    own = by.upstream("0.5", profile=PROFILE).plan
    best = by.plan("0.5", profile=PROFILE, search=Search(align=1, value="two-sided")).plan
    assert own.kept_params <= own.budget.limit_params == best.budget.limit_params
    assert best.loss_nats <= own.loss_nats + 1e-12
    wanted = 0.5 * 2 * 32 * 64 / (32 + 2 * 64)  # latents at which each keeps half its parameters
    assert all(choice.wanted == pytest.approx(wanted) for choice in own.choices)


def test_what_is_saved_computes_the_same(tmp_path: Path) -> None:
    made = gacfx.apply(model_of(), planned())
    layers = compressed_modules(made)
    assert layers and all(type(each) is GroupedLowRankLinear for each in layers.values())
    planned().save(tmp_path / "plan")
    again = Planned.load(tmp_path / "plan")
    assert again.plan.decisions == planned().plan.decisions
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        expected = made(ids).logits
        assert torch.equal(gacfx.apply(model_of(), again)(ids).logits, expected)
        assert not torch.allclose(model_of()(ids).logits, expected, atol=1e-4)


def test_compress_verifies_saves_and_loads_it(tmp_path: Path) -> None:
    made = gacfx.compress(
        model_of(),
        calibration=corpus(),
        method=METHOD,
        ratio="0.5",
        search=SEARCH,
        gpu="h200",
        force=True,
    )
    again, _ = gacfx.load(gacfx.save(made, tmp_path / "small"))
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, made.model(ids).logits)
        cached = again.generate(ids, max_new_tokens=4, do_sample=False, use_cache=True)
        plain = again.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_curves_in_a_file_know_the_groups(tmp_path: Path) -> None:
    by = whole().with_method(METHOD)
    save_curves(tmp_path / "curves", by.curves_of(planned().plan))
    found = load_curves(tmp_path / "curves")
    assert {weight.groups for weight in found.facts.weights} == {2}
    plan = plan_from_curves(found, ratio="0.5", gpu=PROFILE, search=SEARCH)
    assert plan.decisions == planned().plan.decisions


def test_a_work_folder_serves_it_and_other_methods(tmp_path: Path) -> None:
    first = calibrated(METHOD, tmp_path / "work")
    made = first.plan("0.5", profile=PROFILE, search=SEARCH)
    first.close()
    other = calibrated("svd-llm", tmp_path / "work")
    assert other.targeted_params > DENSE
    again = other.with_method(METHOD).plan("0.5", profile=PROFILE, search=SEARCH)
    assert again.plan.decisions == made.plan.decisions
    for name, each in made.factors.items():
        assert all(torch.equal(t, again.factors[name].tensors[n]) for n, t in each.tensors.items())
    other.close()


def test_a_study_of_keys_and_values_is_none_of_other_methods() -> None:
    by = whole().with_method(METHOD)
    with pytest.raises(PlanError, match="method 'svd' treats more than keys and values"):
        by.with_method("svd")
    uniform = by.with_method("palu:heads-per-group=1,allocation=uniform")
    ranks = [c.decision for c in uniform.upstream("0.6", profile=PROFILE).plan.choices]
    assert {d.groups for d in ranks if isinstance(d, GroupedLowRank)} == {4}
    with pytest.warns(UserWarning, match="4 key-value heads come in no groups of 3"):
        by.with_method("palu:heads-per-group=3")


def test_what_groups_cannot_be_is_refused_before_any_plan() -> None:
    by = whole().with_method(METHOD)
    for search, said in (
        (Search(form="pair"), "makes no 'low-rank' decisions"),
        (Search(prune="both"), "take prune 'none'"),
        (Search(value="paper"), "take another value model"),
    ):
        with pytest.raises(PipelineError, match=said):
            by.plan("0.5", profile=PROFILE, search=search)
    with pytest.raises(PipelineError, match="method 'svd-llm' makes no 'grouped-low-rank'"):
        whole().plan("0.5", profile=PROFILE, search=Search(form="grouped-low-rank"))


def test_a_window_stands_around_the_wanted_parameters() -> None:
    search = Search(align=1, value="two-sided", candidates="window", window=3)
    plan = whole().with_method(METHOD).plan("0.5", profile=PROFILE, search=search).plan
    ranks = {c.decision.rank for c in plan.choices if c.decision.rank is not None}
    wanted = 0.5 * 2 * 32 * 64 / (32 + 2 * 64)  # 12.8 latents, 6.4 of each group
    assert ranks and all(abs(rank - wanted) <= 2 * 2 for rank in ranks)


def test_the_plan_says_what_latents_would_take() -> None:
    plan = planned().plan
    latents = sum(c.decision.latents(32) for c in plan.choices)
    assert 0 < latents < 4 * 32
    line = f"keys and values: {4 * latents:,} bytes for each token as latents, by arithmetic, and"
    assert latents_line(plan).startswith(f"{line} 512 as they are ({latents / 128:.2f})")
    console = Console(width=100, record=True, file=StringIO())
    console.print(plan_view(plan))
    assert line in " ".join(console.export_text().split())
    other = whole().plan("0.3", profile=PROFILE, search=Search(value="two-sided", form="pair"))
    assert latents_line(other.plan) == ""
