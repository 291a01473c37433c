"""Run the scripts of a folder of fault reports and say of each whether it is answered rightly.

    python -m tests.cases ../shared/cases

Each script builds a small model, does one thing that once went wrong and prints what happened. A
script that ends in a GacError counts as refused; any other exception is wrong whatever it prints.
"""

import contextlib
import io
import re
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from gacfx.errors import GacError


def says(*patterns: str) -> Callable[[str], bool]:
    """Every pattern is found in what a script printed."""
    return lambda printed: all(re.search(pattern, printed) for pattern in patterns)


RIGHT: dict[str, Callable[[str], bool]] = {
    "01": says(r"without values afterwards: 0\n", r"same output: True"),
    "02": says(r"REFUSED .*merge_and_unload"),
    "03": says(r"differ after reload: \{\}", r"logits apart: 0\.0 "),
    "04": says(r"REFUSED UnsupportedModel: model\.layers\.3"),  # before any work, not on loading
    "08": says(r"save: PosixPath"),
    "11": says(r"inside: (\d+|REFUSED)", r"compressed outside: (\d+|REFUSED)"),
    "12": says(r"compress: \d+"),
    "13": says(r"inspect: \d+", r"compress: \d+"),
    "14": says(
        r"GraniteMoe, inspect: \d+",
        r"Llava, inspect: \d+",
        r"torch.compile, inspect: (\d+|REFUSED .*_orig_mod)",
    ),
    "15": says(r"dims: \d+", r"DiffLlama, compress: \d+", r"nn.RMSNorm, compress: \d+"),
    "16": says(r"save: PosixPath", r"load: RecurrentGemmaForCausalLM"),
    "17": says(r"half torch.float16", r"float torch.float32", r"double torch.float64"),
    "18": says(r"flops listed: (\d+) true: \1\n"),
    "19": says(r"-inf: \d+", r"smallest float: \d+"),
    "20": says(r"dynamic \d+", r"longrope \d+", r"yarn \d+", r"linear \d+"),
    "23": says(r"REFUSED .*sees the future"),
    "25": says(r"list (\d+)\nnested \1\ntensor \1\n"),
    "28": says(r"told: True|kept: \['"),
    "29": says(r"targeted: \[\]"),
    "32": says(r"gptq -> .*'stored as gptq, 4 bits;", r"fp8 -> .*'stored as fp8, 8 bits;"),
}
"""Number of a case -> what the right answer looks like."""


MOVED = r"RAW AttributeError: module 'gacfx\.[\w.]+' has no attribute .*"
"""A script asked gacfx for a function that has another name by now, which says nothing of it."""


def run(script: Path) -> str:
    """What a script prints, with the error that ended it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            runpy.run_path(str(script))
        except GacError as error:
            print(f"REFUSED {type(error).__name__}: {error}")
        except Exception:
            print(f"RAW {traceback.format_exc(limit=-1)}")
    return printed.getvalue()


def main(folder: str) -> int:
    """Run every case that has a right answer here; the exit code is the number of wrong ones."""
    warnings.simplefilter("ignore")
    wrong = 0
    for number, right in RIGHT.items():
        script = next(Path(folder).glob(f"{number}_*.py"))
        printed = run(script)
        good = right(printed) and "RAW" not in re.sub(MOVED, "", printed)
        wrong += not good
        print(f"{'right' if good else 'WRONG'}  {script.stem}", flush=True)
        if not good:
            print("\n".join(f"       {line[:150]}" for line in printed.splitlines()))
    print(f"{len(RIGHT) - wrong} passed, {wrong} failed")
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
