"""The short table: ratios, marked as what they are, and in words why something is slower."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from gacfx.report.speedup_view import SMALL, WHY, speedup_view
from gacfx.speedup import BATCHES, Cause, Point, Speedup

FAST = tuple(Point("prefill", batch, 120.0, 100.0, 9.0, None) for batch in BATCHES)


def slow(batch: int, planned_us: float, cause: Cause, launch_us: float = 9.0) -> Point:
    return Point("decode", batch, 100.0, planned_us, launch_us, cause)


def found(*decode: Point) -> Speedup:
    points = (*FAST, *decode)
    return Speedup("h200", 512, "eager", "bf16", "rule-based", "whole model", 3, points)


def lines(value: Speedup, width: int = 200, *, hint: bool = True) -> list[str]:
    out = StringIO()
    console = Console(width=width, file=out, highlight=False, markup=False)
    console.print(speedup_view(value, hint=hint))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_table_says_what_it_is_and_what_of() -> None:
    value = found(*(replace(point, mode="decode") for point in FAST))
    assert lines(value) == [
        "how much faster on h200 (rule-based forecast, whole model, bf16, 512 tokens)",
        "         batch 1  batch 8  batch 64",
        "prefill    1.20x    1.20x     1.20x",
        "decode     1.20x    1.20x     1.20x",
    ]
    other = replace(value, execution="compiled", scope="targeted weights only")
    assert "targeted weights only, bf16, 512 tokens, compiled)" in lines(other)[0]


def test_what_is_slower_has_its_reason_beside_it() -> None:
    value = found(slow(1, 110.0, "launch"), slow(8, 120.0, "launch"), slow(64, 105.0, "kernel"))
    (row,) = (line for line in lines(value) if line.startswith("decode"))
    assert row.split("  slower at batch ")[1] == f"1, 8: {WHY['launch']}; 64: {WHY['kernel']}"


def test_what_is_slower_by_less_than_is_shown_has_no_reason() -> None:
    value = found(slow(1, 100.4, "launch"), slow(8, 99.0, "launch"), slow(64, 99.0, "launch"))
    assert not any("slower" in line for line in lines(value))
    assert "1.00x" in lines(value)[-1]


@pytest.mark.parametrize("launch_us", [40.0, 60.0])
def test_a_small_model_is_told_where_to_look(launch_us: float) -> None:
    value = found(*(slow(batch, 140.0, "launch", launch_us) for batch in BATCHES))
    assert (lines(value)[-1] == SMALL) == (launch_us > 50)
    assert SMALL not in lines(value, hint=False)


def test_the_table_fits_a_terminal() -> None:
    value = found(*(slow(batch, 140.0, "memory") for batch in BATCHES))
    assert max(map(len, lines(value, 80))) <= 80
    assert WHY["memory"].split()[-1] in " ".join(lines(value, 80))


def test_a_dense_plan_and_a_missing_dtype_are_one_line() -> None:
    dense = replace(found(), replaced=0)
    assert lines(dense) == ["how much faster on h200: not at all, every weight stays dense"]
    none = replace(found(), points=(), refused="h200 has no bf16 matmul")
    assert lines(none) == ["how much faster on h200: no forecast, h200 has no bf16 matmul"]
