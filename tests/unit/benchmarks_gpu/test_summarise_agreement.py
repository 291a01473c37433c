from pathlib import Path

import pytest

from benchmarks.gpu.summary.agreement import Verdict, judge
from benchmarks.gpu.summary.bars import MISSED, OPEN, PASS, bars, disagreements
from benchmarks.gpu.summary.calls import Sweep, calls, sweeps
from benchmarks.gpu.summary.ceilings import profile_for
from benchmarks.gpu.summary.ranking import forecasts, rankings, tau
from benchmarks.gpu.summary.records import Records, load
from gacfx.hardware import profile
from tests.unit.benchmarks_gpu.synthetic import (
    Record,
    attention_case,
    attention_result,
    dispatch,
    gemm_case,
    gemm_result,
    item,
    run,
    write,
)
from tests.unit.hardware.kernel_samples import (
    ALIGN1,
    CUDNN_KERNEL,
    EFFICIENT,
    FILL,
    NATIVE,
    SOFTMAX,
    flash,
)

H200 = profile.load("h200", torch=(2, 11), cudnn=91900)
MATH = [ALIGN1, SOFTMAX, ALIGN1]


def records(folder: Path, *found: Record) -> Records:
    return load(write(folder / "here", [run(), *found]))


def ask(op: str, case: Record, rule: str = "rule", **outcome: object) -> Record:
    return item("dispatch", {"op": op, "rule": rule, "case": case}, **outcome)  # type: ignore[arg-type]


def verdicts(folder: Path, *found: Record) -> list[Verdict]:
    return judge(calls(records(folder, *found), "dispatch", failed=True), H200)


def attention(case: Record, kernels: list[str], choice: int | str) -> Record:
    result = attention_result(case, kernels, 0) | {"choice": choice}
    return ask("attention", case, result=result)


def test_records_made_by_the_rules_agree_with_them(tmp_path: Path) -> None:
    found = verdicts(tmp_path, *dispatch())
    assert {v.quantity for v in found} == {"backend", "template", "gemm", "legal"}
    assert [v for v in found if not v.agrees] == []


@pytest.mark.parametrize(
    ("kernels", "choice", "seen"),
    [
        ([CUDNN_KERNEL], 1, "torch flash, kernels cudnn"),
        ([flash(96)], 3, "torch cudnn, kernels flash"),
        (MATH, 0, "torch math, kernels math"),
    ],
)
def test_a_planted_disagreement_is_seen(
    tmp_path: Path, kernels: list[str], choice: int, seen: str
) -> None:
    found = verdicts(tmp_path, *dispatch(), attention(attention_case(88), kernels, choice))
    (wrong,) = [v for v in found if not v.agrees]
    assert (wrong.quantity, wrong.predicted, wrong.seen) == ("backend", "cudnn", seen)
    row = disagreements(found).rows[0]
    assert "d 88" in row[2] and row[3:5] == ("cudnn", seen)


def test_a_wrong_template_is_seen(tmp_path: Path) -> None:
    (_, template) = verdicts(tmp_path, attention(attention_case(107), [FILL, flash(160)], 1))
    assert (template.predicted, template.seen, template.agrees) == ("t128", "t160", False)


@pytest.mark.parametrize(
    ("changes", "kernels", "choice"),
    [
        ({"mask": "bool", "d": 107}, MATH, 0),
        ({"mask": "float", "d": 104}, [CUDNN_KERNEL], 3),
        ({"d": 107, "d_v": 96}, MATH, 0),
        ({"d": 107, "causal": True}, [FILL, flash(128)], 1),
        ({"d": 107, "causal": True, "s_q": 128, "s_k": 2048}, MATH, 0),
        ({"d": 107, "s_q": 1, "s_k": 4096, "batch": 8}, [FILL, flash(128)], 1),
        ({"d": 112, "h_kv": 8, "gqa": True}, [CUDNN_KERNEL], 3),
        ({"d": 107, "h_kv": 8, "gqa": True, "mask": "float"}, MATH, 0),
        ({"d": 264}, [EFFICIENT], 2),
        ({"d": 112, "dtype": "fp32"}, [EFFICIENT], 2),
        ({"d": 107, "dtype": "fp32"}, MATH, 0),
    ],
)
def test_every_kind_of_attention_call_reaches_the_rules(
    tmp_path: Path, changes: Record, kernels: list[str], choice: int
) -> None:
    case = attention_case(changes.pop("d"), **changes)
    found = verdicts(tmp_path, attention(case, kernels, choice))
    assert found and all(v.agrees for v in found)


def test_a_forced_backend_is_held_to_what_was_forced(tmp_path: Path) -> None:
    case = attention_case(128, force="efficient")
    (right,) = verdicts(tmp_path / "a", attention(case, [EFFICIENT], 2))
    assert (right.predicted, right.agrees) == ("efficient", True)
    wrong = verdicts(tmp_path / "b", attention(case, [flash(128)], 2))
    assert [v.agrees for v in wrong if v.quantity == "backend"] == [False]
    refused = ask("attention", attention_case(107, force="cudnn"), error="RuntimeError: no")
    assert verdicts(tmp_path / "c", refused) == []


def test_one_witness_is_enough_and_none_is_not_judged(tmp_path: Path) -> None:
    case = attention_case(128)
    (by_torch,) = verdicts(tmp_path / "a", attention(case, [], 3))
    assert by_torch.agrees and by_torch.seen == "torch cudnn"
    (by_kernels,) = verdicts(tmp_path / "b", attention(case, [CUDNN_KERNEL], "RuntimeError: no"))
    assert by_kernels.agrees and by_kernels.seen == "kernels cudnn"
    assert verdicts(tmp_path / "c", attention(case, ["unheard_of"], "RuntimeError: no")) == []


@pytest.mark.parametrize(
    ("case", "kernel", "predicted", "agrees"),
    [
        (gemm_case(2048, 107, 4096), ALIGN1, "align1", True),
        (gemm_case(2048, 107, 4096), NATIVE, "align1", False),
        (gemm_case(2048, 112, 4096), ALIGN1, "native", False),
        (gemm_case(1, 107, 4096), None, "gemv", True),
        (gemm_case(2048, 4095, 4096, op="slice_ld4096"), ALIGN1, "align1", True),
        (gemm_case(2048, 4088, 4096, op="slice_ld4096"), NATIVE, "native", True),
        (gemm_case(2048, 4096, 4096, op="fp8"), NATIVE, "native", True),
    ],
)
def test_matmul_classes(
    tmp_path: Path, case: Record, kernel: str | None, predicted: str, agrees: bool
) -> None:
    (found,) = verdicts(tmp_path, ask("gemm", case, result=gemm_result(case, kernel)))
    assert (found.quantity, found.predicted, found.agrees) == ("gemm", predicted, agrees)


@pytest.mark.parametrize(
    "case", [gemm_case(64, 64, 64, "fp32"), gemm_case(64, 64, 64, op="slice_off1")]
)
def test_what_names_or_rules_do_not_tell_is_not_judged(tmp_path: Path, case: Record) -> None:
    assert verdicts(tmp_path, ask("gemm", case, result=gemm_result(case))) == []


def test_legality_is_judged_in_both_directions(tmp_path: Path) -> None:
    illegal, legal = (gemm_case(2048, k, 4096, op="fp8") for k in (4088, 4096))
    found = verdicts(
        tmp_path,
        ask("gemm", illegal, error="RuntimeError: trailing dimension"),
        ask("gemm", legal, error="RuntimeError: not supported"),
        ask("gemm", gemm_case(2048, 4080 + 4, 4096, op="fp8"), result=gemm_result(legal)),
    )
    assert [(v.quantity, v.agrees) for v in found] == [
        *(("legal", True), ("legal", False), ("legal", False))
    ]


def test_too_little_memory_says_nothing_of_the_rules(tmp_path: Path) -> None:
    raised = ask("gemm", gemm_case(8, 8, 8), error="OutOfMemoryError: CUDA out of memory.")
    assert verdicts(tmp_path, raised) == []


def test_the_profile_is_chosen_by_name_and_given_the_stack_that_ran(tmp_path: Path) -> None:
    known = profile_for(records(tmp_path / "a", *dispatch()))
    assert known is not None and (known.name, known.stack.torch) == ("h200", (2, 11))
    other = run(machine={"name": "NVIDIA H200", "cudnn": 91002, "packages": {"torch": "2.9.1"}})
    older = profile_for(load(write(tmp_path / "b", [other])))
    assert older is not None and (older.stack.torch, older.stack.cudnn) == ((2, 9), 91002)
    assert profile_for(load(write(tmp_path / "c", [run(machine={"name": "Other GPU"})]))) is None


def test_an_older_torch_has_other_rules(tmp_path: Path) -> None:
    found = calls(records(tmp_path, *dispatch()), "dispatch")
    older = judge(found, H200.with_stack(torch=(2, 9), cudnn=91002))
    assert any(v.quantity == "backend" and v.predicted == "flash" for v in older if not v.agrees)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(1, 1), (2, 2), (3, 3)], 1.0),
        ([(1, 3), (2, 2), (3, 1)], -1.0),
        ([(1, 1), (2, 3), (3, 2)], 1 / 3),
        # Two pairs agree, one is tied in x alone: 2 / sqrt(2 * 3).
        ([(1, 1), (1, 2), (2, 3)], 2 / 6**0.5),
        ([(1, 1), (1, 2)], None),
        ([(1, 1)], None),
    ],
)
def test_kendalls_tau(pairs: list[tuple[float, float]], expected: float | None) -> None:
    assert tau(pairs) == (None if expected is None else pytest.approx(expected))


def test_forecasts_leave_out_what_the_rules_do_not_speak_of(tmp_path: Path) -> None:
    found = calls(records(tmp_path, *dispatch()), "dispatch", failed=True)
    made = forecasts(found, H200)
    assert not any(f.call.case.get("force") or f.call.label == "legal.fp8" for f in made)
    assert made and all(
        f.error == pytest.approx(abs(f.forecast_us / f.measured_us - 1)) for f in made
    )


def test_sweeps_are_found_by_what_differs(tmp_path: Path) -> None:
    found = [ask("gemm", c, "one", result=gemm_result(c)) for c in _grid()]
    names = [sweep.name for sweep in sweeps(calls(records(tmp_path, *found), "dispatch"))]
    assert names == ["one over n at m 16", "one over n at m 512"]


def test_rankings_follow_the_sweeps(tmp_path: Path) -> None:
    found = calls(records(tmp_path, *dispatch()), "dispatch")
    (k_low,) = [s for s in sweeps(found) if s.label == "K.low"]
    assert isinstance(k_low, Sweep) and [size for size, _ in k_low.points][:3] == [64, 96, 100]
    (ranked,) = rankings([k_low], forecasts(found, H200))
    assert ranked.points == 12 and ranked.tau > 0.9


def test_bars_pass_miss_or_stay_open(tmp_path: Path) -> None:
    found = verdicts(tmp_path, *dispatch(), attention(attention_case(88), MATH, 0))
    by_name = {bar.quantity: bar for bar in bars(found, [], [])}
    backend = by_name["SDPA backend: rule, torch and kernels agree"]
    assert backend.passed is False and backend.cells()[-1] == MISSED
    assert by_name["FlashAttention template"].cells()[-1] == PASS
    assert by_name["ranking of sizes, Kendall tau"].cells()[-1] == OPEN


def test_latency_is_held_to_private_shapes_where_there_are_some(tmp_path: Path) -> None:
    case = gemm_case(512, 512, 512)
    extra = ask("gemm", case, "extra", result=gemm_result(case))
    found = forecasts(calls(records(tmp_path, *dispatch(), extra), "dispatch"), H200)
    latency = bars([], found, [])[-2]
    assert latency.items == 1 and "held-out shapes" in latency.quantity
    without = bars([], [f for f in found if f.call.label != "extra"], [])[-2]
    assert without.items == len(found) - 1 and "none held out" in without.quantity


def _grid() -> list[Record]:
    return [gemm_case(m, 4096, n) for m in (16, 512) for n in (96, 104, 107, 108, 112)]
