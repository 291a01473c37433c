"""Tables of prompt-aware ranks on a terminal of 80 columns, to the letter, and of odd contents."""

from typing import Any

import pytest
from rich.console import RenderableType

from gacfx.hardware.measure.interleave import Interval
from gacfx.report.route_view import cost_view, picks_view, trained_view
from gacfx.routing.evaluate import Row
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE, Cell
from tests.golden.goldens import check, render

REPORT = {
    "kinds": ["code", "prose"],
    "prompts": [1204, 1],
    "prompt_tokens": 96,
    "block": 16,
    "active_share": 0.5981,
    "stored_share": 1.2493,
    "plan": "own ranks, half shared",
    "trials": {
        "own ranks, half shared": 2.81724,
        "planned pools": 2.8201,
        "own ranks": 2.9,
        "static": 3.1,
    },
    "decisions": {"low-rank": 12, "routed": 180, "dense": 18},
}
ROWS = [
    Row("code", 340, 32640, 2.9071, 2.7112, 2.4503, 0.4662, 0.3171, {"code": 331, "prose": 1}),
    Row("prose", 1200, 115200, 3.4, 3.41, 3.3, 0.1, 0.11, {"prose": 700, "static prefix": 500}),
]


def report(**more: Any) -> dict[str, Any]:
    return {"routing": {**REPORT, **more}}


def exactly(us: float) -> Interval:
    return Interval(us, us, us, 0.95)


def cell(mode: str, *, dense: bool = True, batch: int = 1, seq: int = 128) -> Cell:
    ways = {"static": 800.0, AGGREGATED: 820.0, GATHERED: 1500.0, WHOLE: 1300.0}
    if dense:
        ways = {"dense": 1000.0, **ways}
    us = {name: exactly(each) for name, each in ways.items()}
    return Cell(mode, batch, seq, us, exactly(120.0), exactly(60.0))


def lines_of(view: RenderableType, width: int = 80) -> list[str]:
    return render(view, width).splitlines()


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("route_trained", trained_view(report())),
        (
            "route_trained_static",
            trained_view(
                report(
                    plan="static",
                    decisions={"low-rank": 192, "routed": 0, "dense": 18},
                    trials={"static": 3.1, "planned pools": 3.2},
                )
            ),
        ),
        ("route_picks", picks_view(ROWS, 96)),
        ("route_cost", cost_view([cell("prefill"), cell("decode")], "AMD EPYC, 1 thread")),
    ],
)
def test_80_columns_hold_it(name: str, view: RenderableType) -> None:
    text = render(view, width=80)
    assert max(map(len, text.splitlines())) <= 80
    check(name, text)


def test_without_the_dense_model_nothing_of_it_is_shown() -> None:
    rows = [
        Row("code", 1, 96, 2.9, 2.7, None, None, None, {"code": 1}),
        Row("prose", 12, 96, 3.4, 3.5, None, None, None, {}),
    ]
    lines = lines_of(picks_view(rows, 1))
    assert lines[0] == "loss behind prompts of 1 token, nats per token"
    assert lines[1].split() == ["text", "prompts", "static", "picked"]
    assert not any("dense" in line for line in lines)
    assert lines[-1] == "code: 1 code"  # a router of scores knows no kinds


def test_a_loss_that_was_nothing_has_no_change() -> None:
    row = Row("code", 1, 96, 2.9, 2.9, 2.9, 0.0, 0.0, {"code": 1})
    assert "+0.0%" in render(picks_view([row], 96), 80)


def test_times_without_the_dense_model_and_of_many_workloads() -> None:
    (alone,) = [cell("decode", dense=False)]
    assert not any("dense" in line for line in lines_of(cost_view([alone], "NVIDIA H200")))
    many = [cell("prefill", batch=batch, seq=131072) for batch in (1, 8, 64, 128, 256)]
    lines = lines_of(cost_view(many, "NVIDIA H200"))
    assert max(map(len, lines)) <= 80
    assert sum(line.split().count("prefill") for line in lines if ":" not in line) == 5


@pytest.mark.parametrize("width", [60, 80, 240])
def test_long_names_are_folded_and_not_cut(width: int) -> None:
    name = "a_text_of_a_name_" * 7
    row = Row(name, 10**6, 10**8, 12.5, 12.25, 12.125, 10.5, 11.5, {name: 5, "static prefix": 9})
    for view in (picks_view([row], 96), trained_view(report(kinds=[name, "prose"]))):
        lines = lines_of(view, width)
        assert max(map(len, lines)) <= width
        assert name[:20] in "".join(lines)
        assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)


def test_markup_in_a_name_is_text() -> None:
    row = Row("[red]x[/red]", 1, 96, 2.9, 2.7, None, None, None, {"[bold]": 1})
    text = render(picks_view([row], 96), 80)
    assert "[red]x[/red]" in text and "[bold]" in text


def test_many_kinds_break_between_them() -> None:
    kinds = [f"kind {at}" for at in range(1, 31)]
    text = render(trained_view(report(kinds=kinds, prompts=[60] * 30)), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(at for at, line in enumerate(lines) if line.startswith("kinds of text"))
    assert all(line.rstrip(",").endswith("prompts)") for line in lines[first : first + 5])
