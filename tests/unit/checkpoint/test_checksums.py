"""gacfx_files.json: what is written of every file, and what is found when one is another."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx.checkpoint.checksums import FILES, Checked, verify_checksums, write_checksums
from gacfx.checkpoint.load import load_checkpoint
from gacfx.checkpoint.save import save_checkpoint
from gacfx.errors import CheckpointError
from gacfx.modules.install import install_
from tests.unit.checkpoint.tiny_models import factors_for, llama, plan_for


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = llama()
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    install_(model, factors)
    out = tmp_path_factory.mktemp("written") / "small"
    return save_checkpoint(model, None, out, plan=plan, factors=factors, report={})


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(written, tmp_path / "small"))


def listed(folder: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((folder / FILES).read_text())
    return raw


def test_every_file_of_a_checkpoint_is_listed_in_order(written: Path) -> None:
    raw = listed(written)
    assert list(raw) == ["format", "version", "files"]
    assert (raw["format"], raw["version"]) == ("gacfx-files", 1)
    there = [path for path in written.rglob("*") if path.is_file() and path.name != FILES]
    assert list(raw["files"]) == sorted(path.relative_to(written).as_posix() for path in there)
    assert {"model.safetensors", "plan/plan.json", "README.md"} <= raw["files"].keys()
    assert all(
        raw["files"][p.relative_to(written).as_posix()]["bytes"] == p.stat().st_size for p in there
    )


def test_the_digests_are_those_of_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    write_checksums(tmp_path)
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert listed(tmp_path)["files"] == {"a": {"bytes": 3, "sha256": known}}


def test_a_written_folder_is_whole(written: Path) -> None:
    found = verify_checksums(written)
    assert found == Checked(len(listed(written)["files"]), (), (), (), ()) and found.whole


def test_random_bytes_in_a_weight_file_are_found(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    for spot in range(len(whole) - 64, len(whole)):
        whole[spot] ^= spot * 37 % 255 + 1
    weights.write_bytes(whole)
    found = verify_checksums(folder)
    assert found.changed == ("model.safetensors",) and not found.whole
    assert (found.missing, found.links, found.added) == ((), (), ())


def test_random_bytes_pass_the_loader(folder: Path) -> None:
    """Why the list is there: safetensors checks sizes only."""
    weights = folder / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    whole[-64:-60] = b"\x00\x00\x00\x3f"  # a finite number
    weights.write_bytes(whole)
    load_checkpoint(folder)
    assert verify_checksums(folder).changed == ("model.safetensors",)


def test_missing_added_and_grown_files_are_told_apart(folder: Path) -> None:
    (folder / "plan" / "plan.json").unlink()
    (folder / "README.md").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").touch()
    found = verify_checksums(folder)
    assert (found.changed, found.missing) == (("README.md",), ("plan/plan.json",))
    assert found.added == ("notes/mine.txt",)


def test_an_added_file_is_no_fault(folder: Path) -> None:
    (folder / "mine.txt").touch()
    found = verify_checksums(folder)
    assert found.added == ("mine.txt",) and found.whole


def test_links_out_of_the_folder_are_reported_and_not_followed(folder: Path) -> None:
    outside = folder.parent / "outside"
    shutil.copytree(folder, outside)
    for name in ("README.md", "plan"):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
    found = verify_checksums(folder)
    assert found.links == ("README.md", "plan/factors.safetensors", "plan/plan.json")
    assert not found.whole and found.added == ("plan",)


def test_a_link_within_the_folder_and_one_to_the_folder_are_followed(folder: Path) -> None:
    (folder / "README.md").rename(folder / "card")
    (folder / "README.md").symlink_to("card")
    (folder.parent / "link").symlink_to(folder)
    found = verify_checksums(folder.parent / "link")
    assert found.whole and found.added == ("card",)


def test_a_link_within_the_folder_that_leads_nowhere_is_a_missing_file(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("gone")
    found = verify_checksums(folder)
    assert found.missing == ("README.md",) and not found.whole


def test_a_folder_called_blobs_is_no_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "blobs").mkdir()
    home = Path(folder.rename(tmp_path / "mine" / "small"))
    (home / "README.md").rename(tmp_path / "blobs" / "card")
    (home / "README.md").symlink_to(tmp_path / "blobs" / "card")
    assert verify_checksums(home).links == ("README.md",)


def test_a_snapshot_in_the_cache_of_the_hub_is_whole(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--me--small"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / "abc"
    for number, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        there = snapshot / file.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        file.rename(home / "blobs" / str(number))
        up = Path(*[".."] * len(there.parent.relative_to(home).parts))
        there.symlink_to(up / "blobs" / str(number))
    assert verify_checksums(snapshot).whole
    load_checkpoint(snapshot)


def test_a_pipe_in_place_of_a_file_is_not_opened(folder: Path) -> None:
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    assert verify_checksums(folder).changed == ("README.md",)


def test_a_folder_without_the_list(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="by an older gacfx or not by gacfx"):
        verify_checksums(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        verify_checksums(tmp_path / "none")


ENTRY = {"bytes": 1, "sha256": "0" * 64}


def _named(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["files"].update({name: ENTRY})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        *(
            (_named(name), "which is no other file of this folder")
            for name in (
                "../x",
                "/etc/passwd",
                "a/../b",
                "a//b",
                "./a",
                "",
                "C:\\x",
                "a\x1b[2J",
                FILES,
            )
        ),
        (lambda raw: raw.update(version=2), "version 2; this gacfx reads 1"),
        (lambda raw: raw.update(version=True), "version True"),
        (lambda raw: raw.update(format="x"), "format: Input should be 'gacfx-files'"),
        (lambda raw: raw.update(more=1), "more: Unexpected keyword argument"),
        (lambda raw: raw.pop("files"), "files: Field required"),
        (lambda raw: raw.update(files=[]), "files: "),
        (lambda raw: raw["files"].update(a={**ENTRY, "mode": 1}), "mode: Unexpected"),
        (lambda raw: raw["files"].update(a={**ENTRY, "bytes": "1"}), "files.a.bytes: "),
        (lambda raw: raw["files"].update(a={**ENTRY, "bytes": -1}), "a: its size or its sha256"),
        (lambda raw: raw["files"].update(a={**ENTRY, "sha256": "0"}), "a: its size or its sha256"),
        (lambda raw: raw["files"].update({"\x1b[2J": 3}), r"\\x1b"),
    ],
)
def test_a_list_that_is_refused(
    folder: Path, spoil: Callable[[dict[str, Any]], object], says: str
) -> None:
    raw = listed(folder)
    spoil(raw)
    (folder / FILES).write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=says) as caught:
        verify_checksums(folder)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_that_is_a_link_or_no_json(folder: Path) -> None:
    (folder / FILES).rename(folder.parent / "outside.json")
    (folder / FILES).symlink_to(folder.parent / "outside.json")
    with pytest.raises(CheckpointError, match="is a link that leads out of the folder"):
        verify_checksums(folder)
    (folder / FILES).unlink()
    (folder / FILES).write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        verify_checksums(folder)
