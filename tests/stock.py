"""Programs in processes that begin with torch and transformers imported, and never saw gacfx.

What plain transformers makes of a folder is asked in many tests. A fresh interpreter takes seconds
to import it, so one does, and each program runs in a copy of it.
"""

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from tests.processes import ROOT, Done


def run(code: str, *words: str) -> Done:
    """What ``python -c CODE WORDS`` does where nothing has imported gacfx."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(code, encoding="utf-8")
        server.stdin.write(json.dumps([str(program), *words]) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the process with transformers ended; run this file to see why"
        said = [(Path(folder) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return Done(int(answer), *said)


@cache
def _server() -> "subprocess.Popen[str]":
    """One for each process of the tests; it ends with it."""
    command = [sys.executable, "-m", "tests.stock"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, cwd=ROOT, **pipes)
    atexit.register(server.communicate)  # closes its input, and waits
    return server


def serve() -> None:
    """Run each program that a line of the input names, and answer with its exit code."""
    import transformers

    transformers.AutoModelForCausalLM  # noqa: B018  # imported when it is asked for
    for line in sys.stdin:
        assert "gacfx" not in sys.modules
        words = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(words)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(words: list[str]) -> None:
    """Be an interpreter that runs a file; what it prints lies beside the file."""
    folder, code = Path(words[0]).parent, 1
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    try:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
