"""A compressed folder under accelerate: layers on disk and CPU, training, files that it writes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import gacfx
from gacfx.modules.carrier import NOTICE
from gacfx.modules.install import compressed_modules
from tests import stock
from tests.unit.compose import compressed
from tests.unit.compose.compressed import ids, logits, small

pytest.importorskip("accelerate", reason="offloading needs accelerate")

from accelerate import (
    Accelerator,
    cpu_offload,
    disk_offload,
    init_empty_weights,
    load_checkpoint_and_dispatch,
)

FIRST = "model.layers.0"
PARTS = {f"model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")}
LAYERS = {FIRST: "cpu", "model.layers.1": "cpu", "lm_head": "cpu"}
INSIDE = {
    f"{FIRST}.{name}": "cpu"
    for name in ("self_attn", "input_layernorm", "post_attention_layernorm", "mlp")
}
MAPS: dict[str, Any] = {
    "pairs and pivots": {**PARTS, **LAYERS, FIRST: "disk"},
    "a pruned layer": {**PARTS, **LAYERS, "model.layers.1": "disk"},
    "one mlp": {
        **PARTS,
        "model.layers.1": "cpu",
        "lm_head": "cpu",
        **INSIDE,
        f"{FIRST}.mlp": "disk",
    },
    "everything but the head": {**dict.fromkeys((*PARTS, *LAYERS), "disk"), "lm_head": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed.folder(tmp_path_factory.mktemp("accelerate") / "small")


def written(model: Any) -> Tensor:
    """Tokens that it writes, greedily."""
    out: Tensor = model.generate(ids(), max_new_tokens=6, do_sample=False, eos_token_id=None)
    return out


@pytest.mark.parametrize("name", MAPS)
def test_layers_on_disk_compute_and_write_the_same(name: str, folder: Path, tmp_path: Path) -> None:
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder, device_map=MAPS[name], offload_folder=tmp_path
    )
    places = [name for name, place in MAPS[name].items() if place == "disk"]
    on_disk = [n for n, p in found.named_parameters() if p.is_meta]
    assert on_disk and all(n.startswith(tuple(places)) for n in on_disk)
    assert torch.equal(logits(found), logits(small()))
    assert torch.equal(written(found), written(small()))


def test_a_small_memory_puts_what_does_not_fit_on_disk(folder: Path, tmp_path: Path) -> None:
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder, device_map="auto", max_memory={"cpu": 120_000}, offload_folder=tmp_path
    )
    assert "disk" in found.hf_device_map.values()
    assert torch.equal(logits(found), logits(small()))
    assert torch.equal(written(found), written(small()))


def test_a_model_in_memory_is_offloaded(tmp_path: Path) -> None:
    model, want = small(), logits(small())
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in model.parameters()) and torch.equal(logits(model), want)
    model = small()
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in model.parameters()) and torch.equal(logits(model), want)


def test_an_accelerator_trains_it() -> None:
    accelerator, model = Accelerator(cpu=True), small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    losses = []
    for _ in range(2):
        loss = model(ids(), labels=ids()).loss
        losses.append(float(loss.detach()))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    after = accelerator.unwrap_model(model)
    inside = {n for n, _ in after.named_parameters() if n.rpartition(".")[0] in _children(after)}
    assert len(inside) == 8
    assert not any(torch.equal(before[n], after.get_parameter(n)) for n in inside)


def _children(model: Any) -> set[str]:
    """Names of the linears inside compressed layers."""
    layers = compressed_modules(model).items()
    return {f"{name}.{child}" for name, layer in layers for child, _ in layer.named_children()}


STOCK = """
import sys
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
except RuntimeError as error:
    print("STOPPED", error, "gacfx" in sys.modules)
"""


def test_what_an_accelerator_writes_is_loaded_and_still_guarded(
    folder: Path, tmp_path: Path
) -> None:
    """It takes empty tensors for one that is shared, and writes a single guard of four."""
    accelerator = Accelerator(cpu=True)
    accelerator.save_model(accelerator.prepare(small()), tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    empty = [n for n, t in load_file(tmp_path / "model.safetensors").items() if not t.numel()]
    assert len(empty) == 1 and NOTICE not in empty[0]
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    found, info = loaded
    assert not any(info.values())
    for again in (found, gacfx.load(tmp_path)[0]):
        assert torch.equal(logits(again), logits(small()))
        assert again.state_dict().keys() == small().state_dict().keys()
    done = stock.run(STOCK, str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "STOPPED" in done.stdout and done.stdout.strip().endswith("False")


def test_what_safetensors_writes_of_a_model_comes_back_into_it(tmp_path: Path) -> None:
    save_model(small(), str(tmp_path / "model.safetensors"))
    again = small()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    load_model(again, str(tmp_path / "model.safetensors"))
    assert torch.equal(logits(again), logits(small()))


def test_a_dense_skeleton_is_not_filled_from_a_compressed_folder(folder: Path) -> None:
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    with pytest.raises(ValueError, match=r"shape torch.Size\(\[0\]\) in \"weight\""):
        load_checkpoint_and_dispatch(model, str(folder), device_map={"": "cpu"})
