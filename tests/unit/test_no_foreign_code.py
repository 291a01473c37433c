"""No command runs code that a checkpoint brings along, or asks whether to."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from gacfx.cli import main
from tests import tiny

ROOT = Path(__file__).parents[2]
LOADERS = ("from_pretrained", "from_config")


def calls() -> list[tuple[str, ast.Call]]:
    """Every call of a loader of transformers in the package and its benchmarks."""
    found = []
    for folder in ("gacfx", "passes", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                if node.func.attr in LOADERS:
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def refuses_code(call: ast.Call) -> bool:
    """``trust_remote_code=False`` stands in the call, or comes with its keyword table."""
    given = {k.arg: k.value for k in call.keywords}
    said = given.get("trust_remote_code")
    if said is None and None in given:
        return True  # load._load: its table is checked by the test below
    return isinstance(said, ast.Constant) and said.value is False


def test_every_loader_is_told_to_trust_no_code() -> None:
    found = calls()
    assert len(found) >= 5
    assert [place for place, call in found if not refuses_code(call)] == []
    named = [(place, {k.arg for k in call.keywords}) for place, call in found]
    tables = [place for place, keys in named if None in keys and "trust_remote_code" not in keys]
    assert [place.split(":")[0] for place in tables] == ["gacfx/checkpoint/load.py"]


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import PretrainedConfig
class Foreign(PretrainedConfig):
    model_type = "foreign"
class ForeignModel: ...
"""


@pytest.fixture(params=["foreign", "llama"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint whose configuration names code of its own, for an unknown or a known model."""
    folder = tiny.checkpoint(tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = request.param
    config["auto_map"] = {
        "AutoConfig": "code.Foreign",
        "AutoModelForCausalLM": "code.ForeignModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(CODE)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{}"),
        ("plan", "{}", "--synthetic", "0.5"),
        ("plan", "{}", "--calibration", "text.txt"),
        ("compress", "{}", "--calibration", "text.txt", "--out", "small"),
        ("eval", "{}", "--text", "text.txt"),
    ],
    ids=lambda words: " ".join(words),
)
def test_no_command_runs_or_asks(
    foreign: Path,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def asked(*_: Any) -> str:
        raise AssertionError("the user was asked whether to run foreign code")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    tiny.text_file(tmp_path / "text.txt")
    code = main([word.format(foreign) for word in words])
    unknown = json.loads((foreign / "config.json").read_text())["model_type"] == "foreign"
    if unknown:
        assert code == 1
        assert "never runs code from a checkpoint" in capsys.readouterr().err
    else:
        assert code == 0  # transformers' own Llama is taken instead
    assert not list(tmp_path.rglob("ran"))
