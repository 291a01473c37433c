"""Items from a folder: what is read, and every bad line by its number."""

import json
from pathlib import Path

import pytest

from gacfx.errors import CheckpointError, TaskError
from gacfx.zeroshot import Item, read_tasks
from gacfx.zeroshot.items import data_file, read_items

GOOD = {"query": "Question: Why?", "choices": ["yes", "no"], "gold": 1}


def line(**changed: object) -> str:
    return json.dumps({**GOOD, **changed})


def refused(tmp_path: Path, text: str) -> str:
    """The message for a file of one good line and ``text``, without the path."""
    file = tmp_path / "piqa.jsonl"
    file.write_text(f"{line()}\n{text}\n", encoding="utf-8")
    with pytest.raises(TaskError) as said:
        read_items(file)
    where, _, message = str(said.value).partition(" ")
    assert where == f"{file}:2:"
    assert "\n" not in message
    return message


def test_items_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    file = tmp_path / "piqa.jsonl"
    raw = line(query="a\u2028b", extra=1).replace("\\u2028", "\u2028")
    file.write_text(f"\ufeff{line()}\r\n\n{raw}\n  \n", encoding="utf-8")
    assert read_items(file) == (
        Item("Question: Why?", ("yes", "no"), 1),
        Item("a\u2028b", ("yes", "no"), 1),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"query": "a", "choi', "not JSON (Unterminated string"),
        ("[" * 100_000, "not JSON (maximum recursion"),
        ("[1, 2]", "[1, 2] is no item; each line is {"),
        ('"text"', "'text' is no item"),
        (line(query=None), "query None is no text"),
        (line(query=" \n"), "query ' \\n' is no text"),
        (line(query="half \ud800"), "is no text"),
        (line(choices="yes"), "choices 'yes' are not two or more texts"),
        (line(choices=["yes"]), "choices ['yes'] are not two or more texts"),
        (line(choices=["yes", ""]), "are not two or more texts"),
        (line(choices=["yes", 3]), "are not two or more texts"),
        (line(gold=2), "gold 2 is no place in 2 choices, from 0"),
        (line(gold=-1), "gold -1 is no place"),
        (line(gold=True), "gold True is no place"),
        (line(gold="1"), "gold '1' is no place"),
        (line(gold=1.0), "gold 1.0 is no place"),
    ],
    ids=range(16),
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "piqa.jsonl"
    file.write_text("\n \n")
    with pytest.raises(TaskError, match="holds no item"):
        read_items(file)
    file.write_bytes(b'{"query": "\xff"}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_items(file)


def test_the_whole_data_set_goes_before_a_part_of_it(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"has no piqa.jsonl; each line is {\"query\""):
        data_file(tmp_path, "piqa")
    (tmp_path / "piqa_1000.jsonl").touch()
    (tmp_path / "piqa_hard.jsonl").touch()
    assert data_file(tmp_path, "piqa").name == "piqa_1000.jsonl"
    (tmp_path / "piqa_20.jsonl").touch()
    with pytest.raises(TaskError, match="several parts of piqa: piqa_1000.jsonl, piqa_20.jsonl"):
        data_file(tmp_path, "piqa")
    (tmp_path / "piqa.jsonl").touch()
    assert data_file(tmp_path, "piqa").name == "piqa.jsonl"


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no such folder"):
        read_tasks(["piqa"], tmp_path / "no")
    (tmp_path / "file").touch()
    with pytest.raises(TaskError, match="is a file; name its folder"):
        read_tasks(["piqa"], tmp_path / "file")


def test_every_file_is_looked_for_before_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "piqa.jsonl").write_text("no item")
    with pytest.raises(TaskError, match="has no arc_easy.jsonl"):
        read_tasks(["piqa", "arc_easy"], tmp_path)


def test_without_a_folder_the_items_are_left_to_lm_eval() -> None:
    (found,) = read_tasks(["piqa"])
    assert (found.task.name, found.items, found.file) == ("piqa", None, None)


def test_a_task_says_where_its_items_were_read(tmp_path: Path) -> None:
    (tmp_path / "piqa.jsonl").write_text(line())
    (found,) = read_tasks(["piqa"], tmp_path)
    assert found.file == str(tmp_path / "piqa.jsonl")
    assert found.items == (Item("Question: Why?", ("yes", "no"), 1),)
