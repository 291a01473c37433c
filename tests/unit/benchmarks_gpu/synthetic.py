"""Records of a machine that does not exist: round numbers by formula, no measurement.

The device has the name of a known one, so that the rules apply; the commit says what this is.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gacfx.hardware.measure.journal import FILE
from tests.unit.hardware.kernel_samples import (
    ALIGN1,
    ALIGN2,
    CUDNN_KERNEL,
    FILL,
    GEMV,
    NATIVE,
    SOFTMAX,
    flash,
)

Record = dict[str, Any]
DEVICE, TORCH, CUDNN = "NVIDIA H200", "2.11.0+synthetic", 91900
TFLOPS, GBPS = 500.0, 4000.0
VARIANTS = {
    "dense": 1.0,
    "asvd": 1.1,
    "asvd-aligned": 0.8,
    "asvd-padded": 0.9,
    "default": 0.75,
    "uniform": 1.05,
    "pruner": 1.3,
    "pruner-aligned": 0.9,
    "pruner-padded": 0.95,
    "default-64": 0.7,
}
"""Variant -> its time of dense."""


def write(folder: Path, records: Iterable[Record]) -> Path:
    """The records as a folder of results."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder


def run(number: int = 1, **changes: object) -> Record:
    """A run record."""
    machine = {
        "name": DEVICE,
        "compute_capability": [9, 0],
        "sms": 132,
        "cudnn": CUDNN,
        "packages": {"torch": TORCH},
    }
    made = {
        "kind": "run",
        "run": number,
        "started": "2000-01-01T00:00:00+00:00",
        "commit": "synthetic",
        "dirty": False,
        "dry": False,
        "command": "synthetic",
        "machine": machine,
    }
    return made | changes


def item(part: str, fields: Mapping[str, object], run: int = 1, **outcome: object) -> Record:
    """An item with ``result=`` or ``error=``."""
    return {"kind": "item", "run": run, "part": part, "item": dict(fields), "took_s": 0.1} | outcome


def times(us: float, spread: float = 1.02, how: str = "cold") -> Record:
    """Times around a median."""
    return {"median_us": us, "p10_us": us / spread**0.5, "p90_us": us * spread**0.5} | {
        "runs": 10,
        "how": how,
    }


def clocks(canary_us: float = 100.0, throttle: str = "0x0000000000000000", run: int = 1) -> Record:
    """A clock record."""
    return {
        "kind": "clocks",
        "run": run,
        "at_s": 15.0,
        "canary_us": canary_us,
        "sm_mhz": 1500.0,
        "power_w": 500.0,
        "temperature_c": 50.0,
        "throttle": throttle,
    }


def gemm_case(m: int, k: int, n: int, dtype: str = "bf16", op: str = "linear") -> Record:
    """The fields of a matmul."""
    return {"m": m, "n": n, "k": k, "dtype": dtype, "op": op}


def attention_case(d: int, **changes: object) -> Record:
    """The fields of an attention call."""
    plain = {"d": d, "d_v": None, "s_q": 2048, "s_k": None, "batch": 4, "h_q": 32, "h_kv": None}
    rest = {"dtype": "bf16", "mask": None, "causal": False, "gqa": False, "force": None}
    return plain | rest | changes


def gemm_result(case: Record, kernel: str | None = None, slower: float = 1.0) -> Record:
    """Odd sizes take twice as long as aligned ones, even ones half as long again."""
    m, k, n = case["m"], case["k"], case["n"]
    worst = max((1.0, 1.5, 2.0)[0 if s % 8 == 0 else 1 if s % 2 == 0 else 2] for s in (k, n))
    flops, moved = 2 * m * n * k, 2 * (m * k + k * n + m * n)
    floor = max(flops / TFLOPS / 1e6, moved / GBPS / 1e3)
    us = worst * floor * slower + 3.0
    made: Record = {"flops": flops, "bytes": moved, "floor_us": floor, "relative_error": 0.001}
    made |= {"cold": times(us), "warm": times(us * 0.9, how="graph")}
    if kernel is None:
        kernel = GEMV if m == 1 else {1.0: NATIVE, 1.5: ALIGN2, 2.0: ALIGN1}[worst]
    return made | {"kernels": [[kernel, us]]}


def attention_result(case: Record, kernels: list[str], choice: int) -> Record:
    """Time grows with the head dim in steps of 32; a pad costs half as much again."""
    d, s_k = case["d"], case["s_k"] or case["s_q"]
    flops = 4 * case["batch"] * case["h_q"] * case["s_q"] * s_k * d
    moved = 8 * case["batch"] * case["h_q"] * s_k * d
    floor = max(flops / TFLOPS / 1e6, moved / GBPS / 1e3)
    us = floor * -(-d // 32) * 32 / d * (1.5 if d % 8 else 1.2)
    made: Record = {"flops": flops, "bytes": moved, "floor_us": floor, "relative_error": 0.001}
    made |= {"choice": choice, "kernels": [[name, us] for name in kernels]}
    return made | {"cold": times(us), "warm": times(us * 0.95, how="graph")}


def stride_result(case: Record) -> Record:
    """Rows at multiples of 16 cost one sector, others two."""
    moved = 2 * case["rows"] * case["width"] * 2
    floor = moved / GBPS / 1e3
    us = floor * (2.0 if case["stride"] % 16 == 0 else 4.0)
    made: Record = {"flops": 0, "bytes": moved, "floor_us": floor, "relative_error": 0.0}
    return made | {"cold": times(us), "warm": times(us * 0.9, how="graph")}


def ceilings() -> list[Record]:
    """Copy, matmul and an empty pair of events."""
    results: list[tuple[str, str, int, Record]] = [
        ("copy", "fp32", 1 << 20, {"gbps": GBPS, "warm": times(10.0)}),
        ("matmul", "bf16", 8192, {"tflops": TFLOPS, "warm": times(10.0)}),
        ("event", "bf16", 0, {"us": 2.0}),
    ]
    return [
        item("ceilings", {"what": what, "dtype": dtype, "size": size}, result=result)
        for what, dtype, size, result in results
    ]


def dispatch() -> list[Record]:
    """Every kind of call, as the rules of torch 2.11 on an H200 have it."""
    made = []
    for k in (64, 96, 100, 104, 107, 112, 128, 256, 512, 1024, 1107, 1112):
        case = gemm_case(2048, k, 4096)
        made.append(_call("gemm", "K.low", case, result=gemm_result(case)))
    case = gemm_case(1, 4096, 4096)
    made.append(_call("gemm", "M", case, result=gemm_result(case)))
    case = gemm_case(2048, 4088, 4096, op="fp8")
    made.append(_call("gemm", "legal.fp8", case, error="RuntimeError: trailing dimension"))
    for d in (64, 96, 104, 107, 112, 128, 129, 136, 160, 192):
        case = attention_case(d)
        made.append(_call("attention", "d", case, result=_plain(case)))
    case = attention_case(107, mask="bool", batch=1)
    math = [ALIGN1, SOFTMAX, ALIGN1]
    made.append(_call("attention", "mask.bool", case, result=attention_result(case, math, 0)))
    case = attention_case(112, causal=True, s_q=128, s_k=2048)
    result = attention_result(case, [CUDNN_KERNEL], 3)
    made.append(_call("attention", "causal.rectangle", case, result=result))
    case = attention_case(128, force="flash")
    result = attention_result(case, [flash(128)], 1)
    made.append(_call("attention", "force.flash", case, result=result))
    return made


def _call(op: str, rule: str, case: Record, **outcome: object) -> Record:
    return item("dispatch", {"op": op, "rule": rule, "case": case}, **outcome)  # type: ignore[arg-type]


def _plain(case: Record) -> Record:
    """cuDNN for multiples of 8, else FlashAttention with pads."""
    d = case["d"]
    if d % 8 == 0:
        return attention_result(case, [CUDNN_KERNEL], 3)
    template = next(t for t in (32, 64, 96, 128, 192, 256) if t >= d)
    return attention_result(case, [FILL, FILL, FILL, flash(template)], 1)


def figures() -> list[Record]:
    """Sweeps of an attention, a matmul, a matmul of one row and a read of rows."""
    made = []
    for d in (*range(64, 257, 8), 107, 129, 161, 201):
        case = attention_case(d, dtype="fp16")
        made.append(_point("sdpa-head-dim", "attention", case, _plain(case)))
    near = (*range(4064, 4129, 8), 4065, 4083, 4095, 4097, 4110)
    shapes = {
        "gemm-k": [gemm_case(2048, k, 2048, "fp16") for k in range(64, 129)],
        "gemv-n": [gemm_case(1, 4096, n, "fp16") for n in near],
    }
    for figure, cases in shapes.items():
        made += [_point(figure, "gemm", case, gemm_result(case)) for case in cases]
    for stride in near:
        read = {"rows": 1024, "width": 16, "stride": stride, "dtype": "fp16"}
        made.append(_point("row-read", "stride", read, stride_result(read)))
    return made


def _point(figure: str, op: str, case: Record, result: Record) -> Record:
    kept = {name: value for name, value in result.items() if name != "kernels"}
    return item("figures", {"figure": figure, "op": op, "case": case}, result=kept)


def model_item(variant: str, us: float, kind: str = "time", **changes: object) -> Record:
    """One timed model; prefill of 1024 tokens, eager, 32 layers if nothing else is said."""
    fields: Record = {"kind": kind, "variant": variant, "mode": "eager", "phase": "prefill"}
    fields |= {"batch": 1, "seq": 1024, "layers": 32, **changes}
    result = {
        "times": times(us, how="loop"),
        "floor_us": us / 2,
        "params": 7_000_000_000,
        "ratio": 0.0 if variant == "dense" else 0.15,
        "aligned_share": None if variant == "dense" else 0.05 if variant == "asvd" else 1.0,
        "compile_s": 20.0 if "compiled" in str(fields["mode"]) else None,
        "peak_gib": 20.0,
        "relative_error": None,
    }
    return item("end-to-end", fields, result=result)


def models() -> list[Record]:
    """Times over lengths, decode, compiled modes, a check and a list of kernels."""
    made = []
    for variant, share in VARIANTS.items():
        for seq in (128, 512, 1024, 4096):
            made.append(model_item(variant, 40.0 * seq * share, seq=seq))
            made.append(model_item(variant, 38.0 * seq * share, seq=seq, mode="graph"))
        for mode, us in (("eager", 9000.0), ("graph", 4000.0)):
            made.append(model_item(variant, us * share, phase="decode", mode=mode))
    for variant in ("dense", "asvd", "asvd-aligned"):
        for mode, us in (("eager", 10000.0), ("compiled", 9000.0)):
            made.append(model_item(variant, us * VARIANTS[variant], mode=mode, layers=8))
    made.append(model_item("asvd", 8500.0, mode="padded-compiled", layers=8))
    kernels: Record = {"kernels": [[NATIVE, 700.0, 200], [FILL, 200.0, 50]]}
    kernels |= {"kernels_us": 1000.0, "launches": 300}
    fields = model_item("asvd", 1.0, kind="kernels")["item"]
    made.append(item("end-to-end", fields, result=kernels))
    return [*made, check(0.001)]


def check(error: float) -> Record:
    """A check with a limit of 0.05."""
    fields = model_item("dense", 1.0, kind="check")["item"]
    result = {"what": "a step = a prefill", "relative_error": error, "limit": 0.05}
    return item("end-to-end", fields, result=result)


def decompose() -> list[Record]:
    """One decomposition."""
    fields = {"what": "eigh", "size": 4096, "dtype": "fp64"}
    return [item("decompose", fields, result={"seconds": 1.5, "relative_error": 1e-12})]


def machine() -> list[Record]:
    """A whole run of everything."""
    end = {"kind": "end", "run": 1, "took_s": 100.0, "parts": {"ceilings": _done(3)}}
    parts = [ceilings(), dispatch(), models(), figures(), decompose()]
    return [run(), clocks(), *(record for part in parts for record in part), clocks(), end]


def _done(count: int) -> Record:
    return {"done": count, "failed": 0, "left": 0}
