"""Whole models as tables: variants, lengths, modes, padding; the papers' numbers beside ours."""

from dataclasses import replace

from benchmarks.gpu.summary import paper
from benchmarks.gpu.summary.models import (
    ESTIMATED_SEQ,
    FAMILIES,
    HEADLINE_SEQ,
    MODES,
    PLAIN,
    PREFERRED,
    Cell,
    Timings,
    title,
)
from benchmarks.gpu.summary.tables import (
    NONE,
    Table,
    ms,
    number,
    over,
    percent,
    table,
    times,
)


def headline_table(found: Timings, at: Cell) -> Table:
    """Every variant of one cell, with its floor and its spread."""
    rows = []
    for variant in found.variants([at]):
        timing = found.get(at, variant)
        assert timing is not None
        rows.append(
            (
                title(variant),
                f"**{ms(timing.us)}**",
                f"{ms(timing.times.p10_us)} to {ms(timing.times.p90_us)}",
                times(over(timing.us, found.dense_us(at))),
                ms(timing.floor_us),
                times(over(timing.us, timing.floor_us)),
                percent(timing.entry.number("ratio"), 1),
                percent(timing.entry.number("aligned_share")),
            )
        )
    header = ("variant", ">ms", ">p10 to p90", ">of dense", ">floor, ms", ">of floor")
    return table((*header, ">removed", ">aligned dims"), rows)


def beside_v2(found: Timings, at: Cell) -> Table:
    """GAC-v2's Table 5 beside the same length here."""
    rows = []
    for variant, published in paper.PREFILL_MS.items():
        timing = found.get(replace(at, seq=HEADLINE_SEQ), variant)
        rows.append(
            (
                title(variant),
                ms(timing.us if timing else None),
                _of_dense(found, replace(at, seq=HEADLINE_SEQ), variant),
                percent(timing.entry.number("aligned_share") if timing else None),
                f"{published.value:g}",
                times(published.value / paper.PREFILL_MS["dense"].value),
                percent(paper.ALIGNED_SHARE[variant]),
            )
        )
    header = ("variant", f">here, {HEADLINE_SEQ} tokens, ms", ">of dense", ">aligned")
    return table((*header, f">{paper.TABLE_5}, ms", ">of dense", ">aligned"), rows)


def beside_v1(found: Timings, at: Cell) -> Table:
    """GAC-v1's estimates beside what was measured here at their length."""
    rows = []
    for variant, published in paper.ESTIMATED_MS.items():
        cell = replace(at, seq=ESTIMATED_SEQ)
        ratio = times(published.value / paper.ESTIMATED_MS["dense"].value)
        ours = (ms(found.us(cell, variant)), _of_dense(found, cell, variant))
        rows.append((title(variant), *ours, f"{published.value:g}", ratio))
    header = ("variant", f">here, {ESTIMATED_SEQ} tokens, ms", ">of dense")
    return table((*header, f">{paper.V1_TABLE_3}, estimated, ms", ">of dense"), rows)


def beside_figure_10(found: Timings) -> str:
    """LLM-Pruner over dense at the lengths that GAC-v2 names; empty where one is missing."""
    at = found.headline("prefill")
    if at is None:
        return ""
    ours = []
    for seq in paper.FIGURE_10:
        cell = replace(at, seq=seq)
        ratio = over(found.us(cell, "pruner"), found.us(cell, "dense"))
        ours += [] if ratio is None else [f"{(ratio - 1) * 100:+.0f} % at {seq}"]
    if len(ours) < len(paper.FIGURE_10):
        return ""
    theirs = [f"+{said.text()} at {seq}" for seq, said in paper.FIGURE_10.items()]
    return (
        f"GAC-v2 saw LLM-Pruner unaligned at {' and '.join(theirs)} tokens over dense; "
        f"here it is at {' and '.join(ours)}.\n"
    )


def by_size(found: Timings, phase: str) -> list[tuple[str, Table]]:
    """(what, variant x batch and length) for each plain mode at full depth."""
    deepest = max((cell.layers for cell in found.cells(phase)), default=0)
    plain = [c for c in found.cells(phase) if c.mode in PLAIN and c.layers == deepest]
    made = []
    modes = {cell.mode for cell in plain}
    for mode in sorted(modes, key=lambda mode: (mode != PREFERRED[phase], mode)):
        cells = [cell for cell in plain if cell.mode == mode]
        what = f"{phase.capitalize()}, {mode}, {deepest} layers{_common(cells)}"
        made.append((what, _grid(found, cells, [_size(cell, cells) for cell in cells])))
    return made


def by_mode(found: Timings) -> list[tuple[str, Table]]:
    """(what, variant x mode) wherever a compiled mode was measured: the same depth in a row."""
    made = []
    for phase in ("prefill", "decode"):
        cells = found.cells(phase)
        bases = {(c.batch, c.seq, c.layers) for c in cells if c.mode not in PLAIN}
        for batch, seq, layers in sorted(bases):
            same = [c for c in cells if (c.batch, c.seq, c.layers) == (batch, seq, layers)]
            same.sort(key=lambda c: MODES.index(c.mode) if c.mode in MODES else len(MODES))
            what = f"{phase.capitalize()}, {seq} tokens, batch {batch}, {layers} layers"
            made.append((what, _grid(found, same, [c.mode for c in same])))
    return made


def padding_table(found: Timings) -> Table:
    """What zeros do to the unaligned sizes, and what alignment does under the same budget."""
    rows = []
    for at in filter(None, (found.headline("prefill"), found.headline("decode"))):
        for family in FAMILIES:
            own, padded, aligned = (
                found.us(at, name) for name in (family, f"{family}-padded", f"{family}-aligned")
            )
            if own is not None and padded is not None:
                shares = (times(over(padded, own)), times(over(aligned, own)))
                sizes = (ms(own), ms(padded), ms(aligned))
                rows.append((title(family), at.text(), *sizes, *shares))
    header = ("variant", "run", ">unaligned, ms", ">padded, ms", ">aligned, ms")
    return table((*header, ">padded of unaligned", ">aligned of unaligned"), rows)


def compile_table(found: Timings) -> Table:
    """Seconds that torch.compile took, and the most memory."""
    rows = []
    for phase in ("prefill", "decode"):
        for at in found.cells(phase):
            for variant in found.variants([at]):
                timing = found.get(at, variant)
                seconds = timing.entry.number("compile_s") if timing else None
                if timing and seconds:
                    peak = timing.entry.number("peak_gib")
                    rows.append((title(variant), at.text(), number(seconds), number(peak)))
    return table(("variant", "run", ">compile, s", ">peak, GiB"), rows)


def _common(cells: list[Cell]) -> str:
    """The size that all cells share: ``, batch 1``."""
    batches, seqs = {c.batch for c in cells}, {c.seq for c in cells}
    same = [f", batch {batches.pop()}"] if len(batches) == 1 else []
    return "".join(same + ([f", {seqs.pop()} tokens"] if len(seqs) == 1 else []))


def _size(cell: Cell, cells: list[Cell]) -> str:
    """The size in which a cell differs from the others."""
    words = [f"batch {cell.batch}"] if len({c.batch for c in cells}) > 1 else []
    tokens = [f"{cell.seq} tokens"] if len({c.seq for c in cells}) > 1 or not words else []
    return ", ".join(words + tokens)


def _grid(found: Timings, cells: list[Cell], names: list[str]) -> Table:
    rows = []
    for variant in found.variants(cells):
        rows.append((title(variant), *(_square(found, at, variant) for at in cells)))
    return table(("variant", *(f">{name}" for name in names)), rows)


def _square(found: Timings, at: Cell, variant: str) -> str:
    """Milliseconds, and below them the ratios to dense and to the floor."""
    timing = found.get(at, variant)
    if timing is None:
        return NONE
    dense = times(over(timing.us, found.dense_us(at)))
    floor = times(over(timing.us, timing.floor_us))
    return f"{ms(timing.us)}<br><sub>{dense} dense, {floor} floor</sub>"


def _of_dense(found: Timings, at: Cell, variant: str) -> str:
    return times(over(found.us(at, variant), found.dense_us(at)))
