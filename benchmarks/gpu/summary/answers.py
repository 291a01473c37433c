"""What a machine says, in sentences: each one computed from the records, or left out."""

import statistics
from collections.abc import Sequence

from benchmarks.gpu.summary import dispatch, figures, paper
from benchmarks.gpu.summary.agreement import Verdict
from benchmarks.gpu.summary.calls import Call, calls
from benchmarks.gpu.summary.models import HEADLINE_SEQ, Cell, Timings, timings
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.summary.tables import ms, number, percent

SAME = 0.01
"""Ratios that differ less from 1 are called equal."""
NAMES = {"asvd": "ASVD", "pruner": "LLM-Pruner"}
NOTHING = "Nothing that these records hold answers one of the papers' questions yet."


def paragraph(records: Records) -> str:
    """Whole models: is the compressed one slower than dense, and what does alignment give?"""
    found = timings(records)
    at = found.headline("prefill")
    if at is None:
        return ""
    dense = found.dense_us(at)
    assert dense is not None
    sentences = [f"**Llama-3-8B, {at.text()}:** dense takes {ms(dense)} ms."]
    for family, name in NAMES.items():
        sentences += _family(found, at, family, name, dense)
    if (plan := found.us(at, "default")) is not None:
        wide = found.us(at, "default-64")
        also = "" if wide is None else f"; in multiples of 64 it {_takes(wide / dense)} dense"
        sentences.append(f"The plan of gacfx {_takes(plan / dense)} dense{also}.")
    return " ".join(sentences)


def bullets(records: Records, verdicts: Sequence[Verdict]) -> list[str]:
    """Everything else, one sentence each."""
    models = timings(records)
    return [
        *_padding(models),
        *_compiled(models),
        *_decode(models),
        *_head_dims(calls(records, "dispatch")),
        *_step(records),
        *_matmul(records),
        *_rules(verdicts),
    ]


def _family(found: Timings, at: Cell, family: str, name: str, dense: float) -> list[str]:
    own, aligned = found.us(at, family), found.us(at, f"{family}-aligned")
    if own is None:
        return []
    text = f"{name} unaligned {_takes(own / dense)} dense{_published(family, at)}"
    if aligned is None:
        return [f"{text}."]
    return [
        f"{text}; aligned under the same budget it {_takes(aligned / dense)} dense"
        f"{_published(f'{family}-aligned', at)}, so alignment alone makes it "
        f"**{own / aligned:.2f} times as fast**."
    ]


def _padding(models: Timings) -> list[str]:
    at = models.headline("prefill")
    if at is None:
        return []
    parts = []
    for family, name in NAMES.items():
        own, padded = (models.us(at, v) for v in (family, f"{family}-padded"))
        if own is not None and padded is not None:
            parts.append(f"{name} {_takes(padded / own)} unaligned")
    return (
        [f"**Padded with zeros** to the next multiple of 8, {'; '.join(parts)}."] if parts else []
    )


def _compiled(models: Timings) -> list[str]:
    """torch.compile of the unaligned model, with and without padding every matmul."""
    cells = [c for c in models.cells("prefill") if c.mode in ("compiled", "padded-compiled")]
    at = min(cells, key=lambda c: (c.mode, abs(c.seq - HEADLINE_SEQ)), default=None)
    if at is None:
        return []
    parts = []
    for mode in ("compiled", "padded-compiled"):
        cell = Cell(at.phase, mode, at.batch, at.seq, at.layers)
        own, dense = models.us(cell, "asvd"), models.dense_us(cell)
        if own is not None and dense is not None:
            how = "with `force_shape_pad` it " if mode == "padded-compiled" else ""
            parts.append(f"{how}{_takes(own / dense)} compiled dense")
    what = f"**Under torch.compile** ({at.seq} tokens, {at.layers} layers) ASVD unaligned"
    return [f"{what} {'; '.join(parts)}."] if parts else []


def _decode(models: Timings) -> list[str]:
    at = models.headline("decode")
    dense = models.dense_us(at) if at else None
    if at is None or dense is None:
        return []
    parts = [f"dense takes {ms(dense)} ms a token"]
    for family, name in NAMES.items():
        own, aligned = models.us(at, family), models.us(at, f"{family}-aligned")
        if own is not None and aligned is not None:
            parts.append(
                f"{name} unaligned {_change(own / dense)}, aligned {_change(aligned / dense)}"
            )
    return [f"**{at.text().capitalize()}:** {'; '.join(parts)}."]


def _head_dims(found: Sequence[Call]) -> list[str]:
    """Do head dims that are no multiple of 8 reach the math backend, as both papers say?"""
    odd = dispatch.misaligned_heads(found)
    texts = []
    for plain, what in ((True, "plain calls"), (False, "calls with a mask, unequal or wide heads")):
        group = [call for call in odd if dispatch.is_plain(call) == plain]
        if group:
            reached = sum(dispatch.backend(call) == "math" for call in group)
            texts.append(f"{reached or 'none'} of {len(group)} {what}")
    if not texts:
        return []
    head = "**Head dims that are no multiple of 8** reached the math backend in"
    return [f"{head} {' and in '.join(texts)}; both papers say that they always do."]


def _step(records: Records) -> list[str]:
    found = dict(figures.points(records, "sdpa-head-dim"))
    if not {128, 129} <= found.keys():
        return []
    low, high = (figures.median_us(found[d]) for d in (128, 129))
    if low is None or high is None:
        return []
    said = f"GAC-v2 on an {paper.A100}: about +{paper.SDPA_STEP.text()}"
    return [f"**Attention with d 129** {_takes(high / low)} with d 128 ({said})."]


def _matmul(records: Records) -> list[str]:
    rates: dict[bool, list[float]] = {True: [], False: []}
    for k, call in figures.points(records, "tensor-core-k"):
        if (rate := figures.value(call, "TFLOPS")) is not None:
            rates[k % 8 == 0].append(rate)
    if not rates[True] or not rates[False]:
        return []
    aligned, other = (statistics.median(rates[kind]) for kind in (True, False))
    said = f"{paper.TENSOR_CORE_ALIGNED.text()} and {paper.TENSOR_CORE_MISALIGNED.text()}"
    return [
        f"**A matmul with K near 4096** reaches {number(aligned)} TFLOPS at multiples of 8 and "
        f"{number(other)} elsewhere (GAC-v2 on an {paper.A100}: {said})."
    ]


def _rules(verdicts: Sequence[Verdict]) -> list[str]:
    parts = []
    for quantity, what in (("backend", "the SDPA backend"), ("gemm", "the class of matmul kernel")):
        own = [verdict for verdict in verdicts if verdict.quantity == quantity]
        if own:
            right = sum(verdict.agrees for verdict in own)
            parts.append(f"{what} in {right} of {len(own)} calls")
    return [f"**The rules** named {' and '.join(parts)} rightly."] if parts else []


def _takes(ratio: float) -> str:
    """``takes 33 % less time than``, before what it is compared with."""
    if abs(ratio - 1) < SAME:
        return "takes as long as"
    return f"takes {percent(abs(ratio - 1))} {'more' if ratio > 1 else 'less'} time than"


def _change(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.0f} %"


def _published(variant: str, at: Cell) -> str:
    """What GAC-v2 measured for the same length: ``(GAC-v2: +1 %)``."""
    if at.seq != HEADLINE_SEQ or at.phase != "prefill" or variant not in paper.PREFILL_MS:
        return ""
    ratio = paper.PREFILL_MS[variant].value / paper.PREFILL_MS["dense"].value
    return f" (GAC-v2: {_change(ratio)})"
