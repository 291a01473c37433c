"""docs/solver.md: its blocks run one after the other, and print what the page says of them."""

import re
import runpy
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "solver.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "blocks.py").write_text("\n".join(BLOCKS))
    runpy.run_path(str(tmp_path / "blocks.py"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "(1, 1) 24 3.4 optimal"
    assert printed[-2].startswith("3.4 0.25")
    assert printed[-1] == "(1, 1)"
    assert len(printed) == 6
