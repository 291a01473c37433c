"""The section on whole models."""

from benchmarks.gpu.summary import model_checks, model_tables
from benchmarks.gpu.summary.models import Timings, timings
from benchmarks.gpu.summary.records import Records
from benchmarks.gpu.summary.tables import Table, filled, folded, folded_table, section

OTHER_MACHINE = (
    "The papers measured another machine (A100-80GB, fp16, torch 2.9.1 or 2.3) and ranks of real "
    "compressors; here the weights are random bf16 and the ranks drawn like theirs. GAC-v1 "
    "estimated its times and removed 20 %, not 15 %. Compare the ratios, not the milliseconds.\n"
)
CELLS = "Milliseconds, and below them times dense and times the floor.\n"


def models(records: Records, drawings: dict[str, str]) -> list[str]:
    """Headline, papers, lengths, decode, padding, compiled modes, kernels, checks."""
    found = timings(records)
    spent = filled(model_checks.kernels_table(records))
    names = "".join(f"- `{name}` ({n})\n" for name, n in model_checks.unknown_names(records))
    parts = [
        *_headline(found, drawings),
        *_titled("Prefill by length", _lengths(found, drawings.get("prefill-lengths"))),
        *_titled("Decode, one token", _sizes(found, "decode", drawings.get("decode"))),
        *_titled("Padding", filled(model_tables.padding_table(found))),
        *_titled("Compiled, at equal depth", _modes(found)),
        *_titled("Kernels", spent + ([folded("Unknown kernel names", names)] if names else [])),
        *_titled("Checks", filled(model_checks.checks_table(records))),
    ]
    return section("Llama-3-8B, end to end", parts)


def _headline(found: Timings, drawings: dict[str, str]) -> list[str]:
    at = found.headline("prefill")
    if at is None:
        return []
    return [
        f"### {at.text().capitalize()}\n",
        *([drawings["prefill"]] if "prefill" in drawings else []),
        model_tables.headline_table(found, at).markdown(),
        "### Beside the papers\n",
        OTHER_MACHINE,
        model_tables.beside_v2(found, at).markdown(),
        model_tables.beside_v1(found, at).markdown(),
    ]


def _lengths(found: Timings, drawing: str | None) -> list[str]:
    said = model_tables.beside_figure_10(found)
    return [*_sizes(found, "prefill", drawing), *([said] if said else [])]


def _sizes(found: Timings, phase: str, drawing: str | None) -> list[str]:
    grids = model_tables.by_size(found, phase)
    if not grids:
        return []
    (what, first), *others = grids
    shown = [f"**{what}**\n", first.markdown()]
    return [*([drawing] if drawing else []), CELLS, *shown, *_folded(others)]


def _modes(found: Timings) -> list[str]:
    grids = model_tables.by_mode(found)
    if not grids:
        return []
    (what, first), *others = grids
    seconds = folded_table("Time to compile", model_tables.compile_table(found))
    return [CELLS, f"**{what}**\n", first.markdown(), *_folded(others), *seconds]


def _folded(grids: list[tuple[str, Table]]) -> list[str]:
    return [folded(what, grid.markdown()) for what, grid in grids]


def _titled(title: str, parts: list[str]) -> list[str]:
    """A subsection, or nothing where it would be empty."""
    return [f"### {title}\n", *parts] if parts else []
