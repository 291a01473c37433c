"""Register the loader of gacfx checkpoints with transformers, without importing transformers.

``transformers.quantizers`` is where loaders are looked up, and every model is imported after it. If
it is there already, the loader is registered at once; if not, a finder waits for it in
``sys.meta_path``, lets the real import happen, registers, and takes itself away.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_AWAITED = "transformers.quantizers"


def install() -> None:
    """The loader is registered now, or as soon as transformers needs it; calling twice is once."""
    if _AWAITED in sys.modules:
        _register()
    elif not any(_is_ours(finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, by asking the finders behind it, and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _AWAITED:
            return None
        for finder in list(sys.meta_path):
            if _is_ours(finder):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Executes the module with its own loader, then registers."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module looks as if nobody had waited for it.
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_ours(finder)]
        _register()


def _is_ours(finder: object) -> bool:
    # By name: after importlib.reload(gacfx) the class is another one.
    return type(finder).__module__ == __name__ and type(finder).__name__ == _Finder.__name__


def _register() -> None:
    try:
        # Registers itself; and may be the very module that is importing transformers just now.
        import_module("gacfx.checkpoint.hf")
    except ImportError as error:
        # Whoever imports transformers for something else must not fail because of gacfx.
        warnings.warn(f"gacfx checkpoints cannot be loaded in this process: {error}", stacklevel=2)
