"""Rows of table 5 on a tiny model: every one is made, measured, kept, and made no more."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.tables import NONE
from benchmarks.paper import cells, recipes, rows, views
from benchmarks.paper.cells import CELLS, Settings
from benchmarks.paper.recipes import GatePruner, Recipe, table5, wanted_of
from benchmarks.paper.rows import Heals, Table, seconds_of, seeded
from benchmarks.paper.subject import Subject
from gacfx import api
from gacfx.calibration.evaluate import evaluate
from gacfx.compressors.methods import METHODS
from gacfx.core.goal import Goal
from gacfx.errors import NoLmEval, TaskError
from gacfx.modules.install import decisions_in
from gacfx.zeroshot import harness
from tests.unit.benchmarks_paper import subjects
from tests.unit.zeroshot import stand_in

RATIO = "0.4"
SETTINGS = Settings(
    tasks=("piqa",), samples=5, dtypes=("fp32",), prefill=16, runs=1, seconds=0.01, forecast=64
)
HEALS = Heals(tokens=5_000, minutes=5.0, step_tokens=96)


def recipes_here() -> tuple[Recipe, ...]:
    """All rows; a healing begins with a row that has something to heal."""
    *others, healed = table5(first=0)
    return (*others, replace(healed, start="svd-llm"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def subject(root: Path) -> Subject:
    data = root / "data" / "zeroshot"
    data.mkdir(parents=True)
    items = [
        {"query": item.query, "choices": item.choices, "gold": item.gold}
        for item in stand_in.items()
    ]
    (data / "piqa_24.jsonl").write_text("\n".join(map(json.dumps, items)))
    return subjects.subject(root)


@pytest.fixture(scope="module")
def table(subject: Subject) -> Table:
    return Table(subject, RATIO, SETTINGS, HEALS)


@pytest.fixture(scope="module")
def made(table: Table) -> dict[str, Any]:
    patch = pytest.MonkeyPatch()
    patch.setattr(harness, "lm_eval", stand_in.tools)
    patch.setattr(cells, "check_installed", lambda: None)
    try:
        found = table.run([*seeded(recipes_here(), 1)], CELLS)
    finally:
        patch.undo()
    return {row["name"]: row for row in found}


def test_every_row_has_every_cell(made: dict[str, Any]) -> None:
    assert [*made] == [recipe.name for recipe in table5()]
    for name, row in made.items():
        assert not row.get("failed"), (name, row)
        assert {*CELLS} <= row.keys()
        assert row["zeroshot"]["tasks"]["piqa"]["items"] == 5
        assert row["quality"]["perplexity"] > 1
        assert row["forecast"]["a100"]["prefill"]["ms"] > 0
    assert seconds_of([*made.values()]) > 0


def test_sizes_keep_the_budget_and_gac_rows_are_aligned(made: dict[str, Any]) -> None:
    for name, row in made.items():
        size = row["sizes"]
        if name == "dense":
            assert size["kept_share"] == 1 and size["aligned"] is None
            continue
        assert size["kept_params"] <= size["limit_params"] < size["targeted_params"]
        assert size["changed_dims"] > 0
        if name.endswith("-gac") or name == "ours":
            assert size["aligned"] == 1
    assert made["asvd-gac"]["sizes"]["limit_params"] == made["asvd"]["sizes"]["kept_params"]
    assert made["svd-llm"]["sizes"]["aligned"] < 1
    assert made["asvd-gac"]["sizes"]["promised_nats"] is None  # importance, and no nats
    assert made["ours"]["sizes"]["promised_nats"] > 0


def test_losses_are_those_of_the_checkpoints(
    made: dict[str, Any], table: Table, subject: Subject
) -> None:
    for name in ("llm-pruner", "ours-healed"):
        model, _ = api.load(table.folder(name))
        nats = evaluate(model, subject.judge).nats_per_token
        assert made[name]["quality"]["nats_per_token"] == pytest.approx(nats, rel=1e-6)
    dense = evaluate(subject.model, subject.judge).nats_per_token
    assert made["dense"]["quality"]["nats_per_token"] == pytest.approx(dense, rel=1e-6)
    assert made["dense"]["quality"]["nats_per_token"] < made["svd-llm"]["quality"]["nats_per_token"]


def test_the_pruner_takes_channels_of_mlps_alone(made: dict[str, Any], table: Table) -> None:
    for name in ("llm-pruner", "llm-pruner-gac"):
        model, _ = api.load(table.folder(name))
        changed = {*decisions_in(model)} | {
            name for name, module in model.named_modules() if "attn" in name and _shrunk(module)
        }
        assert changed and all(".mlp." in each for each in changed)


def _shrunk(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) and min(module.weight.shape) < 16


def test_a_healed_row_is_closer_to_the_dense_model(made: dict[str, Any]) -> None:
    said = made["ours-healed"]["made"]["healing"]
    assert said["after"]["kl"] < said["before"]["kl"]
    before, after = (made[name]["quality"]["perplexity"] for name in ("svd-llm", "ours-healed"))
    assert after < before
    assert said["tokens"] <= HEALS.tokens


def test_times_of_a_row_stand_beside_the_dense_ones(made: dict[str, Any]) -> None:
    here = made["asvd"]["latency"]["prefill fp32"]
    ratio, low, high = here["times_as_fast"]
    assert here["ms"] > 0 and here["dense_ms"] > 0 and low <= ratio <= high
    assert made["dense"]["latency"]["decode fp32"]["times_as_fast"] is None
    assert made["dense"]["forecast"]["h200"]["decode"]["times_as_fast"] == 1


def test_nothing_is_made_twice(
    made: dict[str, Any], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(api, "calibrate", never)
    monkeypatch.setattr(rows, "heal", never)
    monkeypatch.setattr(cells, "MEASURES", dict.fromkeys(CELLS, never))
    again = table.run([*seeded(recipes_here(), 1)], CELLS)
    assert {row["name"]: row for row in again} == made


def test_another_setting_measures_again_and_makes_nothing(
    made: dict[str, Any], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "lm_eval", stand_in.tools)
    monkeypatch.setattr(cells, "check_installed", lambda: None)
    more = replace(table, settings=replace(SETTINGS, samples=7))
    (row,) = more.run([*seeded([recipes.SVD_LLM], 1)], ["quality", "zeroshot"])
    assert row["zeroshot"]["tasks"]["piqa"]["items"] == 7
    assert row["made"] == made["svd-llm"]["made"]
    assert row["quality"] == made["svd-llm"]["quality"]


def test_a_checkpoint_that_is_gone_is_made_again(
    made: dict[str, Any], table: Table, tmp_path: Path
) -> None:
    folder = table.folder("svd-llm")
    aside = folder.rename(tmp_path / "aside")
    (row,) = table.run([*seeded([recipes.SVD_LLM], 1)], ["quality"])
    before = made["svd-llm"]["quality"]
    assert row["quality"]["nats_per_token"] == pytest.approx(before["nats_per_token"], rel=1e-6)
    assert (folder / "config.json").exists() and aside.exists()


def test_what_cannot_be_made_is_a_row_that_says_why(table: Table) -> None:
    aside = replace(table.subject, work=table.subject.work / "far")
    chosen = recipes.named(table5(first=0), ["ours-healed", "asvd"])
    assert [recipe.name for recipe in chosen] == ["asvd", "ours", "ours-healed"]
    far = replace(table, ratio="0.97", subject=aside)
    asvd, healed = far.run([*seeded((chosen[0], chosen[2]), 1)], ["quality"])
    assert "may remain" in asvd["failed"] and "quality" not in asvd
    assert "ours, with which it begins, was not made" in healed["failed"]
    assert views.failures([asvd, healed])[0].startswith("ASVD: ")
    assert {*views.quality5([asvd]).rows[0][1:]} == {NONE}


def test_a_seed_has_files_of_its_own() -> None:
    plan = recipes.ours()
    names = [row.name for row in seeded([recipes.DENSE, *plan], 3)]
    assert names == [
        "dense", "ours", "ours-seed1", "ours-seed2",
        "ours-healed", "ours-healed-seed1", "ours-healed-seed2",
    ]  # fmt: skip
    assert [row.start for row in seeded(plan[1:], 2)] == ["ours", "ours-seed1"]


def test_without_lm_eval_scores_are_refused(
    table: Table, monkeypatch: pytest.MonkeyPatch, made: dict[str, Any]
) -> None:
    def absent() -> None:
        raise NoLmEval("zero-shot tasks need lm-eval")

    monkeypatch.setattr(cells, "check_installed", absent)
    more = replace(table, settings=replace(SETTINGS, samples=3))
    with pytest.raises(NoLmEval):
        more.run([*seeded([recipes.SVD_LLM], 1)], ["zeroshot"])
    monkeypatch.setattr(cells, "check_installed", lambda: None)
    monkeypatch.setattr(harness, "lm_eval", stand_in.tools)
    odd = replace(table, settings=replace(SETTINGS, tasks=("riddles",)))
    with pytest.raises(TaskError, match="riddles"):
        odd.run([*seeded([recipes.SVD_LLM], 1)], ["zeroshot"])


def test_the_knapsack_stands_around_the_own_ranks(subject: Subject) -> None:
    recipe = recipes.asvd()[0]
    with subject.study(recipes.OURS) as study:
        own = study.with_method(recipe.method).upstream(RATIO, profile=api.load_profile("h200"))
        found = recipes.make(recipes.asvd()[1], study, RATIO, api.load_profile("h200"))
    wanted = wanted_of(own.plan)
    assert found.plan.budget.limit_params == own.plan.kept_params
    assert found.plan.provenance.value_model == "paper:activation"
    for choice in found.plan.choices:
        assert choice.wanted == wanted[choice.module]
    dense = [name for name in own.plan.weights if name not in own.plan.ranks]
    assert all(wanted[name] > 1 for name in dense)
    rest = own.plan.budget.model_params - own.plan.budget.targeted_params
    assert found.plan.budget.amount == str(Goal(params=rest + own.plan.kept_params).count)


def test_rows_know_what_they_gather() -> None:
    known: Sequence[Recipe] = table5()
    assert {recipe.gathers for recipe in known} == {recipes.OURS, recipes.PRUNER}
    assert [recipe.name for recipe in table5(table=True)][1:3] == ["asvd-table", "asvd-table-gac"]
    assert isinstance(METHODS.find(f"{recipes.PRUNER}:first=1"), GatePruner)
