"""The part ``dispatch`` as tables: every call of every rule, and GAC-v2's Table 3 beside ours."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import gcd

from benchmarks.gpu.summary import paper
from benchmarks.gpu.summary.calls import ELEMENT_BYTES, Call, by_label
from benchmarks.gpu.summary.tables import NONE, Table, number, over, table, times
from gacfx.hardware.kernel_names import attended, multiplied, shown, unknown
from gacfx.hardware.sdpa import FLASH_LIMIT

QUESTIONS = {
    "K.low": "Which inner sizes below 1152 are fast?",
    "K.big": "Which inner sizes near 4096 are fast?",
    "N": "Which output widths are fast?",
    "M": "Do rows count, and until where is it a GEMV?",
    "pair.down": "First half of a low-rank pair, decode to prefill",
    "pair.up": "Second half of a low-rank pair, decode to prefill",
    "wave": "Output widths across full waves",
    "dtype": "fp16 and fp32",
    "op.linear_bias": "With a bias",
    "op.slice_ld4096": "Cut from wider rows: aligned stride, any K",
    "op.slice_off1": "Cut from wider rows: first element off by one",
    "op.mm_nn": "Weight stored [K, N]",
    "op.bmm": "Batched",
    "legal.fp8": "Which fp8 shapes are legal?",
    "legal.int8": "Which int8 shapes are legal?",
    "d": "Head dims, plain call",
    "force.flash": "Only FlashAttention allowed",
    "force.cudnn": "Only cuDNN allowed",
    "force.efficient": "Only efficient allowed",
    "force.math": "Only math allowed",
    "math.reference": "The same calls, free choice",
    "mask.bool": "With a bool mask",
    "mask.float": "With a float mask",
    "causal": "Causal",
    "causal.rectangle": "Causal with fewer queries than keys",
    "d_qk!=d_v": "Keys and values of unequal width",
    "gqa": "Grouped heads",
    "gqa.mask": "Grouped heads with a mask",
    "decode": "One query, 4096 keys",
    "decode.gqa": "One query, 4096 keys, grouped heads",
    "fp32": "Attention in fp32",
    "extra": "Private shapes, never used for calibration",
}
"""Rule -> what it asks."""


def rule_tables(found: Iterable[Call]) -> list[tuple[str, str, Table]]:
    """(rule, what it asks, its calls), in the order in which they were measured."""
    return [
        (rule, QUESTIONS.get(rule, ""), rule_table(group))
        for rule, group in by_label(found).items()
    ]


def rule_table(group: Sequence[Call]) -> Table:
    """Each call with its times, its floor and the kernels that ran; a call that raised says so."""
    asked = any(call.op == "attention" for call in group)
    header = (
        "case",
        ">cold, us",
        ">spread",
        ">warm, us",
        ">floor, us",
        ">cold of floor",
        "kernels",
    )
    rows = [_row(call) + ((call.choice or NONE,) if asked else ()) for call in group]
    return table((*header, *(("torch says",) if asked else ())), rows)


def table_3(found: Iterable[Call]) -> Table:
    """GAC-v2's Table 3 beside the kernels seen here: half precision, plain linears of many rows."""
    seen: dict[int, Counter[str]] = {1: Counter(), 2: Counter(), 3: Counter()}
    for call in found:
        case = call.case
        if call.op != "gemm" or case["op"] != "linear" or ELEMENT_BYTES[call.dtype] != 2:
            continue
        kind = multiplied(call.kernels, ELEMENT_BYTES[call.dtype])
        if kind is not None and kind != "gemv":
            step = gcd(case["k"], case["n"])
            seen[1 if step % 8 == 0 else 2 if step % 2 == 0 else 3][shown(call.kernels)] += 1
    rows = [
        (
            condition,
            kernel,
            ", ".join(f"{kind} ({n})" for kind, n in seen[tier].most_common()) or NONE,
        )
        for tier, condition, kernel, _ in paper.TABLE_3
    ]
    return table(("K and N", f"GAC-v2 Table 3, {paper.A100}", "here (calls)"), rows)


def unknown_names(found: Iterable[Call]) -> list[tuple[str, int]]:
    """(kernel name, calls) that the classifier does not know, most frequent first."""
    counts = Counter(name for call in found for name in set(unknown(call.kernels)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def misaligned_heads(found: Iterable[Call]) -> list[Call]:
    """Half-precision attention calls of known backend, one of whose head dims is no multiple of 8.

    Backends are chosen freely.
    """
    return [
        call
        for call in found
        if call.op == "attention" and not call.case.get("force") and ELEMENT_BYTES[call.dtype] == 2
        if call.case["d"] % 8 or (call.case.get("d_v") or 0) % 8
        if backend(call) is not None
    ]


def is_plain(call: Call) -> bool:
    """No mask, equal head dims within flash's limit, causal only on a square."""
    case = call.case
    wide = case["d"] > FLASH_LIMIT or case.get("d_v") not in (None, case["d"])
    oblong = bool(case.get("causal")) and case.get("s_k") not in (None, case["s_q"])
    return not (case.get("mask") or wide or oblong)


def backend(call: Call) -> str | None:
    """What ran, by kernel names; by torch's own answer where the names do not tell."""
    ran = attended(call.kernels)
    return call.choice if ran is None else ran.backend


def _row(call: Call) -> tuple[str, ...]:
    if call.entry.result is None:
        return (call.text(), *([NONE] * 5), f"raised `{call.entry.error[:100]}`")
    cold, warm = call.cold, call.warm
    return (
        call.text(),
        number(cold.median_us if cold else None),
        times(cold.spread if cold else None),
        number(warm.median_us if warm else None),
        number(call.floor_us),
        times(over(cold.median_us if cold else None, call.floor_us)),
        shown(call.kernels) or NONE,
    )
