"""What every Python under ``gacfx run`` does first: import gacfx, then whatever stood here before.

``gacfx run`` puts this folder at the front of PYTHONPATH, and Python imports ``sitecustomize`` when
it starts. Importing gacfx is light: it only waits for transformers. Nothing here may keep a program
from running, so an interpreter that has no gacfx is told so on the standard error and goes on.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_OURS = os.path.join("gacfx", "_startup")


def start() -> None:
    """Import gacfx, and run the ``sitecustomize`` that this one shadows."""
    try:
        import gacfx  # noqa: F401
    except Exception as error:  # whatever is wrong with it, the program may not need it
        print(f"gacfx run: {sys.executable} cannot import gacfx: {error}", file=sys.stderr)
    others = [path for path in sys.path if not os.path.realpath(path).endswith(_OURS)]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    shadowed = sys.modules["sitecustomize"] = module_from_spec(spec)
    spec.loader.exec_module(shadowed)


if __name__ == "sitecustomize":
    start()
