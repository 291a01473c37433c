"""Every causal family pruned, saved, loaded again: the same tokens, and a refusal without gacfx."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import gacfx
from gacfx.checkpoint.load import load_checkpoint
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.planned import Planned
from gacfx.core.pruning import Skip
from gacfx.modules.blocks import blocks_in
from gacfx.modules.install import decisions_in
from gacfx.tracing.skeleton import read_config, skeleton
from tests import stock
from tests.families.narrow import LAYOUTS, attention, decision_of, mlp, plan_of
from tests.families.test_families_narrow import CAUSAL, SKIP_MLP, generated
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few


def pruned(family: str) -> tuple[Any, Planned]:
    """A model with narrower layers everywhere, and its plan."""
    model: Any = FAMILIES[family].make()
    if hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")
    heads = attention(model, family, 1)
    chosen: list[Any] = [(heads, decision_of(heads, (1,) if heads.units == 2 else (1, 4)))]
    if LAYOUTS[family].opening:
        width = mlp(model, family, 0)
        if family == "opt":  # its MLP has no module of its own, and is named by its weights
            width = replace(width, name=f"{width.name}.fc1+fc2")
        chosen.append((width, decision_of(width, tuple(range(1, 88, 2)))))
    chosen.append((attention(model, family, 0), Skip()))
    if family in SKIP_MLP:
        chosen.append((mlp(model, family, 1), Skip()))
    planned = plan_of(model, *chosen)
    gacfx.apply_(model, planned)
    return model, planned


@pytest.mark.parametrize("family", few(CAUSAL, *CORNERS))
def test_what_is_loaded_again_writes_the_same_tokens(family: str, tmp_path: Path) -> None:
    model, planned = pruned(family)
    want, logits = generated(model), model(**FAMILIES[family].inputs()).logits
    planned.save(tmp_path / "plan")
    assert Planned.load(tmp_path / "plan").plan == planned.plan
    model.save_pretrained(tmp_path / "plain")
    folder = tmp_path / "whole"
    save_checkpoint(model, None, folder, plan=planned.plan, factors=planned.factors)
    for back in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "plain"),
        load_checkpoint(folder),
        gacfx.load(folder)[0],
    ):
        if hasattr(back.config, "num_experts_per_tok"):
            back.set_experts_implementation("eager")
        assert decisions_in(back) == decisions_in(model)
        assert blocks_in(back) == blocks_in(model)
        assert torch.equal(back(**FAMILIES[family].inputs()).logits, logits)
        assert generated(back) == want
        shapes = {k: v.shape for k, v in back.state_dict().items()}
        assert shapes == {k: v.shape for k, v in model.state_dict().items()}
    empty = skeleton(read_config(folder))
    assert {k: v.shape for k, v in empty.state_dict().items()} == shapes
    block = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert block["format_version"] == 3
    assert block["blocks"][LAYOUTS[family].attention.format(0)] == {"kind": "skip"}


def test_the_body_alone_and_saving_what_was_loaded(tmp_path: Path) -> None:
    model, _ = pruned("llama")
    model.save_pretrained(tmp_path / "one")
    AutoModelForCausalLM.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    body = AutoModel.from_pretrained(tmp_path / "two")
    inputs = FAMILIES["llama"].inputs()
    want = model.model(**inputs).last_hidden_state
    assert torch.equal(body(**inputs).last_hidden_state, want)
    assert [*blocks_in(body)] == ["layers.0.self_attn", "layers.1.self_attn", "layers.1.mlp"]
    body.save_pretrained(tmp_path / "three")
    again = AutoModel.from_pretrained(tmp_path / "three")
    assert torch.equal(again(**inputs).last_hidden_state, want)


WITHOUT = """
import sys
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except RuntimeError as error:
        print("refused" if "ignore_mismatched_sizes" in str(error) else error)
    else:
        print("loaded")
"""


def test_plain_transformers_refuses_it(tmp_path: Path) -> None:
    kinds: list[tuple[Any, Any]] = [(mlp, None), (attention, None), (attention, Skip())]
    for at, (kind, skip) in enumerate([*kinds, (mlp, Skip())]):
        model: Any = FAMILIES["llama"].make()
        block = kind(model, "llama", 1)
        gacfx.apply_(model, plan_of(model, (block, skip or decision_of(block, (1,)))))
        model.save_pretrained(tmp_path / str(at))
    folders = [str(tmp_path / str(at)) for at in range(4)]
    done = stock.run(WITHOUT, *folders)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["refused"] * 4, done.stderr[-500:]
