"""A checkpoint that is dequantized while it loads is saved as what it is in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from gacfx import api
from gacfx.checkpoint.hf import declare_
from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.checkpoint.written import check_written
from tests import tiny

BLOCK = 128
LARGEST = 448.0
"""Of float8_e4m3fn."""


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose projections are float8 with one scale for each block of 128 x 128."""
    folder = tmp_path_factory.mktemp("fp8")
    model = tiny.llama(hidden=128, width=256).to(torch.bfloat16)
    model.save_pretrained(folder)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        tensors[name] = weight.clone()
        if "proj" in name:
            blocks = tuple(-(-size // BLOCK) for size in weight.shape)
            scale = torch.full(blocks, float(weight.abs().max()) / LARGEST)
            tensors[name] = (weight.float() / scale[0, 0]).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config))
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("way", ["gacfx.save", "save_pretrained"])
@pytest.mark.filterwarnings("ignore:.*FP8.*")
def test_what_is_saved_is_what_was_compressed(fp8: Path, way: str, tmp_path: Path) -> None:
    model, tokenizer = api.load(fp8)
    made = api.compress(model, tokenizer, calibration=tiny.texts(), ratio="0.2")
    out = tmp_path / "out"
    if way == "gacfx.save":
        api.save(made, out)
    else:
        made.model.save_pretrained(out)
    again: Any = AutoModelForCausalLM.from_pretrained(out)
    pairs = zip(made.model.named_parameters(), again.named_parameters(), strict=True)
    assert all(n == m and torch.equal(p, q) for (n, p), (m, q) in pairs)
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        assert torch.equal(made.model(ids)[0], again(ids)[0])


@pytest.mark.filterwarnings("ignore:.*FP8.*")
def test_the_format_of_the_source_is_not_made_again(fp8: Path, tmp_path: Path) -> None:
    model, _ = api.load(fp8)
    save_pretrained(model, tmp_path)
    check_written(model, tmp_path)


@pytest.mark.filterwarnings("ignore:.*FP8.*")
def test_what_is_compressed_forgets_the_format_of_its_source(fp8: Path) -> None:
    model, _ = api.load(fp8)
    declare_(model)
    assert model._weight_conversions == []
