"""Plain from_pretrained refuses a folder whose files lack tensors that its decisions ask for.

Without that, transformers fills what is missing with random numbers and only warns.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import gacfx
from gacfx import api
from gacfx.core.search import Search
from gacfx.errors import CheckpointError
from tests import tiny


@pytest.fixture(scope="module")
def pivoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with pivots."""
    search = Search(form="pivot", value="fisher")
    made = gacfx.compress(
        *(tiny.llama(), tiny.tokenizer()), calibration=tiny.texts(), search=search, force=True
    )
    return api.save(made, tmp_path_factory.mktemp("pivoted") / "made")


def edited(folder: Path, out: Path, kind: str) -> Path:
    """The folder with the first pivot called another kind."""
    out.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (out / file.name).write_bytes(file.read_bytes())
    config: dict[str, Any] = json.loads((out / "config.json").read_text())
    modules = config["quantization_config"]["modules"]
    name = next(name for name, said in modules.items() if said["kind"] == "pivot")
    modules[name]["kind"] = kind
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("loader", [AutoModelForCausalLM, AutoModel])
def test_another_kind_is_not_filled_with_random_numbers(
    loader: Any, pivoted: Path, tmp_path: Path
) -> None:
    loader.from_pretrained(pivoted)
    folder = edited(pivoted, tmp_path / "low-rank", "low-rank")
    with pytest.raises(CheckpointError, match=r"the files have no down\.weight of it, .* asks for"):
        loader.from_pretrained(folder)


def test_a_missing_order_is_named(pivoted: Path, tmp_path: Path) -> None:
    folder = edited(pivoted, tmp_path / "lost", "pivot")
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if name.endswith(".order"))
    tensors.pop(lost)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the files have no order of it") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert lost.removesuffix(".order") in str(caught.value) and "\n" not in str(caught.value)
