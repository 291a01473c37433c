"""Single calls of the parts ``dispatch`` and ``figures``, and the sweeps that they form."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.summary.records import Entry, Records
from gacfx.hardware.kernel_names import Kernel
from gacfx.hardware.measure.journal import key
from gacfx.hardware.measure.times import Times

LABELS = {"dispatch": "rule", "figures": "figure"}
"""Part -> the field of an item that says which question it belongs to."""
SIZES = ("m", "n", "k", "d", "d_v", "s_q", "s_k", "stride")
"""Fields of a case that a sweep can go along."""
MIN_POINTS = 5
"""Fewer points than this are no sweep."""
CHOICES = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}
"""What ``torch._fused_sdp_choice`` answers; ``torch.nn.attention.SDPBackend``."""


@dataclass(frozen=True, slots=True)
class Call:
    """One matmul, attention call or strided read, as it was measured."""

    label: str
    """Rule or figure."""
    op: str
    """``gemm``, ``attention`` or ``stride``."""
    case: Mapping[str, Any]
    entry: Entry

    @property
    def cold(self) -> Times | None:
        """With a cold L2."""
        return self.entry.times("cold")

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """What the profiler saw; empty where it was not asked or saw nothing."""
        found = (self.entry.result or {}).get("kernels", [])
        return tuple(Kernel(str(name), float(us)) for name, us in found)

    @property
    def choice(self) -> str | None:
        """The backend that torch says it takes; None where it could not answer."""
        found = (self.entry.result or {}).get("choice")
        return CHOICES.get(found) if isinstance(found, int) else None

    @property
    def dtype(self) -> str:
        """Of the operands."""
        op = self.case.get("op")
        return str(op if op in ("fp8", "int8") else self.case["dtype"])

    def text(self) -> str:
        """The case in a few words."""
        writers = {"gemm": _gemm_text, "attention": _attention_text}
        return writers.get(self.op, _plain_text)(self.case)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Calls of one question that differ in one size alone, in its order."""

    label: str
    field: str
    points: tuple[tuple[int, Call], ...]
    base: str
    """What tells this sweep from others of the question: ``m 512``; empty if there is one."""

    @property
    def name(self) -> str:
        """``pair.down over n at m 512``."""
        return f"{self.label} over {self.field}" + (f" at {self.base}" if self.base else "")


def calls(records: Records, part: str, *, failed: bool = False) -> list[Call]:
    """The calls of ``dispatch`` or ``figures``; with ``failed`` those that raised as well."""
    entries = [e for e in records.entries if e.part == part and (failed or e.result is not None)]
    return [Call(str(e.item[LABELS[part]]), e.item["op"], e.item["case"], e) for e in entries]


def named(entry: Entry) -> str:
    """An item in a few words: a call as its case, any other by its fields."""
    if entry.part not in LABELS:
        return key("", entry.item).strip()
    label = str(entry.item[LABELS[entry.part]])
    return f"{label}: {Call(label, entry.item['op'], entry.item['case'], entry).text()}"


def by_label(found: Iterable[Call]) -> dict[str, list[Call]]:
    """Calls of each rule or figure, in the order in which they came."""
    groups: dict[str, list[Call]] = defaultdict(list)
    for call in found:
        groups[call.label].append(call)
    return dict(groups)


def sweeps(found: Iterable[Call]) -> list[Sweep]:
    """Every sweep among the calls that has points enough."""
    return [sweep for label, group in by_label(found).items() for sweep in _sweeps(label, group)]


def _sweeps(label: str, group: list[Call]) -> list[Sweep]:
    kept = []
    for field in SIZES:
        lines: dict[tuple[tuple[str, str], ...], list[tuple[int, Call]]] = defaultdict(list)
        for call in group:
            if call.case.get(field) is not None:
                rest = tuple((k, str(v)) for k, v in call.case.items() if k != field)
                lines[rest].append((int(call.case[field]), call))
        kept += [(field, rest, line) for rest, line in lines.items() if len(line) >= MIN_POINTS]
    return [
        Sweep(
            label=label,
            field=field,
            points=tuple(sorted(line, key=lambda point: point[0])),
            base=_base(rest, [other for name, other, _ in kept if name == field]),
        )
        for field, rest, line in kept
    ]


def _base(rest: tuple[tuple[str, str], ...], all_rests: list[tuple[tuple[str, str], ...]]) -> str:
    """The fixed fields in which the sweeps of a question differ."""
    differing = [pair for pair in rest if any(pair not in other for other in all_rests)]
    return ", ".join(f"{name} {value}" for name, value in differing)


def _gemm_text(case: Mapping[str, Any]) -> str:
    """M x K x N, as everywhere in gacfx."""
    words = [f"{case['m']} x {case['k']} x {case['n']}", str(case["dtype"])]
    return " ".join(words + [str(case["op"])] * (case.get("op", "linear") != "linear"))


def _attention_text(case: Mapping[str, Any]) -> str:
    d, d_v, s_q, s_k = (case.get(name) for name in ("d", "d_v", "s_q", "s_k"))
    h_q, h_kv = case["h_q"], case.get("h_kv")
    words = [f"d {d}" + (f"/{d_v}" if d_v not in (None, d) else "")]
    words += [f"B {case['batch']}", f"H {h_q}" + (f"/{h_kv}" if h_kv not in (None, h_q) else "")]
    words += [f"S {s_q}" + (f"/{s_k}" if s_k not in (None, s_q) else ""), str(case["dtype"])]
    words += [f"{case['mask']} mask"] if case.get("mask") else []
    words += [name for name in ("causal", "gqa") if case.get(name)]
    return ", ".join(words + ([f"only {case['force']}"] if case.get("force") else []))


def _plain_text(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in case.items())
