"""Dispatch truth: which kernel each shape gets and how long it takes.

The shapes are those that the rules in ``gacfx.hardware`` speak of; ``rule`` names the question.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from gacfx.hardware.measure.cases.attention import Attention
from gacfx.hardware.measure.cases.gemm import OPS, Gemm
from gacfx.hardware.measure.cases.measured import line, measure_case
from gacfx.hardware.measure.cases.prepared import DTYPES
from gacfx.hardware.measure.memory import release
from gacfx.hardware.measure.part import Result, Setting

EMPTY_CACHE_EVERY = 40
LENGTHS = ("m", "n", "k", "d", "d_v", "s_q", "s_k", "batch", "h_q", "h_kv")
WORDS = {
    "dtype": tuple(DTYPES),
    "op": tuple(OPS),
    "mask": (None, "bool", "float"),
    "force": (None, "flash", "cudnn", "efficient", "math"),
    "causal": (False, True),
    "gqa": (False, True),
}
"""What a private shape may say, beside lengths."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call and the rule that it asks about."""

    op: str
    """``gemm`` or ``attention``."""
    rule: str
    case: Gemm | Attention


class Dispatch:
    """The list of shapes, one by one."""

    name = "dispatch"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._measured = 0

    def items(self) -> Sequence[Question]:
        """The rules' shapes and the private ones, each case once."""
        own = [*_attention_questions(), *_gemm_questions()]
        extra = read_extra(self._setting.extra) if self._setting.extra else []
        known = {question.case for question in own}
        own += [question for question in extra if question.case not in known]
        return list({question.case: question for question in own}.values())

    def seconds(self, item: Question) -> float:
        """Building a cuDNN plan is the slow part."""
        return 1.5 if item.op == "attention" else 0.5

    def measure(self, item: Question) -> Result:
        """Kernels, times and floor of one shape."""
        self._measured += 1
        if not self._measured % EMPTY_CACHE_EVERY:
            release(self._setting.timer.device)
        return measure_case(item.case, self._setting, kernels=True)

    def headline(self, item: Question, result: Result) -> str | None:
        """One line for each shape of the rules that people ask about first."""
        if item.rule not in ("d", "K.low"):
            return None
        case = item.case
        if isinstance(case, Attention):
            label = f"attention d {case.d} backend {result['choice']}"
        else:
            label = f"gemm {case.m} x {case.n} x {case.k}"
        return line(label, result)

    def close(self) -> None:
        """Nothing is kept."""


def read_extra(path: Path) -> list[Question]:
    """Private shapes: a JSON list of {"op": ..., "rule": ..., and fields of the case}.

    Raises:
        ValueError: not such a list; names the entry.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of shapes")
    return [_question(row, f"{path}[{number}]") for number, row in enumerate(rows)]


def _question(row: object, where: str) -> Question:
    kinds: dict[str, type[Gemm] | type[Attention]] = {"gemm": Gemm, "attention": Attention}
    if not isinstance(row, dict) or row.get("op") not in tuple(kinds):
        raise ValueError(f'{where}: expected an object with "op": "gemm" or "attention"')
    kind = kinds[row["op"]]
    # A gemm's own "op", how it is called, is given as "call": the outer name is taken.
    values = {"op" if name == "call" else name: value for name, value in row.items()}
    values = {name: value for name, value in values.items() if name != "rule"}
    if "call" not in row:
        values.pop("op")
    if unknown := sorted(values.keys() - {field.name for field in fields(kind)}):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}")
    try:
        case = kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
    for name, value in asdict(case).items():
        if name in LENGTHS and not (type(value) is int and value > 0) and value is not None:
            raise ValueError(f"{where}: {name} {value!r}: expected a whole number above 0")
        if name in WORDS and value not in WORDS[name]:
            raise ValueError(f"{where}: {name} {value!r}: known are {WORDS[name]}")
    return Question(str(row["op"]), str(row.get("rule", "extra")), case)


def _gemm_questions() -> list[Question]:
    near = [4088, 4092, 4094, 4095, 4096, 4098, 4104, 4112, 4128, 4160]
    low = [64, 72, 80, 88, 96, 100, 102, 104, 106, 107, 108, 110, 112, 120, 127, 128, 136, 144]
    low += [160, 192, 256, 384, 512, 768, 896, 1000, 1016, 1020, 1022, 1023, 1024, 1096, 1104]
    low += [1107, 1112, 1120, 1152]
    ns = [64, 72, 80, 96, 100, 104, 107, 108, 112, 120, 128, 192, 256, 512, 1000, 1016, 1020, 1022]
    ns += [1023, 1024, 1107, 1112, 3413, 3416, 3424, 3456, 3584]
    ms = [1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 33, 64, 65, 100, 127, 128, 129, 192, 256, 257]
    ms += [384, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049]
    found = [("K.low", Gemm(2048, 4096, k)) for k in low]
    found += [("K.big", Gemm(2048, 4096, k)) for k in sorted([*near, 4100])]
    found += [("N", Gemm(2048, n, 4096)) for n in ns + near]
    # The two halves of a low-rank pair, from decode to prefill.
    for m in (1, 16, 512, 2048):
        for rank in (96, 104, 107, 108, 112, 128, 1000, 1023, 1024, 1107, 1112):
            found += [("pair.down", Gemm(m, rank, 4096)), ("pair.up", Gemm(m, 4096, rank))]
    found += [("M", Gemm(m, 4096, 4096)) for m in ms]
    # N in steps of 128 across full waves of a 132-SM part.
    found += [("wave", Gemm(2048, n, 4096)) for n in range(3840, 5633, 128)]
    for dtype in ("fp16", "fp32"):
        found += [("dtype", Gemm(2048, 4096, k, dtype)) for k in (4088, 4092, 4094, 4095, 4096)]
    for op in ("linear_bias", "slice_ld4096", "slice_off1", "mm_nn", "bmm"):
        found += [(f"op.{op}", Gemm(2048, 4096, k, op=op)) for k in (4088, 4095, 4096)]
    for k in (4080, 4088, 4096):
        found += [("legal.fp8", Gemm(2048, 4096, k, op="fp8"))]
        found += [("legal.int8", Gemm(2048, 4096, k, op="int8"))]
    return _once("gemm", found)


def _attention_questions() -> list[Question]:
    dims = [64, 72, 80, 88, 96, 100, 104, 107, 108, 112, 120, 124, 127, 128, 129, 130, 132, 136]
    dims += [144, 160, 161, 168, 176, 192, 200, 208, 224, 232, 240, 248, 255, 256, 257, 264]
    found = [("d", Attention(d)) for d in dims]
    for d in (104, 107, 112, 128, 136):
        found.append(("mask.bool", Attention(d, mask="bool", batch=1)))
        found.append(("mask.float", Attention(d, mask="float", batch=1)))
        found.append(("causal", Attention(d, causal=True)))
    for d, d_v in ((104, 96), (107, 96), (107, 112), (128, 96), (96, 128), (192, 128)):
        found.append(("d_qk!=d_v", Attention(d, d_v, batch=1)))
    for d in (107, 112, 128):
        found.append(("gqa", Attention(d, h_kv=8, gqa=True)))
        found.append(("gqa.mask", Attention(d, h_kv=8, gqa=True, mask="float", batch=1)))
    for d in (64, 104, 107, 112, 128, 136, 160, 192, 256):
        decode = Attention(d, s_q=1, s_k=4096, batch=8)
        found += [("decode", decode), ("decode.gqa", replace(decode, h_kv=8, gqa=True))]
    for d in (64, 96, 107, 112, 128, 129, 136, 160, 192, 224, 256):
        for backend in ("flash", "cudnn", "efficient"):
            found.append((f"force.{backend}", Attention(d, force=backend)))
    for d in (104, 107, 128):
        found.append(("force.math", Attention(d, force="math", batch=1)))
        found.append(("math.reference", Attention(d, batch=1)))
    found += [("fp32", Attention(d, dtype="fp32", batch=1)) for d in (107, 108, 112, 128)]
    for d in (107, 112):
        found.append(("causal.rectangle", Attention(d, s_q=128, s_k=2048, causal=True)))
    return _once("attention", found)


def _once(op: str, found: Sequence[tuple[str, Gemm | Attention]]) -> list[Question]:
    """A case that two rules ask about belongs to the first."""
    first: dict[Gemm | Attention, Question] = {}
    for rule, case in found:
        first.setdefault(case, Question(op, rule, case))
    return list(first.values())
