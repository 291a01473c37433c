"""Thirty kills of compressions, files harmed in between: every run ends in the same bytes."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.trials.kills import kill_runs

KILLS = 30


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_thirty_kills(tmp_path: Path, record_property: Any) -> None:
    model = tiny.checkpoint(tmp_path / "dense", hidden=32, width=48)
    text = tiny.text_file(tmp_path / "stories.txt")
    seed = int(os.environ.get("LONG_SEED", "0"))
    counts = kill_runs(model, text, tmp_path, KILLS, seed)
    record_property("trials", {"kind": "kills", **counts})
    assert counts["killed"] >= KILLS
    assert counts["harmed"] >= KILLS // 6
