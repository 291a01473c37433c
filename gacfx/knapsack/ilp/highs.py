"""Run HiGHS on an MPS file and write what it found: a program of its own, so it can be killed.

    python highs.py MODEL ANSWER [SECONDS]

HiGHS has been seen to stay for minutes after its time limit, and a library call cannot be ended
from outside. Imports nothing of gacfx, so that it starts in a fifth of a second. The answer has the
status in its first line, then a name, a value and a dual on every line.
"""

import math
import sys
from importlib import import_module
from pathlib import Path

OPTIONS = {
    "output_flag": False,
    "threads": 1,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    # Not the tolerance of whole numbers: at 1e-9 the search of Llama-3-8B takes minutes, not ten
    # seconds, and every plan is checked anyway.
    "primal_feasibility_tolerance": 1e-9,
    "dual_feasibility_tolerance": 1e-9,
}


def main(model: str, answer: str, seconds: str = "inf") -> None:
    """Solve ``model`` and write ``answer``."""
    highs = import_module("highspy").Highs()
    for name, setting in OPTIONS.items():
        highs.setOptionValue(name, setting)
    if math.isfinite(float(seconds)):
        highs.setOptionValue("time_limit", float(seconds))
    highs.readModel(model)
    highs.run()
    found, program = highs.getSolution(), highs.getLp()
    lines = [highs.modelStatusToString(highs.getModelStatus())]
    if found.value_valid:
        names = [*program.row_names_, *program.col_names_]
        values = [*found.row_value, *found.col_value]
        duals = [*found.row_dual, *found.col_dual] or [0.0] * len(names)
        for name, value, dual in zip(names, values, duals, strict=True):
            lines.append(f"{name} {value!r} {dual!r}")
    Path(answer).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
