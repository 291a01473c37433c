"""Scores from samples: means, errors, changes item by item, and JSON."""

import json
from math import nan, sqrt
from typing import Any

import pytest

from gacfx.errors import TaskError
from gacfx.zeroshot import Mean, Scores, TaskScores, ZeroShot
from gacfx.zeroshot.scores import average, mean_of, task_scores


def sample(place: int, acc: float, acc_norm: float, answers: int = 2) -> dict[str, Any]:
    nats = [(-float(k), False) for k in range(answers)]
    return {"doc_id": place, "acc": acc, "acc_norm": acc_norm, "filtered_resps": nats}


def scores(name: str, *right: int, given: int = 100, task: str = "piqa") -> Scores:
    samples = [sample(place, one, 1 - one) for place, one in enumerate(right)]
    return Scores(name, (task_scores(task, samples, given),))


def test_the_error_of_a_share_is_the_binomial_one() -> None:
    found = mean_of([1.0] * 3 + [0.0] * 7)
    assert found.mean == pytest.approx(0.3)
    assert found.stderr == pytest.approx(sqrt(0.3 * 0.7 / 9))


def test_one_item_has_no_error() -> None:
    assert mean_of([1.0]) == Mean(1.0, None)
    assert average([Mean(1.0, None), Mean(0.0, 0.1)]) == Mean(0.5, None)


def test_errors_of_tasks_add_up_in_squares() -> None:
    found = average([Mean(0.4, 0.03), Mean(0.6, 0.04)])
    assert found.mean == pytest.approx(0.5)
    assert found.stderr == pytest.approx(0.025)


def test_samples_are_put_in_order_and_chance_counts_their_answers() -> None:
    found = task_scores("piqa", [sample(1, 0.0, 1.0, 4), sample(0, 1.0, 0.0)], given=9, cut=1)
    assert found.right == {"acc": (True, False), "acc_norm": (False, True)}
    assert found.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert (found.items, found.given, found.cut) == (2, 9, 1)


def test_a_log_likelihood_that_is_no_number_is_refused() -> None:
    bad = {**sample(4, 1.0, 1.0), "filtered_resps": [(-1.0, False), (nan, False)]}
    with pytest.raises(TaskError, match="piqa: the model's logits are NaN .* on item 5"):
        task_scores("piqa", [sample(0, 1.0, 1.0), bad], given=9)


def test_a_change_is_taken_item_by_item() -> None:
    dense, small = scores("dense", 1, 1, 1, 0, 0, 1), scores("small", 1, 1, 0, 0, 0, 1)
    change = small.tasks[0].change(dense.tasks[0], "acc")
    assert change.mean == pytest.approx(-1 / 6)
    assert change.stderr == pytest.approx(1 / 6)  # one of six items changed
    apart = [side.tasks[0].acc.stderr or 0.0 for side in (dense, small)]
    assert min(apart) > 1 / 6
    assert not change.clear and not small.tasks[0].change(small.tasks[0], "acc").clear
    assert Mean(-0.3, 0.1).clear and not Mean(-0.3, None).clear


def test_models_scored_on_other_items_have_no_change() -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        scores("a", 1, 0).tasks[0].change(scores("b", 1).tasks[0], "acc")


def test_json_has_every_figure() -> None:
    dense, small = scores("dense", 1, 1, 1, 0), scores("small", 1, 0, 1, 0)
    found = json.loads(json.dumps(ZeroShot(small, dense, "folder", "lm-eval 1").to_dict()))
    task = found["model"]["tasks"]["piqa"]
    error = pytest.approx(sqrt(0.25 / 3))
    counts = {"items": 4, "given": 100, "chance": 0.5, "cut": 0}
    means = {"acc": 0.5, "acc_stderr": error, "acc_norm": 0.5, "acc_norm_stderr": error}
    assert task == counts | means
    assert (found["harness"], found["data"]) == ("lm-eval 1", "folder")
    assert found["dense"]["tasks"]["piqa"]["acc"] == 0.75
    assert found["change"]["tasks"]["piqa"]["acc"] == -0.25
    assert found["change"]["mean"] == found["change"]["tasks"]["piqa"]
    alone = ZeroShot(small).to_dict()
    assert alone["dense"] is alone["change"] is alone["data"] is None


def test_the_mean_is_that_of_the_tasks() -> None:
    piqa, arc = scores("m", 1, 1, 1, 0).tasks[0], scores("m", 0, 1).tasks[0]
    both = Scores("m", (piqa, TaskScores("arc_easy", 2, 0.25, arc.right)))
    assert both.mean("acc").mean == pytest.approx((0.75 + 0.5) / 2)
    assert both.chance == pytest.approx(0.375)
