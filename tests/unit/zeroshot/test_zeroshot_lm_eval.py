"""Our tasks beside lm-eval's own definitions of them, on the same made-up questions."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make test-zeroshot")

from gacfx.zeroshot import Item, TaskData, find_tasks, harness, known_tasks, read_tasks, score
from gacfx.zeroshot.scores import METRICS
from tests import tiny
from tests.unit.zeroshot import stand_in

SPLITS = ("train", "validation", "test")


def published(name: str, item: Item) -> dict[str, Any]:
    """The item as the data set of the task has it on the hub."""
    words, answers = item.query.strip(), list(item.choices)
    labels = "ABCDE"[: len(answers)]
    if name == "piqa":
        return {"goal": words, "sol1": answers[0], "sol2": answers[1], "label": item.gold}
    if name == "hellaswag":
        scene = {"activity_label": "Tango", "ctx_a": f"{words} [step]", "ctx_b": "a cat"}
        return {**scene, "endings": answers, "label": str(item.gold)}
    choices = {"text": answers, "label": list(labels)}
    return {"question": words, "choices": choices, "answerKey": labels[item.gold]}


def ours(name: str, item: Item) -> Item:
    """The item as our files have it."""
    words = item.query.strip()
    query = f"Tango: {words} A cat" if name == "hellaswag" else f"Question: {words}"
    return Item(query, item.choices, item.gold)


@pytest.fixture
def _on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has the data set of every task; lm-eval looks at these tasks only."""
    from datasets import Dataset
    from lm_eval.api import task
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks import __file__ as there

    names = {"baber/piqa": "piqa", "Rowan/hellaswag": "hellaswag"}

    def load_dataset(path: str, name: str | None, **_: Any) -> dict[str, Any]:
        asked = names.get(path) or str(name).replace("-", "_").lower()
        rows = [published(asked, item) for item in items(asked)]
        return {split: Dataset.from_list(rows) for split in SPLITS}

    monkeypatch.setattr(task.datasets, "load_dataset", load_dataset)
    paths = [Path(there).parent / folder for folder in ("piqa", "arc", "hellaswag")]
    manager = partial(TaskManager, include_defaults=False, include_path=paths)
    tools = harness.lm_eval()._replace(manager=manager)
    monkeypatch.setattr(harness, "lm_eval", lambda: tools)


def items(name: str) -> tuple[Item, ...]:
    return stand_in.items(12, 2 if name == "piqa" else 4)


def requests(task: Any) -> list[Any]:
    """Prompt and answer of every request, and the place of the right answer."""
    asked = []
    for place, doc in enumerate(task.eval_docs):
        prompt = task.fewshot_context(doc, num_fewshot=0)
        made = task.construct_requests(doc=doc, ctx=prompt, metadata=(task.task_name, place, 1))
        asked.append(([request.args for request in made], int(task.doc_to_target(doc))))
    return asked


@pytest.mark.usefixtures("_on_the_hub")
@pytest.mark.parametrize("name", [task.name for task in known_tasks()])
def test_a_task_asks_what_lm_evals_own_asks(name: str) -> None:
    data = TaskData(find_tasks([name])[0], tuple(ours(name, item) for item in items(name)))
    tools = harness.lm_eval()
    (theirs,) = read_tasks([name])
    with harness.quiet(tools):
        assert requests(harness.lm_eval_task(tools, data)) == requests(
            harness.lm_eval_task(tools, theirs)
        )
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    assert score(model, tokenizer, [data]) == score(model, tokenizer, [theirs])


def test_means_and_errors_are_lm_evals_own() -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    model, tokenizer, data = tiny.llama(), tiny.tokenizer(), stand_in.data()
    found = score(model, tokenizer, [data]).tasks[0]
    task = harness.lm_eval_task(harness.lm_eval(), data)
    printed = evaluate(HFLM(pretrained=model, tokenizer=tokenizer), {"piqa": task})
    theirs = printed["results"]["piqa"]
    for metric in METRICS:
        mean = found.of(metric)
        assert mean.mean == pytest.approx(theirs[f"{metric},none"])
        assert mean.stderr == pytest.approx(theirs[f"{metric}_stderr,none"])
