"""Pages from the records of GPU machines: plans by time, rules and forecasts against what was seen.

    python -m benchmarks.gpu.summarise [RESULTS_DIR ...] [--out docs/results]

Runs anywhere, without torch and without a GPU. Without RESULTS_DIR every folder of
benchmarks/results that holds a records.jsonl is taken; docs/results always lists those.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the checkout takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gpu.summary.pages import index, page
from benchmarks.gpu.summary.records import Records, SummaryError, load
from gacfx.core.files.atomic import replacing
from gacfx.hardware.measure import journal

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"
INDEX = "README.md"


def committed(results: Path = RESULTS) -> list[Path]:
    """The folders with records that belong to the project, by name."""
    return sorted(path.parent for path in results.glob(f"*/{journal.FILE}"))


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
        text = page(records)
        _write(out / records.name / INDEX, text)
        print(text)
    if machines or not complaints:
        _write(out / INDEX, index(list(machines.values())))
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
