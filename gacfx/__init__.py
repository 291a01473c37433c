"""gacfx: a torch.fx compiler that makes compressed LLMs as fast as their parameter count says.

    gacfx.compress(model, method="gfwsvd", ratio=0.2, gpu="h200", calibration=texts)

is ``capture -> plan -> apply``; each step is a value that can be printed, saved and loaded again.
Importing gacfx is light: names are loaded at first use, and the loader of gacfx checkpoints is
registered with transformers as soon as transformers itself is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gacfx import _transformers_hook

if TYPE_CHECKING:
    from gacfx.api import Compressed, apply, apply_, compress, load, plan, save
    from gacfx.core.goal import Goal
    from gacfx.core.search import Search
    from gacfx.dynamo.activation_budget import ActivationBudgetSolver
    from gacfx.dynamo.backend import make_backend
    from gacfx.dynamo.post_grad import InductorReport
    from gacfx.errors import GacError
    from gacfx.exports.exporting import export
    from gacfx.graph.pipeline import Pipeline
    from gacfx.healing.door import heal
    from gacfx.healing.settings import Healing
    from gacfx.inspection import inspect
    from gacfx.modules.experts import unpacked
    from gacfx.modules.grouped import group_experts_
    from gacfx.padding import pad_, save_padded
    from gacfx.request import Request
    from gacfx.slicing.door import save_sliced, slice_hidden
    from gacfx.tracing.capture import capture
    from gacfx.work import Work

__version__ = "0.1.0"

__all__ = [
    "ActivationBudgetSolver",
    "Compressed",
    "GacError",
    "Goal",
    "Healing",
    "InductorReport",
    "Pipeline",
    "Request",
    "Search",
    "Work",
    "apply",
    "apply_",
    "capture",
    "compress",
    "export",
    "group_experts_",
    "heal",
    "inspect",
    "load",
    "make_backend",
    "pad_",
    "plan",
    "save",
    "save_padded",
    "save_sliced",
    "slice_hidden",
    "unpacked",
]

_HOME = {
    "ActivationBudgetSolver": "gacfx.dynamo.activation_budget",
    "GacError": "gacfx.errors",
    "Goal": "gacfx.core.goal",
    "Healing": "gacfx.healing.settings",
    "InductorReport": "gacfx.dynamo.post_grad",
    "Pipeline": "gacfx.graph.pipeline",
    "Request": "gacfx.request",
    "Search": "gacfx.core.search",
    "Work": "gacfx.work",
    "capture": "gacfx.tracing.capture",
    "export": "gacfx.exports.exporting",
    "group_experts_": "gacfx.modules.grouped",
    "heal": "gacfx.healing.door",
    "inspect": "gacfx.inspection",
    "make_backend": "gacfx.dynamo.backend",
    "pad_": "gacfx.padding",
    "save_padded": "gacfx.padding",
    "save_sliced": "gacfx.slicing.door",
    "slice_hidden": "gacfx.slicing.door",
    "unpacked": "gacfx.modules.experts",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gacfx' has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "gacfx.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


_transformers_hook.install()
