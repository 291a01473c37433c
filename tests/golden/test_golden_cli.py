"""What ``gacfx passes`` prints: every pass with its facts and options, and the default pipeline."""

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


def test_the_list_of_passes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["passes"]] == list(known_passes())
    assert str(Pipeline.parse(found["default"])) == found["default"]
