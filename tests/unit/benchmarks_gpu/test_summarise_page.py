import re
from pathlib import Path

import pytest

from benchmarks.gpu.summary.doubts import doubts
from benchmarks.gpu.summary.pages import ABSENT, index, page
from benchmarks.gpu.summary.records import Records, load
from benchmarks.gpu.tables import NONE, number, percent, table
from gacfx.hardware import profile
from tests.unit.benchmarks_gpu.synthetic import (
    Record,
    attention_case,
    attention_result,
    ceilings,
    check,
    clocks,
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
from tests.unit.hardware.kernel_samples import CUDNN_KERNEL, NATIVE

PARTS = (ceilings, dispatch, models, figures)
RULES = "The rules against the machine"
FILLED_BY = {"Llama-3-8B, end to end": models, RULES: dispatch, "Ceilings": ceilings}


def records(folder: Path, *found: Record) -> Records:
    return load(write(folder / "here", found), dry=True)


def rendered(folder: Path, *found: Record) -> str:
    return page(records(folder, *found))


def sections(text: str) -> dict[str, str]:
    """Title -> text of every section of a page."""
    parts = re.split(r"(?m)^## ", text)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts[1:]}


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells of every row of the tables."""
    lines = [line.strip("|").split("|") for line in text.split("\n") if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


@pytest.mark.parametrize("missing", [None, *FILLED_BY])
def test_what_was_measured_is_shown_and_the_rest_is_said_to_be_missing(
    tmp_path: Path, missing: str | None
) -> None:
    kept = [part for part in PARTS if missing is None or part is not FILLED_BY[missing]]
    found = sections(rendered(tmp_path, run(), *(r for part in kept for r in part())))
    assert {title for title, text in found.items() if ABSENT in text} == {missing} - {None}


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 7, 40])
def test_partial_records_are_no_trouble(tmp_path: Path, keep: int) -> None:
    for number_of_part, part in enumerate(PARTS):
        found = part()[:keep] + part()[-keep:]
        assert rendered(tmp_path / str(number_of_part), run(), *found).startswith("# NVIDIA H200")


def test_the_head_says_what_was_measured_where(tmp_path: Path) -> None:
    text = rendered(tmp_path, run(), run(2, dirty=True), run(3))
    assert "2000-01-01, torch 2.11.0+synthetic, commit synthetic, synthetic with changes." in text


def test_plans_stand_in_the_order_of_their_times(tmp_path: Path) -> None:
    found = rows(sections(rendered(tmp_path, *machine()))["Llama-3-8B, end to end"])
    dense_ms, order = found["prefill of 1024 tokens, batch 1, eager, 32 layers"]
    assert dense_ms == "41.0"
    assert order.startswith("default-64 0.70, default 0.75, asvd-aligned 0.80, ")
    assert order.endswith(" asvd 1.10, pruner 1.30")
    assert found["decode after 1024 tokens, batch 1, graph, 32 layers"][0] == "4.00"


def test_padded_compilation_is_compared_with_compiled_dense(tmp_path: Path) -> None:
    found = rows(sections(rendered(tmp_path, *machine()))["Llama-3-8B, end to end"])
    padded = found["prefill of 1024 tokens, batch 1, padded-compiled, 8 layers"]
    assert padded == ["9.00", "asvd 0.94"]


def test_plans_without_dense_are_left_out(tmp_path: Path) -> None:
    text = rendered(tmp_path, run(), model_item("asvd", 1000.0))
    assert ABSENT in sections(text)["Llama-3-8B, end to end"]


def test_bars_and_disagreements_are_on_the_page(tmp_path: Path) -> None:
    right = sections(rendered(tmp_path / "a", run(), *dispatch()))
    found = rows(right[RULES])["SDPA backend: rule, torch and kernels agree"]
    assert found == ["100 %", "100 % (13 of 13)", "13", "PASS"]
    assert "Nowhere." in right["Where the rules are wrong"]
    case = gemm_case(2048, 1112, 4096, "fp16")
    fields = {"op": "gemm", "rule": "K.low", "case": case}
    planted = item("dispatch", fields, result=gemm_result(case, "cutlass_75_tensorop_tn_align1"))
    wrong = sections(rendered(tmp_path / "b", run(), *dispatch(), planted))
    assert rows(wrong["Where the rules are wrong"])["gemm"][:4] == [
        *("K.low", "2048 x 1112 x 4096 fp16", "native", "align1")
    ]


def test_sweeps_of_the_papers_are_ranked_too(tmp_path: Path) -> None:
    found = sections(rendered(tmp_path, *machine()))["Ranking of sizes, by sweep"]
    assert {"K.low over k", "gemm-k over k", "sdpa-head-dim over d"} <= rows(found).keys()


def test_names_of_kernels_that_nobody_knows_are_listed(tmp_path: Path) -> None:
    case = gemm_case(2048, 1112, 4096, "fp16")
    result = gemm_result(case, NATIVE.replace("nvjet", "tejvn"))
    unknown = item("dispatch", {"op": "gemm", "rule": "K.low", "case": case}, result=result)
    text = sections(rendered(tmp_path, run(), *dispatch(), unknown))
    assert rows(text["Kernel names that no rule knows"])["tejvn_hsh_128x256_64x4_synthetic"] == [
        "1"
    ]


def test_a_device_without_profile_says_so(tmp_path: Path) -> None:
    text = rendered(tmp_path, run(machine={"name": "NVIDIA Unheard Of"}), *dispatch())
    there = ", ".join(profile.names())
    assert f"no profile for NVIDIA Unheard Of (there are {there})" in sections(text)[RULES]


def test_items_that_raised_are_listed(tmp_path: Path) -> None:
    far = model_item("asvd", 1.0)["item"]
    planted = item("end-to-end", far, error="RuntimeError: too | little")
    text = sections(rendered(tmp_path, run(), *dispatch(), planted))["Items that raised"]
    assert "legal.fp8: 2048 x 4088 x 4096 bf16 fp8" in text and "trailing dimension" in text
    assert '"variant": "asvd"' in text and "too \\| little" in text


def test_attention_calls_are_named_by_what_they_ask(tmp_path: Path) -> None:
    case = attention_case(88, h_kv=8, gqa=True, mask="bool", s_q=128, s_k=512)
    call = {"op": "attention", "rule": "gqa", "case": case}
    wrong = item("dispatch", call, result=attention_result(case, [CUDNN_KERNEL], 2))
    text = sections(rendered(tmp_path, run(), wrong))["Where the rules are wrong"]
    assert "d 88, B 4, H 32/8, S 128/512, bf16, bool mask, gqa" in text


def test_ceilings_stand_beside_the_nominal_rates(tmp_path: Path) -> None:
    found = rows(sections(rendered(tmp_path, *machine()))["Ceilings"])
    assert found["copy"] == ["", "4,000 GB/s", "4,800 GB/s", "83 %"]
    assert found["event"] == ["", "2.00 us", NONE, NONE]


@pytest.mark.parametrize(
    ("found", "doubt"),
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
    tmp_path: Path, found: list[Record], doubt: str
) -> None:
    text = rendered(tmp_path, run(), *found)
    assert doubt in text.split("## ")[0] and "> [!WARNING]\n> - " in text


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
def test_a_calm_run_has_no_doubt(tmp_path: Path, found: list[Record]) -> None:
    assert doubts(records(tmp_path, run(), *found)) == []


def test_a_mode_that_computes_something_else_is_a_doubt(tmp_path: Path) -> None:
    far = model_item("asvd", 1000.0, mode="compiled")
    far["result"]["relative_error"] = 0.5
    (doubt,) = doubts(records(tmp_path, run(), far))
    assert doubt.startswith("asvd, prefill of 1024 tokens, batch 1, compiled, 32 layers: logits")


def test_wide_spreads_are_counted(tmp_path: Path) -> None:
    case = gemm_case(8, 8, 8)
    fields = {"op": "gemm", "rule": "K.low", "case": case}
    wild = item("dispatch", fields, result=gemm_result(case) | {"warm": times(1.0, spread=1.6)})
    slow = model_item("dense", 1000.0) | {"result": {"times": times(1000.0, 2.0)}}
    (doubt,) = doubts(records(tmp_path, run(), *ceilings(), wild, slow))
    assert doubt == "Of 5 items 2 have a p90 above 1.5 times p10."


def test_the_index_without_machines_says_so() -> None:
    text = index([])
    assert "**No GPU has been measured yet.**" in text
    assert "collect.py --out benchmarks/results/NAME" in text


def test_the_index_lists_machines(tmp_path: Path) -> None:
    whole = load(write(tmp_path / "whole", machine()))
    some = load(write(tmp_path / "some", [run(), *models(), clocks(throttle="0x8")]))
    text = index([whole, some])
    assert "No GPU has been measured" not in text
    assert rows(text)["[NVIDIA H200](some/README.md)"] == ["2000-01-01", "2.11.0+synthetic", "1"]
    assert text.index("(some/") < text.index("(whole/")


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


def test_a_table_has_columns_of_equal_width() -> None:
    made = table(("name", ">us"), [("a | b", "1"), ("c", "1,000")])
    assert made.markdown() == (
        "| name   |    us |\n| ------ | ----: |\n| a \\| b |     1 |\n| c      | 1,000 |\n"
    )
