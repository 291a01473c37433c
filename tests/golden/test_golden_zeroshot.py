"""What ``gacfx eval --tasks`` prints, of made-up answers, within 80 columns."""

from gacfx.report.zeroshot_view import zeroshot_view
from gacfx.zeroshot import Scores, TaskScores, ZeroShot
from tests.golden.goldens import check, render

HARNESS = "lm-eval 0.4.13"


def answers(items: int, every: int, more: int = 0) -> tuple[bool, ...]:
    """Every so many is right, and ``more`` of the others."""
    wrong = [place for place in range(items) if place % every]
    also = set(wrong[: 2 * more : 2])
    return tuple(place % every == 0 or place in also for place in range(items))


def task(name: str, items: int, given: int, chance: float, more: int, cut: int = 0) -> TaskScores:
    every = round(1 / chance)
    right = {"acc": answers(items, every, more), "acc_norm": answers(items, every, more // 2)}
    return TaskScores(
        name, given, chance, {"acc": right["acc"], "acc_norm": right["acc_norm"]}, cut
    )


def small(more: int = 100) -> Scores:
    return Scores(
        "llama-small",
        (
            task("piqa", 1838, 1838, 0.5, more),
            task("arc_challenge", 1172, 1172, 0.25, more, cut=12),
            task("hellaswag", 1000, 10042, 0.25, more),
        ),
    )


DENSE = Scores("Meta-Llama-3-8B", (*small(240).tasks[:1], *small(110).tasks[1:]))


def test_one_model_alone() -> None:
    text = render(zeroshot_view(ZeroShot(small(), None, None, HARNESS)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    check("zeroshot_alone", text)


def test_a_comparison() -> None:
    text = render(zeroshot_view(ZeroShot(small(), DENSE, "data", HARNESS)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    check("zeroshot_compared", text)


def test_one_item_of_one_task() -> None:
    found = ZeroShot(Scores("small", (task("piqa", 1, 1838, 0.5, 0),)), None, None, HARNESS)
    lines = render(zeroshot_view(found), width=80).splitlines()
    assert lines[2].split() == ["piqa", "1", "of", "1,838", "0.500", *["1.000", "±", "-"] * 2]
    assert not any(line.startswith("mean") for line in lines)
