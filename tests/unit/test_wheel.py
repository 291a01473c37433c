"""The wheel holds everything that the tree holds, and all of it can be imported from there.

A list of packages that forgets one drops it from the wheel without a word, and every other test
still passes, because they run on the tree.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, so that building leaves no folders in the tree."""
    folder = tmp_path_factory.mktemp("stage")
    for name in ("gacfx", "passes"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, by the hook that every build tool calls; without network or isolation."""
    pytest.importorskip("setuptools", minversion="77")
    out = tmp_path_factory.mktemp("wheel")
    script = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    python([script], cwd=staged)
    (path,) = out.glob("gacfx-*.whl")
    return zipfile.ZipFile(path)


def python(arguments: list[str], cwd: Path) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def tree() -> set[str]:
    """Every file of the package, where the wheel should have it."""
    found = set()
    for path in [*ROOT.glob("gacfx/**/*"), *ROOT.glob("passes/**/*")]:
        parts = path.relative_to(ROOT).parts
        hidden = any(p == "__pycache__" or p.startswith(".") for p in parts)
        if path.is_file() and not hidden and parts[:2] != ("gacfx", "passes"):
            found.add("/".join(("gacfx", *parts) if parts[0] == "passes" else parts))
    return found


def test_every_file_of_the_tree_is_in_the_wheel_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert sorted(tree() - inside) == []
    assert sorted(inside - tree()) == []


def test_the_tree_has_what_a_wheel_needs() -> None:
    files = tree()
    assert "gacfx/py.typed" in files
    assert "gacfx/passes/rewrite/factorize.py" in files
    assert any(f.startswith("gacfx/hardware/profiles/") for f in files)
    assert any(f.startswith("gacfx/tracing/configs/") for f in files)


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "gacfx = gacfx.cli:main" in wheel.read(name).decode()


IMPORT_ALL = """
import importlib, sys
import gacfx
from gacfx.hardware import profile
from gacfx.tracing.skeleton import known_configs
for name in sys.argv[1:]:
    home = importlib.import_module(name).__file__
    assert home.startswith(sys.path[1]), home
assert known_configs(), "no bundled configurations"
print(profile.load("h200").name)
"""


def test_every_module_can_be_imported_from_the_wheel(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path / "installed")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = [name for name in wheel.namelist() if name.endswith(".py")]
    names = [f.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in files]
    names = sorted(name for name in names if not name.endswith("__main__"))
    assert len(names) > 60
    here = f"import sys; sys.path.insert(1, {str(tmp_path / 'installed')!r})\n"
    assert python([here + IMPORT_ALL, *names], cwd=elsewhere).strip() == "h200"
