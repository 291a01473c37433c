"""Task files: whole, in one format, and asked for by name."""

import json
from pathlib import Path

import pytest

import gacfx.zeroshot
from gacfx.errors import TaskError
from gacfx.zeroshot import find_tasks, known_tasks
from gacfx.zeroshot.task import task_of

FILES = sorted((Path(gacfx.zeroshot.__file__).parent / "tasks").glob("*"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_task_file_is_whole(file: Path) -> None:
    raw = json.loads(file.read_text(encoding="utf-8"))
    task = task_of(raw)
    assert file.name == f"{task.name}.json"
    assert all(isinstance(value, str) and value for key, value in raw.items() if key != "version")
    assert "arXiv" in task.source


def test_there_are_four_tasks_by_name() -> None:
    names = [task.name for task in known_tasks()]
    assert names == sorted(names) == ["arc_challenge", "arc_easy", "hellaswag", "piqa"]


def test_prompts_are_those_that_scores_are_published_for() -> None:
    asked = {
        task.name: task.prompt_of("Question: Why?\n") + task.delimiter for task in known_tasks()
    }
    question = "Question: Why?\nAnswer: "
    assert asked.pop("hellaswag") == "Question: Why? "
    assert asked == dict.fromkeys(["piqa", "arc_easy", "arc_challenge"], question)


def test_braces_in_a_query_stay() -> None:
    (piqa,) = find_tasks(["piqa"])
    assert piqa.prompt_of("{query} {0} {") == "{query} {0} {\nAnswer:"


def test_tasks_are_found_in_the_order_asked_for_and_once() -> None:
    found = find_tasks(["piqa", "arc_easy", "piqa"])
    assert [task.name for task in found] == ["piqa", "arc_easy"]


@pytest.mark.parametrize("name", ["mmlu", "", "PIQA", "piqa.json", "../piqa", "a\x1b[2J"])
def test_an_unknown_task_lists_those_there_are(name: str) -> None:
    with pytest.raises(TaskError, match="known: arc_challenge, arc_easy, hellaswag, piqa") as said:
        find_tasks(["piqa", name])
    assert str(said.value).isprintable()


def test_no_name_is_refused() -> None:
    with pytest.raises(TaskError, match="no task is named; known: arc_challenge"):
        find_tasks([])


def test_a_file_of_another_format_is_refused() -> None:
    raw = json.loads(FILES[0].read_text(encoding="utf-8"))
    with pytest.raises(TaskError, match="format gacfx-task, version 1"):
        task_of({**raw, "version": 2})
    with pytest.raises(TaskError, match="has no {query}"):
        task_of({**raw, "prompt": "Answer:"})
