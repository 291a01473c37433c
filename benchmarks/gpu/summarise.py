"""Tables, plots and pages from the records of GPU machines, the papers' numbers beside ours.

    python -m benchmarks.gpu.summarise [RESULTS_DIR ...] [--out docs/results]

Runs anywhere, without torch and without a GPU; plots need matplotlib. Without RESULTS_DIR every
folder of benchmarks/results that holds a records.jsonl is taken; docs/results always lists those.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the checkout takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gpu.summary import answers, model_tables, page, plots
from benchmarks.gpu.summary.index import index
from benchmarks.gpu.summary.models import timings
from benchmarks.gpu.summary.plots import Plot
from benchmarks.gpu.summary.plots_calls import call_plots
from benchmarks.gpu.summary.plots_models import model_plots
from benchmarks.gpu.summary.records import Records, SummaryError, load
from gacfx.core.files.atomic import replacing
from gacfx.hardware.measure import journal
from gacfx.report.drawing import can_draw

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"
INDEX = "README.md"


def committed(results: Path = RESULTS) -> list[Path]:
    """The folders with records that belong to the project, by name."""
    return sorted(path.parent for path in results.glob(f"*/{journal.FILE}"))


def drawable(records: Records) -> list[Plot]:
    """Every plot that the records have data for."""
    return [*model_plots(records), *call_plots(records)]


def write_page(records: Records, out: Path) -> None:
    """The page of one machine and its plots, in ``out/name``."""
    folder = out / records.name
    folder.mkdir(parents=True, exist_ok=True)
    found, drawn = drawable(records), can_draw()
    if drawn:
        plots.write(found, folder)
    _write(folder / INDEX, page.page(records, found, drawn=drawn))


def write_index(machines: Sequence[Records], out: Path) -> None:
    """The index of these machines, ``out/README.md``."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / INDEX, index(machines))


def headlines(records: Records) -> str:
    """What the terminal shows of a machine."""
    found = timings(records)
    lines = [f"{records.device}, {records.day}, torch {records.torch}", ""]
    lines += [f"careful: {warning}" for warning in page.warnings(records)]
    paragraph, bullets = page.answer(records)
    sentences = [*([paragraph] if paragraph else []), *bullets] or [answers.NOTHING]
    lines += [sentence.replace("**", "") for sentence in sentences]
    text = "\n".join(lines) + "\n"
    if (at := found.headline("prefill")) is not None:
        text += f"\n{model_tables.headline_table(found, at).text()}"
    return text


def summarise(folders: Sequence[Path], out: Path, *, dry: bool = False) -> int:
    """Write everything; 0, or 2 if a folder could not be used."""
    machines: dict[str, Records] = {}
    complaints = []
    for folder in folders:
        try:
            records = load(folder, dry=dry)
        except SummaryError as error:
            complaints.append(str(error))
            continue
        if records.name in machines:
            complaints.append(f"{folder}: another folder is named {records.name}; rename one")
            continue
        machines[records.name] = records
    for records in machines.values():
        write_page(records, out)
        print(headlines(records))
    if machines or not complaints:
        write_index(list(machines.values()), out)
        print(f"{out / INDEX}: {', '.join(sorted(machines)) or 'no machine yet'}")
    for complaint in complaints:
        print(f"summarise: {complaint}", file=sys.stderr)
    return 2 if complaints else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; wrong use ends with status 2 and a message."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="summarise.py", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="RESULTS_DIR")
    parser.add_argument("--out", type=Path, default=PAGES, metavar="DIR", help="pages go here")
    parser.add_argument("--dry", action="store_true", help="take rehearsals (collect.py --dry) too")
    options = parser.parse_args(arguments)
    if options.dry and options.out.resolve() == PAGES:
        parser.error("--dry: a rehearsal has no place among the project's pages; give --out")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 fine, 2 wrong use or records that cannot be used."""
    options = parse(arguments)
    own = committed()
    # The project's index must not forget a machine because another one was named.
    folders = options.folders or own
    if options.out.resolve() == PAGES:
        folders = [*own, *(f for f in options.folders if f.resolve() not in own)]
    return summarise(folders, options.out, dry=options.dry)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
