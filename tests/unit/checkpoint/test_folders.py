"""Folders that somebody else made: names in an index, links, pipes."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from gacfx.checkpoint.load import load_dense
from gacfx.errors import CheckpointError
from tests.unit.checkpoint.tiny_models import llama, token_ids

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sharded")
    llama().save_pretrained(folder, max_shard_size="50KB")
    assert (folder / INDEX).exists()
    return folder


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(sharded, tmp_path / "model"))


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "a/../../b", ".", "", "..\\x", "a\x1b[2J", 3, ["a"], None],
)
def test_a_name_in_the_index_that_leads_out_of_the_folder_is_refused(
    folder: Path, name: object
) -> None:
    raw = json.loads((folder / INDEX).read_text())
    raw["weight_map"]["model.norm.weight"] = name
    (folder / INDEX).write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="which is no file of this folder") as caught:
        load_dense(folder)
    assert "\x1b" not in str(caught.value)


def test_links_under_plain_names_are_followed_as_in_the_cache_of_the_hub(
    folder: Path, tmp_path: Path
) -> None:
    want = load_dense(folder)[0](token_ids()).logits
    blobs = tmp_path / "models--me--m" / "blobs"
    snapshot = blobs.parent / "snapshots" / "abc"
    shutil.move(folder, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert torch.equal(load_dense(snapshot)[0](token_ids()).logits, want)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", INDEX, "model.safetensors"])
def test_a_pipe_in_a_folder_is_refused_and_not_opened(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} is a pipe or a device"):
        load_dense(folder)
