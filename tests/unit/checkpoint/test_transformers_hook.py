"""The import hook: it registers once, at the right moment, and leaves no trace.

The awaited module is a stand-in here; numeric/test_checkpoint_roundtrip.py has real interpreters.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from gacfx import _transformers_hook as hook

AWAITED = "awaited_package.quantizers"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """One entry for each registration: whether the awaited module was complete by then."""
    package = tmp_path / "awaited_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "quantizers.py").write_text("complete = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(hook, "_AWAITED", AWAITED)
    seen: list[bool] = []
    monkeypatch.setattr(
        hook, "_register", lambda: seen.append(hasattr(sys.modules[AWAITED], "complete"))
    )
    yield seen
    for name in (AWAITED, "awaited_package"):
        sys.modules.pop(name, None)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not hook._is_ours(finder)]


def waiting() -> int:
    return sum(hook._is_ours(finder) for finder in sys.meta_path)


def test_before(calls: list[bool]) -> None:
    hook.install()
    hook.install()
    assert (calls, waiting()) == ([], 1)
    importlib.import_module("awaited_package")
    assert calls == []
    importlib.import_module(AWAITED)
    assert (calls, waiting()) == ([True], 0)


def test_after(calls: list[bool]) -> None:
    importlib.import_module(AWAITED)
    hook.install()
    assert (calls, waiting()) == ([True], 0)


def test_in_a_thread(calls: list[bool]) -> None:
    hook.install()
    thread = threading.Thread(target=importlib.import_module, args=(AWAITED,))
    thread.start()
    thread.join()
    assert (calls, waiting()) == ([True], 0)


def test_the_module_keeps_its_own_loader(calls: list[bool]) -> None:
    hook.install()
    module = importlib.import_module(AWAITED)
    assert type(module.__loader__) is SourceFileLoader
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    importlib.reload(module)
    assert calls == [True]


def test_looking_for_the_module_does_not_import_it(calls: list[bool]) -> None:
    hook.install()
    assert importlib.util.find_spec(AWAITED) is not None
    assert (calls, waiting()) == ([], 1)
    importlib.import_module(AWAITED)
    assert calls == [True]


def test_a_failed_import_is_awaited_again(calls: list[bool], tmp_path: Path) -> None:
    hook.install()
    source = tmp_path / "awaited_package" / "quantizers.py"
    source.write_text("raise RuntimeError('not today')\n")
    with pytest.raises(RuntimeError, match="not today"):
        importlib.import_module(AWAITED)
    assert (calls, waiting()) == ([], 1)
    source.write_text("complete = 'at last, and longer'\n")
    importlib.import_module(AWAITED)
    assert (calls, waiting()) == ([True], 0)


def test_a_module_that_does_not_exist(calls: list[bool], tmp_path: Path) -> None:
    (tmp_path / "awaited_package" / "quantizers.py").unlink()
    hook.install()
    with pytest.raises(ModuleNotFoundError, match=AWAITED):
        importlib.import_module(AWAITED)
    assert (calls, waiting()) == ([], 1)


def test_a_plug_in_that_cannot_be_imported_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gacfx.checkpoint.hf", None)
    with pytest.warns(UserWarning, match="gacfx checkpoints cannot be loaded in this process"):
        hook._register()
