"""lm-eval at work: requests, the model's log-likelihoods, and which answers are right.

lm-eval is no dependency of gacfx: it is imported where something is scored, and only there.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from gacfx.calibration.running import borrowed, runnable
from gacfx.core.asked import check_module
from gacfx.core.names import one_line
from gacfx.core.surroundings import plain_torch
from gacfx.errors import GacError, NoLmEval, TaskError
from gacfx.hardware.measure.memory import is_out_of_memory
from gacfx.zeroshot.items import TaskData
from gacfx.zeroshot.reader import Progress, reader_of
from gacfx.zeroshot.scores import METRICS, Scores, TaskScores, task_scores

BATCH = 8
"""Requests that the model reads at once if nothing is asked for."""
_INSTALL = 'zero-shot tasks need lm-eval: pip install "lm-eval[hf]"'


def check_installed() -> None:
    """Nothing when lm-eval can be imported; known without importing it.

    Raises:
        NoLmEval: it is not installed.
    """
    try:
        found = find_spec("lm_eval")
    except ValueError:  # a module that is blocked has no spec
        found = None
    if found is None:
        raise NoLmEval(_INSTALL)


def harness_name() -> str:
    """``lm-eval 0.4.13``."""
    try:
        return f"lm-eval {version('lm_eval')}"
    except PackageNotFoundError:
        return "lm-eval"


@plain_torch()
def score(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[TaskData],
    *,
    limit: int | None = None,
    batch: int = BATCH,
    device: torch.device | None = None,
    name: str = "model",
    progress: Progress = lambda *_: None,
) -> Scores:
    """What ``model`` scores on the tasks, without examples; it and its tokenizer stay as they were.

    Log-likelihoods are float32 whatever the dtype of the model; one in fp16 on a CPU is copied to
    float32. An item longer than the model's positions loses its beginning.

    Args:
        model: causal language model of transformers, dense or compressed.
        tokenizer: the model's.
        tasks: of :func:`gacfx.zeroshot.read_tasks`.
        limit: items of each task, its first ones; None takes all.
        batch: requests that the model reads at once.
        device: where the model is moved before, and stays; None leaves it where it is.
        name: what the model is called in the result.
        progress: called with (stage, done, total).

    Raises:
        NoLmEval: lm-eval is not installed.
        TaskError: no tokenizer, a limit or batch below 1, a data set that cannot be had, an answer
            longer than the model's positions, or a model that cannot be run.
        UnsupportedModel: what is no model.
    """
    check_module(model)
    for what, value in (("limit", limit), ("batch", batch)):
        if value is not None and (type(value) is not int or value < 1):
            raise TaskError(f"{what} {value!r}: give a whole number of at least 1")
    if tokenizer is None:
        raise TaskError(f"{name}: has no tokenizer, and tasks are text; copy its files")
    tools = lm_eval()
    with _explained(name, batch):
        model = runnable(model if device is None else model.to(device))
    with quiet(tools), borrowed(model), _explained(name, batch):
        built = {data.task.name: lm_eval_task(tools, data) for data in tasks}
        reader = reader_of(tools.model, model, tokenizer, batch, progress)
        found = tools.evaluate(reader, dict(built), limit=limit, bootstrap_iters=0)
    return Scores(name, tuple(_scores(task, found, reader) for task in built.items()))


def _scores(task: tuple[str, Any], found: Any, reader: Any) -> TaskScores:
    name, definition = task
    samples, cut = found["samples"][name], {at for of, at in reader.cut if of == name}
    return task_scores(name, samples, len(definition.eval_docs), len(cut))


class Tools(NamedTuple):
    """What gacfx calls of lm-eval."""

    evaluate: Any
    """Function: scores a model on tasks."""
    model: Any
    """Class: reads models of transformers."""
    tasks: Any
    """Module: a task from its configuration."""
    manager: Any
    """Class: finds lm-eval's own tasks."""
    dataset: Any
    """Class of a data set."""


def lm_eval() -> Tools:
    """lm-eval, which takes seconds to import.

    Raises:
        NoLmEval: it, or what it needs for models of transformers, is not installed.
    """
    check_installed()
    try:
        from datasets import Dataset
        from lm_eval.api import task
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise NoLmEval(f"{_INSTALL} ({one_line(error)})") from error
    return Tools(evaluate, HFLM, task, TaskManager, Dataset)


def task_config(data: TaskData) -> dict[str, Any]:
    """The task in lm-eval's words, without its items."""
    return {
        "task": data.task.name,
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": data.task.delimiter,
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in METRICS
        ],
        "metadata": {"version": 1},
    }


def rows(data: TaskData) -> list[dict[str, Any]]:
    """The items as lm-eval reads them: prompt, choices and gold."""
    return [
        {
            "prompt": data.task.prompt_of(item.query),
            "choices": list(item.choices),
            "gold": item.gold,
        }
        for item in data.items or ()
    ]


def lm_eval_task(tools: Tools, data: TaskData) -> Any:
    """lm-eval's task object: ours with the items that were read, or its own with its data set."""
    name = data.task.name
    if data.items is not None:
        table = tools.dataset.from_list(rows(data))
        config = {**task_config(data), "custom_dataset": lambda **_: {"test": table}}
        return tools.tasks.ConfigurableTask(config=config)
    try:
        return tools.manager().load([name])["tasks"][name]
    except Exception as error:  # whatever the hub and its client raise
        raise TaskError(
            f"{name}: its data set cannot be had ({type(error).__name__}: {one_line(error)}); go "
            "online, or give a folder with the items"
        ) from error


@contextmanager
def _explained(name: str, batch: int) -> Iterator[None]:
    """Inside, what lm-eval or the model raises becomes one line."""
    try:
        yield
    except GacError:
        raise
    except Exception as error:  # whatever lm-eval and a model's own code raise
        if is_out_of_memory(error):
            raise TaskError(f"{name}: out of memory at batch {batch}; ask for less") from error
        raise TaskError(
            f"{name}: lm-eval cannot score it: {type(error).__name__}: {one_line(error)}"
        ) from error


@contextmanager
def quiet(tools: Tools) -> Iterator[None]:
    """Inside, lm-eval gives no advice and draws no bars between our lines."""
    log = logging.getLogger("lm_eval")
    before, bar = log.level, getattr(tools.tasks, "tqdm", None)
    try:
        log.setLevel(logging.ERROR)
        if bar is not None:
            tools.tasks.tqdm = lambda items, **_: items
        yield
    finally:
        log.setLevel(before)
        if bar is not None:
            tools.tasks.tqdm = bar
