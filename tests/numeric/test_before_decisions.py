"""Folders written before there were kinds of decisions: they load, and mean what they meant.

``fixtures/before-decisions`` was written by the code at 404399f: a dense model, the checkpoint of
its compressed form (block version 1, plan version 2, factors of format 1), and its curves.
"""

import shutil
from pathlib import Path

import pytest
import torch

import gacfx
from gacfx import api
from gacfx.checkpoint.load import load_checkpoint
from gacfx.core.curve_file import load_curves
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.errors import PlanError
from gacfx.replan import plan_from_curves

OLD = Path(__file__).parents[1] / "fixtures" / "before-decisions"
MADE = OLD / "compressed"
RANKS = {
    "model.layers.0.self_attn.o_proj": 8,
    "model.layers.0.mlp.up_proj": 8,
    "model.layers.0.mlp.down_proj": 8,
}


def test_old_plans_and_checkpoints_give_the_same_model() -> None:
    dense, _ = api.load(OLD / "dense")
    made = load_checkpoint(MADE)
    planned = Planned.load(MADE / "plan")
    assert planned.plan.ranks == RANKS
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        applied = gacfx.apply(dense, planned)(ids).logits
        assert torch.equal(applied, made(ids).logits)
        assert not torch.allclose(applied, dense(ids).logits)


def test_an_old_plan_is_written_anew_and_stays_the_same(tmp_path: Path) -> None:
    planned = Planned.load(MADE / "plan")
    planned.save(tmp_path / "plan")
    again = Planned.load(tmp_path / "plan")
    assert again.plan == planned.plan
    assert again.plan.kept_params == planned.plan.kept_params


def test_an_old_checkpoint_is_saved_anew_and_loads(tmp_path: Path) -> None:
    made, ids = load_checkpoint(MADE), torch.arange(1, 30)[None]
    made.save_pretrained(tmp_path / "new")
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "new")(ids).logits, made(ids).logits)


def test_old_curves_are_planned_from() -> None:
    curves = load_curves(OLD / "curves.safetensors")
    plan = plan_from_curves(curves, ratio="0.3")
    assert plan.kept_params <= plan.budget.limit_params


def test_the_first_plans_stay_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(MADE / "plan", tmp_path / "plan")
    text = (folder / "plan.json").read_text(encoding="utf-8")
    (folder / "plan.json").write_text(text.replace('"version": 2', '"version": 1'))
    with pytest.raises(PlanError, match=r"plan version 1; this gacfx reads") as caught:
        Planned.load(folder)
    assert "\n" not in str(caught.value)


def test_the_text_of_an_old_plan_is_a_plan() -> None:
    text = (MADE / "plan" / "plan.json").read_text(encoding="utf-8")
    assert Plan.from_json(text).provenance.search.limits == ("limit-latency{share=1.5}",)
