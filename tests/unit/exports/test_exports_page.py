"""The page on exports: every target, and the figures of the last run."""

import json
import re
from pathlib import Path

from gacfx.exports.targets import TARGETS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
ENGINES = ("torch eager", "pt2", "onnxruntime", "openvino")


def test_every_target_has_its_row_and_its_extra() -> None:
    rows = dict(re.findall(r"^\| `(\w[\w-]*)` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(TARGETS)
    for name, needs in rows.items():
        extra = TARGETS[name].extra
        assert needs == (f"`pip install 'gacfx[{extra}]'`" if extra else "nothing more")


def test_the_figures_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "exports.json").read_text())
    found = {(row["model"], row["workload"], row["engine"]): row for row in results["rows"]}
    for engine in ENGINES:
        cells = []
        for workload in ("prefill", "decode"):
            dense, small = (
                found.get((model, workload, engine)) for model in ("dense", "compressed")
            )
            if dense is None or small is None:
                cells += ["-", "-"]
            else:
                cells += [f"{dense['of_eager']:.2f}"]
                cells += [f"{small['of_eager']:.2f} ({small['of_dense']:.2f})"]
        assert f"| {engine} | {' | '.join(cells)} |" in PAGE
    for count in results["params"].values():
        assert f"{count:,}" in PAGE
