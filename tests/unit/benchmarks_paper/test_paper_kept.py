"""Steps that are kept: done once, again for another key, and never half written."""

from pathlib import Path

import pytest

from benchmarks.paper.kept import recall, remembered, write
from gacfx.errors import CheckpointError


def test_a_step_is_done_once_for_each_key(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, int]:
        calls.append(1)
        return {"made": len(calls)}

    path = tmp_path / "in" / "a.json"
    first = remembered(path, {"tokens": (1, 2)}, make)
    assert first["made"] == 1 and first["seconds"] >= 0
    assert remembered(path, {"tokens": [1, 2]}, make) == first  # JSON knows no tuples
    assert remembered(path, {"tokens": [1, 3]}, make)["made"] == 2
    assert recall(path, {"tokens": [1, 2]}) is None
    assert recall(path, {"tokens": [1, 3], "text": "other"}) is None
    assert recall(path, {}) == {"made": 2, "seconds": remembered(path, {}, make)["seconds"]}
    assert len(calls) == 2


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def broken() -> dict[str, int]:
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        remembered(path, {}, broken)
    with pytest.raises(ValueError, match="nan"):
        write(path, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{}", '{"key": {}, "found": 3}', '{"key": {}, "rows": {}}'])
def test_another_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"a\.json: is no step of this benchmark; remove it"):
        recall(path, {})
