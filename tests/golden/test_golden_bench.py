"""What ``gacfx bench`` prints, of made-up times: every kind of row, within 80 columns."""

from gacfx.bench import Bench, Cell, Effort, Machine, Setting, Side
from gacfx.bench.result import measured
from gacfx.core.sites import Mode, Workload
from gacfx.hardware.measure.interleave import Rounds
from gacfx.report.bench_view import bench_view, three
from tests.golden.goldens import check, render

MACHINE = Machine("cpu", "Some CPU @ 2.00GHz", 2, {"torch": "2.13.0"})
SMALL = Side("llama-small", "LlamaForCausalLM", 6_400_000_000, "bf16", 224, 449)
DENSE = Side("Meta-Llama-3-8B", "LlamaForCausalLM", 8_030_261_248, "bf16", 0, 225)
COMPARED = "2 more matmul calls x 5.0 us, 15 us lost: launch-bound"


def cell(mode: Mode, batch: int, *medians_us: float, runs: int = 11) -> Cell:
    """A cell whose times spread by a tenth to either side, of the dense model by its half."""
    samples = [
        tuple(us * (1 + (k - runs // 2) / 50 / (side + 1)) for k in range(runs))
        for side, us in enumerate(medians_us)
    ]
    return measured(Workload(batch, 512, mode), Rounds(tuple(samples), 1))


def made(*cells: Cell, dense: Side | None = DENSE) -> Bench:
    asked = Setting(seq=512, effort=Effort())
    return Bench("2026-01-02T03:04:05+00:00", MACHINE, asked, SMALL, dense, cells)


def compared() -> Bench:
    slower = cell("decode", 1, 2015.0, 1800.0)
    reason = "needs at least 64.0 GiB beside the weights; 12.5 are free"
    return made(
        cell("prefill", 1, 1.02e5, 1.3e5),
        cell("prefill", 8, 1.234e6, 1.236e6),
        Cell(Workload(64, 512), "skipped", reason),
        Cell(Workload(128, 512), "skipped", reason),
        Cell(slower.work, "measured", "", slower.model, slower.dense, slower.ratio, why=COMPARED),
        Cell(Workload(64, 512, "decode"), "out of memory"),
        Cell(Workload(128, 512, "decode"), "failed", "the logits are not finite"),
    )


def test_a_comparison() -> None:
    text = render(bench_view(compared()), width=80)
    assert max(map(len, text.splitlines())) <= 80
    check("bench_compared", text)


def test_one_model_alone() -> None:
    found = made(cell("prefill", 1, 102.0), cell("decode", 64, 1.5e6), dense=None)
    check("bench_alone", render(bench_view(found), width=80))


def test_too_few_rounds_say_how_sure_they_are() -> None:
    found = made(cell("prefill", 1, 1.0e5, 2.0e5, runs=3))
    text = render(bench_view(found), width=80)
    assert "75% sure" in text and "2.00x, unclear" in text


def test_numbers_show_three_digits_that_count() -> None:
    shown = [three(n) for n in (0.0, 0.001234, 0.1, 1.234, 12.34, 123.4, 1234.5)]
    assert shown == ["0", "0.00123", "0.100", "1.23", "12.3", "123", "1,234"]
