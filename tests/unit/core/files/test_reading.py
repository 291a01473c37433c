"""Small text files that somebody named: pipes, devices, huge files and /proc are not read."""

import os
from pathlib import Path

import pytest

from gacfx.core.files.reading import read_table, read_text
from gacfx.errors import CheckpointError


def test_a_text_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("ä", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_text(tmp_path / "link") == "ä"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", "No such file"),
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe or a device"),
        ("/dev/zero", "it is a pipe or a device"),
        ("/proc/self/environ", "it is empty"),
        ("empty", "it is empty"),
        ("huge", "1,099,511,627,776 bytes, 268,435,456 at most"),
        ("latin", "can't decode"),
    ],
)
def test_what_is_not_read(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(b"\xe4")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # a hole: no byte is written
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read: .*{says}"):
        read_text(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON: "),
        ("[" * 100_000, "is not JSON: "),
        ("[1]", "is not a JSON table"),
        ("", "it is empty"),
        ('{"a": "too long"}', "17 bytes, 16 at most"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(CheckpointError, match=f"file.json: .*{says}"):
        read_table(file, most_bytes=16 if "long" in text else 1 << 20)


def test_a_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"a": {"b": [1]}}')
    assert read_table(tmp_path / "file.json") == {"a": {"b": [1]}}
