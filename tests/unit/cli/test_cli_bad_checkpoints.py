"""Checkpoints of several files, one of which is broken: one line, and nothing is written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gacfx.cli import main
from tests import tiny

INDEX = "model.safetensors.index.json"
UP = "model.layers.0.mlp.up_proj.weight"


def sharded(folder: Path, **settings: Any) -> Path:
    """A tiny Llama in files of at most 40 kB."""
    tiny.llama(**settings).save_pretrained(folder, max_shard_size="40KB")
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sharded(tmp_path_factory.mktemp("models") / "dense", hidden=32, width=48)
    assert len(shards(folder)) > 2
    return folder


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def shard_of(folder: Path, weight: str) -> Path:
    return folder / str(json.loads((folder / INDEX).read_text())["weight_map"][weight])


def edit(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def listed(folder: Path, weight: str, file: str | None) -> None:
    """Another entry of the index; None to take it out."""
    raw = json.loads((folder / INDEX).read_text())
    raw["weight_map"][weight] = file
    raw["weight_map"] = {name: each for name, each in raw["weight_map"].items() if each}
    (folder / INDEX).write_text(json.dumps(raw))


def missing(folder: Path) -> None:
    shards(folder)[1].unlink()


def truncated(folder: Path) -> None:
    shards(folder)[1].write_bytes(shards(folder)[1].read_bytes()[:-1])


def header_only_begun(folder: Path) -> None:
    shards(folder)[1].write_bytes(shards(folder)[1].read_bytes()[:20])


def other_shapes(folder: Path) -> None:
    edit(shard_of(folder, UP), lambda found: {k: torch.zeros(3, 5) for k in found})


def other_names(folder: Path) -> None:
    edit(
        shard_of(folder, UP),
        lambda found: {k.replace("layers", "blocks"): each for k, each in found.items()},
    )


def weight_in_no_file_and_no_index(folder: Path) -> None:
    edit(shard_of(folder, UP), lambda found: {k: each for k, each in found.items() if k != UP})
    listed(folder, UP, None)


def file_that_is_not_there(folder: Path) -> None:
    listed(folder, UP, "model-00077-of-00077.safetensors")


def no_json(folder: Path) -> None:
    (folder / INDEX).write_text("{ model")


def weight_that_no_file_has(folder: Path) -> None:
    listed(folder, "model.layers.9.mlp.up_proj.weight", shards(folder)[0].name)


def not_a_number(folder: Path) -> None:
    edit(shard_of(folder, UP), lambda found: {**found, UP: found[UP] * torch.nan})


@pytest.mark.parametrize("command", ["compress", "statistics"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing, "model-00002-of-00004.safetensors: is missing, truncated"),
        (truncated, "model-00002-of-00004.safetensors: is missing, truncated"),
        (header_only_begun, "model-00002-of-00004.safetensors: is missing, truncated"),
        (other_shapes, "are of another shape than the model needs: "),
        (other_names, f"index.json: no file has 11 of the weights that it names, .* {UP}"),
        (weight_in_no_file_and_no_index, f"1 weights are missing and would be random: {UP}"),
        (file_that_is_not_there, "model-00077-of-00077.safetensors: is missing"),
        (no_json, "model.safetensors.index.json: is not JSON"),
        (weight_that_no_file_has, r"no file has 1 of the .* model.layers.9.mlp.up_proj.weight$"),
        (not_a_number, f"{UP}: NaN or infinite values"),
    ],
)
def test_one_line_names_what_is_broken(
    command: str,
    spoil: Callable[[Path], None],
    says: str,
    dense: Path,
    text: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = Path(shutil.copytree(dense, tmp_path / "model"))
    spoil(model)
    where = "--out" if command == "compress" else "--work"
    words = [command, str(model), "--calibration", str(text), where, str(tmp_path / "made")]
    assert main(words) == 1
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"gacfx {command}: ") and printed.out == ""
    assert re.search(says, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_weight_that_lies_in_another_file_than_its_index_says_is_read(
    dense: Path, tmp_path: Path
) -> None:
    from gacfx.checkpoint.load import load_dense

    model = Path(shutil.copytree(dense, tmp_path / "model"))
    other = next(each for each in shards(model) if each != shard_of(model, UP))
    listed(model, UP, other.name)
    found, wanted = (load_dense(each)[0].state_dict()[UP] for each in (model, dense))
    assert torch.equal(found, wanted)
