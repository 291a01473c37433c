"""The tables as text, from the rows of their results; the same on a terminal and on a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.gpu import tables
from benchmarks.gpu.tables import NONE as NONE
from benchmarks.paper.kept import FAILED
from benchmarks.paper.printed import TABLE2, TABLE3, TABLE5, EndToEnd, Measured

Row = Mapping[str, Any]
GPUS = ("a100", "h100", "h200")
MODES = ("prefill", "decode")
DTYPES = ("fp32", "bf16")
TASKS = {"piqa": "PIQA", "hellaswag": "HellaSwag"}
STRATEGIES = {"greedy": "gac"}
"""Strategy -> its name in the printed table, where that is another."""


def quality5(rows: Sequence[Row]) -> tables.Table:
    """Size, alignment and quality of table 5."""
    header = ("row", ">kept", ">aligned", ">perplexity", *(f">{name}" for name in TASKS.values()))
    return tables.table(header, [_quality5(row) for row in rows])


def _quality5(row: Row) -> list[str]:
    size, tasks = row.get("sizes", {}), row.get("zeroshot", {}).get("tasks", {})
    return [
        _name(row),
        shown(size.get("kept_share"), ".3f"),
        tables.percent(size.get("aligned")),
        shown(row.get("quality", {}).get("perplexity"), ".2f"),
        *(accuracy(tasks.get(task, {})) for task in TASKS),
    ]


def times5(rows: Sequence[Row]) -> tables.Table:
    """Measured times of table 5: times as fast as the dense model; of that, milliseconds."""
    header = ("row", *(f">{mode} {dtype}" for dtype in DTYPES for mode in MODES))
    return tables.table(header, [_times5(row) for row in rows])


def _times5(row: Row) -> list[str]:
    times = row.get("latency", {})
    keys = (f"{mode} {dtype}" for dtype in DTYPES for mode in MODES)
    return [_name(row), *(ratio(times.get(key, {})) for key in keys)]


def forecasts5(rows: Sequence[Row]) -> tables.Table:
    """Forecasts of table 5: how many times as fast as the dense model."""
    header = ("row", *(f">{gpu} {mode}" for gpu in GPUS for mode in MODES))
    return tables.table(header, [_forecasts5(row) for row in rows])


def _forecasts5(row: Row) -> list[str]:
    gpus = row.get("forecast", {})
    found = (gpus.get(gpu, {}).get(mode, {}) for gpu in GPUS for mode in MODES)
    return [_name(row), *(shown(each.get("times_as_fast"), ".2f") for each in found)]


def table3(rows: Sequence[Row]) -> tables.Table:
    """Table 3."""
    header = ("row", ">params", ">aligned", ">ms", ">times as fast", ">perplexity", ">zero-shot")
    return tables.table(header, [_table3(row) for row in rows])


def _table3(row: Row) -> list[str]:
    size, mean = row.get("sizes", {}), row.get("zeroshot", {}).get("mean", {})
    gpu = row.get("forecast", {}).get("a100", {}).get("prefill", {})
    params = size.get("model_params")
    return [
        _name(row),
        NONE if params is None else f"{params / 1e6:,.1f} M",
        tables.percent(size.get("aligned")),
        shown(gpu.get("ms"), ".2f"),
        shown(gpu.get("times_as_fast"), ".2f"),
        shown(row.get("quality", {}).get("perplexity"), ".2f"),
        accuracy(mean),
    ]


def printed5() -> tables.Table:
    """What GAC-v2 prints."""
    header = ("row", ">aligned", ">perplexity", ">PIQA", ">HellaSwag", ">ms")
    return tables.table(header, [_printed5(name, one) for name, one in TABLE5.items()])


def _printed5(name: str, one: Measured) -> list[str]:
    tasks = (f"{one.piqa:.2f}", f"{one.hellaswag:.2f}")
    aligned = tables.percent(one.aligned)
    return [name, aligned, f"{one.perplexity:.2f}", *tasks, f"{one.milliseconds:.1f}"]


def printed3() -> tables.Table:
    """What GAC-v1 prints."""
    header = ("row", ">params", ">aligned", ">ms", ">times as fast", ">perplexity", ">zero-shot")
    return tables.table(header, [_printed3(name, one) for name, one in TABLE3.items()])


def _printed3(name: str, one: EndToEnd) -> list[str]:
    return [
        name,
        f"{one.params:.2f} B",
        tables.percent(one.aligned),
        f"{one.milliseconds:.1f}",
        f"{one.times_as_fast:.2f}",
        f"{one.perplexity:.2f}",
        f"{one.accuracy:.3f}",
    ]


def solver(rows: Sequence[Row]) -> tables.Table:
    """Table 2, what GAC-v1 prints in brackets."""
    header = (
        "a",
        "ratio",
        "strategy",
        ">aligned",
        ">importance",
        ">over budget",
        ">unspent",
        ">ms",
    )
    return tables.table(header, [_solver(row) for row in rows])


def _solver(row: Row) -> list[str]:
    key = (row["align"], row["ratio"], STRATEGIES.get(row["strategy"], row["strategy"]))
    said = next((one for one in TABLE2 if (one.align, one.ratio, one.strategy) == key), None)
    over = f"{row['over_budget']} of {row['draws']}"
    over += f", {row['over_most']:.2%} at most" if row["over_budget"] else ""
    unspent = NONE if row["over_budget"] == row["draws"] else f"{row['unspent']:.3%}"
    return [
        str(row["align"]),
        row["ratio"],
        row["strategy"],
        f"{row['aligned']:.1%}" + ("" if said is None else f" [{said.aligned:.1%}]"),
        f"{row['importance']:.3f}" + ("" if said is None else f" [{said.importance:.3f}]"),
        over,
        unspent,
        f"{row['milliseconds']:.1f}" + ("" if said is None else f" [{said.milliseconds}]"),
    ]


def numbers(rows: Sequence[Row]) -> tables.Table:
    """Excess of every row at every ratio, with its promise behind it."""
    ratios = list(dict.fromkeys(row["ratio"] for row in rows))
    return tables.table(("row", *(f">{ratio}" for ratio in ratios)), _numbers(rows, ratios))


def _numbers(rows: Sequence[Row], ratios: Sequence[str]) -> Iterator[list[str]]:
    known = {(row["row"], row["ratio"]): row for row in rows}
    for label in dict.fromkeys(row["row"] for row in rows):
        yield [label, *(_number(known.get((label, ratio))) for ratio in ratios)]


def _number(row: Row | None) -> str:
    if row is None or row[FAILED]:
        return NONE
    promised = row["promised_nats"]
    behind = "" if promised is None else f" ({promised:.3f})"
    return f"{row['excess_nats']:.3f}{behind}"


def shown(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return NONE if value is None else format(value, form)


def accuracy(found: Row) -> str:
    """``0.685 ± 0.033``."""
    if found.get("acc") is None:
        return NONE
    error = found.get("acc_stderr")
    return f"{found['acc']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def ratio(found: Row) -> str:
    """``1.13 (1.10–1.15)``; milliseconds for the dense model."""
    times = found.get("times_as_fast")
    if times is not None:
        return f"{times[0]:.2f} ({times[1]:.2f}{NONE}{times[2]:.2f})"
    return NONE if found.get("ms") is None else f"{found['ms']:.1f} ms"


def _name(row: Row) -> str:
    return str(row["row"]) + (f", seed {row['seed']}" if row.get("seed") else "")


def failures(rows: Sequence[Row]) -> list[str]:
    """Why rows have nothing."""
    return [f"{_name(row)}: {row[FAILED]}" for row in rows if row.get(FAILED)]
