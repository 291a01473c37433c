"""Measuring one single call: shared by the parts that sweep shapes."""

from dataclasses import asdict, replace

from benchmarks.gpu.cases.attention import Attention
from benchmarks.gpu.cases.gemm import Gemm
from benchmarks.gpu.cases.stride import StridedRead
from benchmarks.gpu.part import Result, Setting

Case = Gemm | Attention | StridedRead
MAX_ERROR = 0.05
"""Above the rounding of bf16, and far below a wrong result."""


def measure_case(case: Case, setting: Setting, *, kernels: bool) -> Result:
    """Correctness, times, floor, and the kernels if they are asked for.

    Raises:
        ArithmeticError: the result is not that of float64; a wrong kernel has no time.
    """
    result: Result = {}
    if isinstance(case, Attention):
        prepared, result["choice"] = case.prepare(setting.timer.device)
    else:
        prepared = case.prepare(setting.timer.device)
    result["relative_error"] = error = prepared.error(prepared.call())
    if not error < MAX_ERROR:  # NaN is no pass
        raise ArithmeticError(f"relative error {error:.2e} against float64, at most {MAX_ERROR}")
    result["flops"], result["bytes"] = prepared.flops, prepared.bytes
    result["floor_us"] = setting.rates.floor_us(prepared.flops, prepared.bytes, prepared.dtype)
    result["cold"] = asdict(setting.timer.cold(prepared.call))
    result["warm"] = asdict(setting.timer.warm(prepared.call))
    if kernels:  # last: a profiler that does not work costs no times
        seen = setting.timer.kernels(prepared.call)
        result["kernels"] = [[kernel.name, kernel.us] for kernel in seen]
    return result


def line(label: str, result: Result) -> str:
    """A line for the table: cold and warm median beside the floor."""
    floor = result["floor_us"]
    best = f"{floor:9.1f}" if floor else "        -"
    times = f"{result['cold']['median_us']:9.1f} {result['warm']['median_us']:9.1f} {best}"
    return f"{label:44}{times}"


def shrink(case: Case) -> Case:
    """The same case in a size that a CPU rehearses in no time; a backend is not forced there."""
    if isinstance(case, Gemm):
        return replace(case, m=min(case.m, 32), n=min(case.n, 64), k=min(case.k, 64))
    if isinstance(case, StridedRead):
        return replace(case, rows=64)
    s_k = min(case.s_k or case.s_q, 16)
    h_kv = 1 if case.h_kv and case.h_kv != case.h_q else 2
    return replace(case, batch=1, h_q=2, h_kv=h_kv, s_q=min(case.s_q, 16), s_k=s_k, force=None)
