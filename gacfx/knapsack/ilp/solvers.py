"""CBC or HiGHS on a PuLP program, in a process that is killed when it does not come back.

PuLP itself waits for a solver for ever, and both have been seen to run on long after their time
limit. So PuLP writes the program, and the solver is started here.
"""

import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gacfx.errors import PlanError
from gacfx.knapsack.amounts import seconds_left
from gacfx.knapsack.ilp.program import import_pulp

SolverName = Literal["auto", "cbc", "highs"]
GRACE_SECONDS = 5.0
"""How long a solver may take to write its answer after its time limit"""
Status = Literal["optimal", "feasible", "infeasible", "nothing"]
_STATUS: dict[str, Status] = {
    "optimal": "optimal",
    "infeasible": "infeasible",
    "integer infeasible": "infeasible",
    "stopped on time": "feasible",
    "time limit reached": "feasible",
}


@dataclass(frozen=True)
class Answer:
    """What a solver says."""

    status: Status
    """feasible: stopped early with a plan; nothing: no plan, and no proof that there is none"""
    value: Mapping[str, float]
    """Variable -> its value; those at 0 may be missing"""
    dual: Mapping[str, float]
    """Row -> its dual, of a linear program"""


@dataclass(frozen=True)
class Solver:
    """A solver and the moment at which it must be done."""

    name: Literal["cbc", "highs"]
    command: tuple[str, ...]
    deadline: float
    """In ``time.perf_counter()``; infinity: never"""

    @property
    def seconds_left(self) -> float:
        return seconds_left(self.deadline)

    def run(self, program: Any, *, whole: bool = True) -> Answer:
        """The answer to a program made by ``program.build``."""
        seconds = self.seconds_left
        if seconds == 0:
            return Answer("nothing", {}, {})
        with tempfile.TemporaryDirectory(prefix="gacfx-") as folder:
            model, answer = Path(folder, "model.mps"), Path(folder, "answer.txt")
            program.writeMPS(str(model), mip=whole)
            arguments = _cbc_arguments if self.name == "cbc" else _highs_arguments
            if not self._start(arguments(model, answer, seconds, whole), seconds):
                return Answer("nothing", {}, {})
            if not answer.exists():
                raise PlanError(f"{self.name} left no answer; try the other solver")
            # CBC numbers its lines.
            return read_answer(answer.read_text(), skip=1 if self.name == "cbc" else 0)

    def _start(self, arguments: list[str], seconds: float) -> bool:
        """Whether the solver came back by itself."""
        patience = seconds + GRACE_SECONDS if math.isfinite(seconds) else None
        try:
            subprocess.run(
                [*self.command, *arguments],
                capture_output=True,
                check=True,
                text=True,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            return False
        except subprocess.CalledProcessError as error:
            last = "".join((error.stderr or error.stdout).splitlines()[-1:])
            raise PlanError(
                f"{self.name} ended with {error.returncode}: {last}; try the other solver"
            ) from None
        except OSError as error:
            raise PlanError(f"{self.name} did not start: {error}; try the other solver") from None
        return True


def find_solver(name: SolverName, deadline: float = math.inf) -> Solver:
    """The solver of that name; "auto" is CBC, and HiGHS where there is no CBC.

    Raises:
        PlanError: it is not installed, or not known.
    """
    if name not in ("auto", "cbc", "highs"):
        raise PlanError(f"solver {name!r}: there are 'cbc', 'highs' and 'auto'")
    cbc = None if name == "highs" else _cbc_path()
    if cbc:
        return Solver("cbc", (cbc,), deadline)
    if name == "cbc":
        raise PlanError(
            "no CBC binary found: install coinor-cbc with the system's package manager, a PuLP "
            "that brings one: pip install 'pulp[cbc]', or HiGHS: pip install highspy"
        )
    if find_spec("highspy") is None:
        missing = "neither CBC nor HiGHS is" if name == "auto" else "HiGHS is not"
        raise PlanError(f"{missing} installed: pip install highspy")
    script = str(Path(__file__).with_name("highs.py"))
    # -P: modules beside the script must not hide those of the standard library.
    return Solver("highs", (sys.executable, "-P", script), deadline)


def _cbc_path() -> str | None:
    """CBC as PuLP brings it, or the one on the path."""
    pulp = import_pulp()
    bundled = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    for path in (bundled, None):
        solver = pulp.COIN_CMD(path=path, msg=False)
        if solver.available():
            return str(solver.path)
    return None


def _cbc_arguments(model: Path, answer: Path, seconds: float, whole: bool) -> list[str]:
    limit = ["-sec", str(seconds), "-timeMode", "elapsed"] if math.isfinite(seconds) else []
    # No "-threads 1": that starts a worker, and in CBC 2.10.3 seven of 1,500 runs of a tiny program
    # then waited ten seconds for it. Without the option nothing is threaded.
    exact = ["-ratio", "0", "-allow", "0", "-increment", "1e-9"]
    exact += ["-primalTolerance", "1e-9", "-dualTolerance", "1e-9"]
    solve = ["-solve"] if whole else ["-initialSolve"]
    return [
        *(str(model), *limit, *exact, *solve),
        *("-printingOptions", "all", "-solution", str(answer)),
    ]


def _highs_arguments(model: Path, answer: Path, seconds: float, whole: bool) -> list[str]:
    return [str(model), str(answer), str(seconds)]


def read_answer(text: str, skip: int) -> Answer:
    """An answer file: the status, then [index] name value dual on every line."""
    first, *lines = text.splitlines()
    status = first.split(" - ")[0].split(" (")[0].strip().lower()
    numbers, duals = {}, {}
    for line in lines:
        # CBC marks the lines that break a bound with two stars.
        fields = line.replace("**", "").split()[skip:]
        if len(fields) == 3:
            numbers[fields[0]], duals[fields[0]] = float(fields[1]), float(fields[2])
    known = _STATUS.get(status, "nothing")
    if known == "feasible" and (not numbers or "no integer solution" in first):
        known = "nothing"
    return Answer(known, numbers, duals)
