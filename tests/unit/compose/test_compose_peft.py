"""LoRA on the linears inside compressed layers: trained, merged, saved, loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import gacfx
from gacfx.errors import UnsupportedModel
from gacfx.modules.install import compressed_modules, decisions_in
from tests.unit.compose import compressed
from tests.unit.compose.compressed import ids, logits

peft = pytest.importorskip("peft", reason="LoRA needs peft")

# Deprecated within transformers, and asked for by PEFT.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
TARGETS = ["up", "down", "product", "coefficients"]
"""The linears inside pairs and pivots."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed.folder(tmp_path_factory.mktemp("peft") / "small")


def trained(model: Any, steps: int = 2, rate: float = 0.05) -> list[float]:
    """Loss before each step, and after the last."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), rate)
    losses = []
    for _ in range(steps):
        loss = model(ids(), labels=ids()).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        losses.append(float(model(ids(), labels=ids()).loss))
    return losses


@pytest.mark.parametrize("targets", [TARGETS, "all-linear"])
@pytest.mark.parametrize("dora", [False, True])
def test_two_steps_then_merged_into_the_factors_and_back_from_a_folder(
    folder: Path, tmp_path: Path, targets: Any, dora: bool
) -> None:
    torch.manual_seed(0)
    small = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    setting = peft.LoraConfig(target_modules=targets, r=2, use_dora=dora, init_lora_weights=False)
    model = peft.get_peft_model(small, setting)
    inside = [n for n in model.targeted_module_names if n.rpartition(".")[2] in TARGETS]
    assert len(inside) == 2 * 4
    losses = trained(model.eval())
    assert losses[0] > losses[1] > losses[2]
    want = logits(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), want, atol=1e-5, rtol=1e-4)
    assert decisions_in(merged) == decisions_in(compressed.small())
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, before[n])}
    assert {f"{n.removeprefix('base_model.model.')}.weight" for n in inside} <= changed
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(merged))
    assert len(compressed_modules(again)) == 4
    assert gacfx.load(tmp_path)[0].state_dict().keys() == again.state_dict().keys()


def test_sites_of_a_model_with_adapters_are_shown_once_it_is_unwrapped(folder: Path) -> None:
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(target_modules=TARGETS, r=2)
    )
    with pytest.raises(UnsupportedModel, match=r"merge_and_unload\(\) first"):
        gacfx.inspect(model)
    plain = gacfx.inspect(AutoModelForCausalLM.from_pretrained(folder))
    assert gacfx.inspect(model.merge_and_unload()).rows == plain.rows
