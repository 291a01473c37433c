"""What ``gacfx passes``, ``profiles`` and ``methods`` print of all that there is."""

import json

import pytest

from gacfx.cli import main
from gacfx.graph.pipeline import Pipeline, known_passes
from tests.golden.goldens import check


def test_the_list_of_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes"]) == 0
    check("passes", capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["h200"], ["t4"]], ids=["list", "h200", "t4"])
def test_the_profiles_on_80_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["profiles", *words]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    check("_".join(["profiles", *words]), text)


@pytest.mark.parametrize("width", [80, 120])
def test_the_methods_on_80_and_120_columns(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    check(f"methods_{width}", text)


@pytest.mark.parametrize("name", ["asvd:alpha=0.3", "svd-llm", "llm-pruner"])
def test_one_method_on_100_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["methods", name]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    check(f"method_{name.partition(':')[0]}", text)


def test_the_list_of_passes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["passes"]] == list(known_passes())
    assert str(Pipeline.parse(found["default"])) == found["default"]
