import re
from pathlib import Path

import pytest

from benchmarks.gpu.summarise import drawable
from benchmarks.gpu.summary.index import index
from benchmarks.gpu.summary.page import page, warnings
from benchmarks.gpu.summary.records import Records, load
from benchmarks.gpu.summary.tables import ABSENT, NONE, number, percent, table
from gacfx.hardware import profile
from tests.unit.benchmarks_gpu.synthetic import (
    Record,
    attention_case,
    attention_result,
    ceilings,
    check,
    clocks,
    decompose,
    dispatch,
    figures,
    gemm_case,
    gemm_result,
    item,
    machine,
    model_item,
    models,
    run,
    times,
    write,
)
from tests.unit.hardware.kernel_samples import NATIVE

SECTIONS = {
    "Llama-3-8B, end to end": models,
    "Sweeps of the papers": figures,
    "The rules against the truth": dispatch,
    "Which kernel each shape gets": dispatch,
    "Linear algebra of planning": decompose,
    "Ceilings": ceilings,
}
PARTS = (ceilings, dispatch, models, figures, decompose)


def records(folder: Path, *found: Record) -> Records:
    return load(write(folder / "here", found), dry=True)


def rendered(folder: Path, *found: Record) -> str:
    here = records(folder, *found)
    return page(here, drawable(here))


def sections(text: str) -> dict[str, str]:
    """Title -> text of every section of a page."""
    parts = re.split(r"(?m)^## ", text)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts[1:]}


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    (line,) = [row for row in text.split("\n") if row.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_whole_run_fills_every_section(tmp_path: Path) -> None:
    found = sections(rendered(tmp_path, *machine()))
    assert set(SECTIONS) <= found.keys()
    assert [title for title, text in found.items() if ABSENT in text] == []


@pytest.mark.parametrize("missing", SECTIONS)
def test_a_missing_part_is_said_to_be_missing(tmp_path: Path, missing: str) -> None:
    kept = [part for part in PARTS if part is not SECTIONS[missing]]
    found = sections(rendered(tmp_path, run(), *(r for part in kept for r in part())))
    empty = {title for title, text in found.items() if ABSENT in text}
    assert empty == {title for title, part in SECTIONS.items() if part is SECTIONS[missing]}


def test_a_run_without_any_item_has_a_page(tmp_path: Path) -> None:
    text = rendered(tmp_path, run())
    assert "Nothing that these records hold" in text and text.count(ABSENT) == len(SECTIONS)


@pytest.mark.parametrize("keep", [1, 2, 3, 7, 40])
def test_partial_records_are_no_trouble(tmp_path: Path, keep: int) -> None:
    for number_of_part, part in enumerate(PARTS):
        found = part()[:keep] + part()[-keep:]
        assert rendered(tmp_path / str(number_of_part), run(), *found).startswith("# NVIDIA H200")


def test_the_answer_comes_first(tmp_path: Path) -> None:
    first = rendered(tmp_path, *machine()).split("## ")[0]
    for said in (
        "dense takes 41.0 ms",
        "ASVD unaligned takes 10 % more time than dense (GAC-v2: +1 %)",
        "aligned under the same budget it takes 20 % less time than dense (GAC-v2: -33 %)",
        "**1.38 times as fast**",
        "LLM-Pruner unaligned takes 30 % more time than dense (GAC-v2: +38 %)",
        "in multiples of 64 it takes 30 % less time than dense",
        "ASVD takes 18 % less time than unaligned",
        "ASVD unaligned takes 10 % more time than compiled dense; with `force_shape_pad` it takes "
        "6 % less",
        "dense takes 4.00 ms a token; ASVD unaligned +10 %, aligned -20 %",
        "in none of 2 plain calls and in 1 of 1 calls with a mask",
        "**Attention with d 129** takes 56 % more time than with d 128",
        "the SDPA backend in 13 of 13 calls",
    ):
        assert said in first


def test_odd_head_dims_in_math_are_counted(tmp_path: Path) -> None:
    case = attention_case(107)
    result = attention_result(case, [], 0)
    call = item("dispatch", {"op": "attention", "rule": "d", "case": case}, result=result)
    assert "in 1 of 1 plain calls;" in rendered(tmp_path, run(), call)


def test_equal_times_are_called_equal(tmp_path: Path) -> None:
    text = rendered(tmp_path, run(), model_item("dense", 1000.0), model_item("asvd", 1004.0))
    assert "ASVD unaligned takes as long as dense" in text


def test_every_variant_stands_beside_dense_and_its_floor(tmp_path: Path) -> None:
    text = sections(rendered(tmp_path, *machine()))["Llama-3-8B, end to end"]
    headline = text.split("### Beside the papers")[0]
    assert cells(headline, "ASVD, ranks aligned")[1:] == [
        *("**32.8**", "32.4 to 33.1", "0.80\u00d7", "16.4", "2.00\u00d7", "15.0 %", "100 %")
    ]
    assert cells(headline, "dense")[-1] == NONE


def test_the_papers_stand_beside_ours(tmp_path: Path) -> None:
    text = rendered(tmp_path, *machine())
    beside = text.split("### Beside the papers")[1].split("###")[0]
    v2, v1 = beside.split("here, 512")
    assert cells(v2, "ASVD, its own ranks")[1:] == [
        *("45.1", "1.10\u00d7", "5 %", "100.5", "1.01\u00d7", "5 %")
    ]
    assert cells(v1, "ASVD, its own ranks")[1:] == ["22.5", "1.10\u00d7", "41.7", "0.87\u00d7"]


def test_figure_10_stands_beside_the_same_lengths(tmp_path: Path) -> None:
    text = rendered(tmp_path / "a", *machine())
    assert "+19 % at 128 and +38 % at 1024 tokens over dense; here it is at +30 % at 128" in text
    some = [model_item(v, us) for v, us in (("dense", 1000.0), ("pruner", 1200.0))]
    assert "tokens over dense" not in rendered(tmp_path / "b", run(), *some)


def test_padded_compilation_is_compared_with_compiled_dense(tmp_path: Path) -> None:
    text = rendered(tmp_path, *machine()).split("### Compiled, at equal depth")[1]
    row = cells(text.split("Time to compile")[0], "ASVD, its own ranks")
    assert row[2].startswith("9.90<br>") and row[3].startswith("8.50<br><sub>0.94\u00d7 dense")


def test_table_2_takes_the_multiples_of_8_of_each_region(tmp_path: Path) -> None:
    case = attention_case(104, dtype="fp16")
    fields = {"figure": "sdpa-head-dim", "op": "attention"}
    wide = attention_case(107, dtype="fp16")
    base = attention_case(64, dtype="fp16")
    made = [
        item("figures", fields | {"case": c}, result=_timed(us))
        for c, us in ((base, 500.0), (case, 1500.0), (wide, 9000.0))
    ]
    row = cells(rendered(tmp_path, run(), *made), "96 < d <= 128, tile 128 x 64")
    # Warm times, as the papers measured; the floor is that of the cold ones.
    assert row[1:] == ["1.47 ms", "1.99\u00d7", "1.50", "3.00\u00d7", "30.00\u00d7"]


def _timed(us: float) -> Record:
    return {"warm": times(us), "cold": times(2 * us), "floor_us": 100.0}


def test_a_misaligned_size_is_compared_with_the_next_aligned_one(tmp_path: Path) -> None:
    fields = {"figure": "gemm-k", "op": "gemm"}
    made = [
        item("figures", fields | {"case": gemm_case(2048, k, 2048)}, result={"warm": times(us)})
        for k, us in ((104, 1.0), (107, 30.0), (111, 40.0), (112, 20.0), (113, 99.0))
    ]
    text = sections(rendered(tmp_path, run(), *made))["Sweeps of the papers"]
    (line,) = [row for row in text.split("\n") if row.startswith("| GEMM 2048 x K x 2048")]
    assert "| +75 % | +100 % at 111 |" in line


def test_the_steps_that_the_papers_name(tmp_path: Path) -> None:
    text = sections(rendered(tmp_path, *machine()))["Sweeps of the papers"]
    assert cells(text, "SDPA, B 4, S 2048, H 32: d 128 to 129")[1:3] == ["+90 %", "+56 %"]


def test_bars_and_disagreements_are_on_the_page(tmp_path: Path) -> None:
    right = sections(rendered(tmp_path / "a", run(), *dispatch()))["The rules against the truth"]
    assert "100 % (13 of 13) | 13 | PASS" in right and "Nowhere." in right
    case = gemm_case(2048, 1112, 4096, "fp16")
    fields = {"op": "gemm", "rule": "K.low", "case": case}
    unknown = item("dispatch", fields, result=gemm_result(case, NATIVE.replace("nvjet", "tejvn")))
    planted = item("dispatch", fields, result=gemm_result(case, "cutlass_75_tensorop_tn_align1"))
    text = sections(rendered(tmp_path / "b", run(), *dispatch(), planted))
    assert (
        "| gemm | K.low | 2048 x 1112 x 4096 fp16 | native | align1 |"
        in text["The rules against the truth"]
    )
    text = sections(rendered(tmp_path / "c", run(), *dispatch(), unknown))
    assert "- `tejvn_hsh_128x256_64x4_synthetic` (1)" in text["Which kernel each shape gets"]


def test_a_device_without_profile_says_so(tmp_path: Path) -> None:
    text = rendered(tmp_path, run(machine={"name": "NVIDIA Unheard Of"}), *dispatch())
    rules = sections(text)["The rules against the truth"]
    assert f"no profile for NVIDIA Unheard Of (there are {', '.join(profile.names())})" in rules
    assert "**The rules**" not in text


def test_every_call_is_listed_with_floor_and_kernels(tmp_path: Path) -> None:
    text = sections(rendered(tmp_path, run(), *dispatch()))["Which kernel each shape gets"]
    assert "<b>K.low</b>: Which inner sizes below 1152 are fast? (12)" in text
    row = cells(text, "2048 x 1107 x 4096 bf16")
    assert row[1:] == ["77.3", "1.02\u00d7", "69.6", "37.1", "2.08\u00d7", "align1"]
    assert "| d 107, B 4, H 32, S 2048, bf16 |" in text and "flash t128 + 3 helpers" in text


def test_errors_and_doubts_are_listed(tmp_path: Path) -> None:
    case, wild = gemm_case(2048, 999, 4096), gemm_result(gemm_case(8, 8, 8))
    wild["cold"] = times(40.0, spread=1.6)
    fields = {"op": "gemm", "rule": "K.low", "case": case}
    far = gemm_case(2048, 300, 4096)
    slow = gemm_result(far) | {"cold": times(900.0)}
    planted = [
        item("dispatch", fields, result=wild),
        item("dispatch", fields | {"case": far}, result=slow),
        model_item("dense", 1000.0) | {"result": {"times": times(1000.0, 2.0)}},
    ]
    text = rendered(tmp_path, run(), *dispatch(), *planted)
    doubts = sections(text)["To examine"]
    assert "K.low: 2048 x 999 x 4096 bf16, cold | p90 is 1.60 of p10" in doubts
    assert "K.low: 2048 x 300 x 4096 bf16 | 900 us" in doubts and "times its neighbours" in doubts
    assert "dense, time: prefill of 1024 tokens" in doubts and doubts.startswith("\n3 with p90")
    raised = sections(text)["Calls that raised"]
    assert "| dispatch | legal.fp8: 2048 x 4088 x 4096 bf16 fp8 | `RuntimeError" in raised


def test_a_quiet_run_has_nothing_to_examine(tmp_path: Path) -> None:
    found = sections(rendered(tmp_path, run(), *ceilings()))
    assert "Nothing with p90" in found["To examine"] and "None." in found["Calls that raised"]


def test_ceilings_stand_beside_the_nominal_rates(tmp_path: Path) -> None:
    text = sections(rendered(tmp_path, *machine()))["Ceilings"]
    assert cells(text, "copy, read + written")[3:] == ["4,000 GB/s", "4,800 GB/s", "83 %"]


@pytest.mark.parametrize(
    ("found", "warning"),
    [
        ([clocks(throttle="0x0000000000000004")], "held back in 1 of 1 samples: power cap"),
        ([clocks(throttle="0x0000000000000060")], "thermal, hardware, thermal, software"),
        ([clocks(100.0), clocks(106.0)], "took up to 1.06 times its shortest time"),
        ([check(0.2)], "A check failed: a step = a prefill (relative error 0.2)"),
        ([run(2, machine={"name": "Other GPU"})], "different devices"),
        ([run(2, dry=True)], "A rehearsal"),
    ],
)
def test_what_makes_times_doubtful_is_said_on_top(
    tmp_path: Path, found: list[Record], warning: str
) -> None:
    text = rendered(tmp_path, run(), *found)
    assert warning in text.split("## ")[0] and "> [!WARNING]\n> - " in text


@pytest.mark.parametrize(
    "found",
    [
        [],
        [clocks(throttle="0x0000000000000001")],
        [clocks(throttle="0x0000000000000000")],
        [clocks(100.0), clocks(104.0)],
        [clocks(100.0, run=1), clocks(150.0, run=2)],
        [check(0.001)],
        [{"kind": "clocks", "run": 1, "at_s": 1.0, "canary_us": 100.0}],
    ],
)
def test_a_calm_run_has_no_warning(tmp_path: Path, found: list[Record]) -> None:
    assert warnings(records(tmp_path, run(), *found)) == []


def test_a_mode_that_computes_something_else_is_a_warning(tmp_path: Path) -> None:
    far = model_item("asvd", 1000.0, mode="compiled")
    far["result"]["relative_error"] = 0.5
    (warning,) = warnings(records(tmp_path, run(), far))
    assert warning.startswith("ASVD, its own ranks, prefill of 1024 tokens, batch 1, compiled")


def test_clocks_and_runs_are_shown(tmp_path: Path) -> None:
    slow = clocks() | {"sm_mhz": 1200.0}
    text = sections(rendered(tmp_path, *machine(), slow, run(2)))["Machine and method"]
    assert "SM clock 1200 to 1500 MHz; power 500 W; temperature 50 °C in 3 samples." in text
    assert "cut short" in text and "ceilings 3 (0, 0)" in text


def test_without_plots_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    here = records(tmp_path, *machine())
    text = page(here, drawable(here), drawn=False)
    assert "pip install matplotlib" in text and ".svg" not in text
    assert "pip install matplotlib" not in page(here, drawable(here))


def test_the_index_without_machines_says_what_waits() -> None:
    text = index([])
    assert "**No GPU has been measured yet.**" in text
    assert text.count("| waits |") == 16
    assert "collect.py --out benchmarks/results/NAME" in text


def test_the_index_lists_machines_and_what_they_answered(tmp_path: Path) -> None:
    whole = load(write(tmp_path / "whole", machine()))
    some = load(write(tmp_path / "some", [run(), *models(), clocks(throttle="0x8")]))
    text = index([whole, some])
    assert "No GPU has been measured" not in text
    row = "| [NVIDIA H200](some/README.md) | 2000-01-01 | 2.11.0+synthetic | 41.0 |"
    assert f"{row} 1.10\u00d7 | 0.80\u00d7 | 1 |" in text and text.index("(some/") < text.index(
        "(whole/"
    )
    answered = cells(text, "GAC-v2 Table 5")[-1]
    assert answered == "[some](some/README.md), [whole](whole/README.md)"
    assert cells(text, "GAC-v1 Fig. 4")[-1] == "[whole](whole/README.md)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, NONE), (0, "0"), (1234.5, "1,234"), (41.04, "41.0"), (4.0, "4.00"), (0.0123, "0.0123")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_almost_all_is_never_all() -> None:
    assert (percent(0.999), percent(1.0), percent(0.0)) == ("99 %", "100 %", "0 %")


def test_tables_refuse_rows_of_another_width() -> None:
    with pytest.raises(ValueError, match="expected 2 cells"):
        table(("a", "b"), [("1",)])


def test_tables_as_markdown_and_as_text() -> None:
    made = table(("name", ">us"), [("a | b", "**1**"), ("[c](d.md)", "10")])
    assert made.markdown() == (
        "| name | us |\n| --- | ---: |\n| a \\| b | **1** |\n| [c](d.md) | 10 |\n"
    )
    assert made.text() == "name   us\na | b   1\nc      10\n"
