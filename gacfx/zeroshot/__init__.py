"""Zero-shot scores: questions with several answers, of which the model takes the likeliest.

    model, tokenizer = gacfx.load("small")
    scores = score(model, tokenizer, read_tasks(["piqa"], data="folder"))
    scores.tasks[0].acc

lm-eval runs the model and judges the answers; gacfx brings the model, dense or compressed, and the
items, and says how sure the scores are.
"""

from gacfx.zeroshot.harness import score
from gacfx.zeroshot.items import Item, TaskData, read_tasks
from gacfx.zeroshot.scores import Mean, Scores, TaskScores, ZeroShot
from gacfx.zeroshot.task import Task, find_tasks, known_tasks

__all__ = [
    "Item",
    "Mean",
    "Scores",
    "Task",
    "TaskData",
    "TaskScores",
    "ZeroShot",
    "find_tasks",
    "known_tasks",
    "read_tasks",
    "score",
]
