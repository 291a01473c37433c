"""What ``gacfx passes`` prints: every pass with its facts and options, and the default pipeline."""

import json

import pytest

from gacfx.cli import main
from gacfx.core.pipeline import Pipeline, known_passes
from tests.golden.goldens import check


def test_the_list_of_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes"]) == 0
    check("passes", capsys.readouterr().out)


def test_the_list_of_passes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["passes"]] == list(known_passes())
    assert str(Pipeline.parse(found["default"])) == found["default"]
