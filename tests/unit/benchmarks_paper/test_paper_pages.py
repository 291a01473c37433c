"""The page: every table of the results, what is printed as printed, and what was not run yet."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.tables import NONE
from benchmarks.paper import pages, views
from benchmarks.record import RESULTS


def row(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "row": name.upper(),
        "seed": 0,
        "sizes": {"model_params": 1_234_567, "kept_share": 0.85, "aligned": 0.999},
        "quality": {"perplexity": 12.345},
        "zeroshot": {
            "tasks": {"piqa": {"acc": 0.7, "acc_stderr": 0.03}},
            "mean": {"acc": 0.6, "acc_stderr": 0.02},
        },
        "latency": {
            "busy": False, "threads": 2, "seq": 256,
            "prefill fp32": {"ms": 10.0, "times_as_fast": [1.2, 1.1, 1.3]},
            "decode fp32": {"ms": 3.0, "times_as_fast": None},
        },
        "forecast": {"seq": 1024, "a100": {"prefill": {"ms": 2.5, "times_as_fast": 1.25}}},
        **more,
    }  # fmt: skip


def results(command: str, **more: Any) -> dict[str, Any]:
    text = {"text": "wikitext", "tokens": 20480, "window": 2048, "stride": 2048}
    return {
        "command": f"python -m benchmarks.paper.{command} --smollm2 /a/b --work /c",
        "machine": "2 cores",
        "model": "smollm2",
        "ratio": "0.15",
        "calibration_tokens": 51200,
        "evaluation": text,
        **more,
    }


def known() -> dict[str, Any]:
    failed = {"name": "ours", "row": "OURS", "seed": 1, "failed": "nothing came out better"}
    number = {"row": "pairs", "ratio": "0.1", "failed": "", "excess_nats": 0.01}
    solved = {
        "align": 8, "ratio": "0.2", "strategy": "greedy", "aligned": 1.0, "importance": 1.01,
        "over_budget": 1, "draws": 8, "over_most": 0.001, "unspent": 0.0, "milliseconds": 4.2,
    }  # fmt: skip
    five = results("table5", rows=[row("asvd"), failed], asvd="asvd", first=3)
    return {
        "paper_solver": {
            "command": "x",
            "matrices": 224,
            "params": 6_979_321_856,
            "rows": [solved],
        },
        "paper_table3": results("table3", rows=[row("asvd")]),
        "paper_table5": five,
        "paper_numbers": results(
            "numbers", rows=[{**number, "promised_nats": 0.02}], picture="paper_numbers.svg"
        ),
    }


def test_the_page_holds_every_table() -> None:
    page, found = pages.page(known()), known()
    for table in (
        views.solver(found["paper_solver"]["rows"]),
        views.table3(found["paper_table3"]["rows"]),
        views.quality5(found["paper_table5"]["rows"]),
        views.times5(found["paper_table5"]["rows"]),
        views.forecasts5(found["paper_table5"]["rows"]),
        views.numbers(found["paper_numbers"]["rows"]),
        views.printed3(),
        views.printed5(),
    ):
        assert table.markdown() in page
    assert "/a/b" not in page and "--smollm2 FOLDER --work FOLDER" in page
    assert "15 % removed" in page and "20,480 tokens of WikiText-2 test, windows of 2048" in page
    assert "- OURS, seed 1: nothing came out better" in page
    assert "the table of losses" in page and "Other programs" not in page
    assert "](../../benchmarks/results/paper_numbers.svg)" in page
    assert "{" not in page


def test_cells_are_written_for_readers() -> None:
    quality = views.quality5([row("asvd")]).rows[0]
    assert quality == ("ASVD", "0.850", "99 %", "12.35", "0.700 ± 0.030", NONE)
    times = views.times5([row("asvd", seed=2)]).rows[0]
    assert times[:3] == ("ASVD, seed 2", f"1.20 (1.10{NONE}1.30)", "3.0 ms")
    assert views.forecasts5([row("asvd")]).rows[0][1:3] == ("1.25", NONE)
    assert views.table3([row("asvd")]).rows[0][1:5] == ("1.2 M", "99 %", "2.50", "1.25")
    assert "1 of 8, 0.10% at most" in views.solver(known()["paper_solver"]["rows"]).rows[0]


def test_what_was_not_run_is_named_with_its_command() -> None:
    page = pages.page(dict.fromkeys(pages.FILES))
    assert page.count("Not run yet: `python -m benchmarks.paper.") == 4
    busy = known()["paper_table5"]
    busy["rows"][0]["latency"]["busy"] = True
    assert "Other programs were at work." in pages.table5(busy)


def test_the_command_reads_results_and_writes_the_page(tmp_path: Path) -> None:
    for name, found in known().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    out = tmp_path / "paper.md"
    assert pages.main(["--results", str(tmp_path), "--out", str(out)]) == 0
    assert out.read_text() == pages.page(known())


def test_the_page_of_the_project_is_that_of_its_results() -> None:
    assert pages.PAGE.read_text(encoding="utf-8") == pages.page(pages.read(RESULTS))
