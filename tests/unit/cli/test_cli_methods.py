"""``gacfx methods``, and names that no method or value model has."""

import json
import subprocess
import sys

import pytest

from gacfx.cli import main
from gacfx.report.layout import Column
from gacfx.report.methods_view import table

Printed = pytest.CaptureFixture[str]


def test_the_list_as_json(capsys: Printed) -> None:
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    methods = {row["name"]: row for row in found["methods"]}
    assert list(methods) == ["svd", "asvd", "svd-llm", "gfwsvd", "llm-pruner"]
    assert methods["svd"]["statistics"] == [] and methods["svd"]["kinds"] == ["low-rank", "pivot"]
    assert methods["llm-pruner"]["kinds"] == ["width", "heads"]
    assert methods["llm-pruner"]["statistics"] == ["weight gradients"]
    assert methods["asvd"]["proxy"] == "activation"
    assert methods["gfwsvd"]["minimises"] == "|G^1/2 D A^1/2|"
    units = {row["name"]: (row["in_nats"], row["unit"]) for row in found["values"]}
    assert units == {
        "two-sided": (True, "nats"),
        "fisher": (True, "nats"),
        "relative": (False, "share"),
        "paper": (False, "importance x params"),
    }
    assert all(row["source"] for row in (*found["methods"], *found["values"]))


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(
    width: int, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "K-FAC" in text and "importance" in text


def test_what_does_not_fit_stands_below_its_row() -> None:
    columns = [Column("a", ["1", "2"]), Column("b", ["one two", "three"]), Column("c", ["x", "y"])]
    assert table(columns, 13).plain == "a  b        c\n1  one two  x\n2  three    y"
    assert table(columns, 12).plain == "a  b\n1  one two\n   x\n2  three\n   y"
    assert table(columns, 8).plain == "a\n1\n   one\n   two\n   x\n2\n   three\n   y"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "gold"), "no method 'gold'; known: svd, asvd, svd-llm, gfwsvd, llm-pruner\n"),
        (
            ("--value", "gold"),
            "no value model 'gold'; known: auto, two-sided, fisher, relative, paper\n",
        ),
    ],
)
def test_an_unknown_name_is_one_line_before_any_work(
    words: tuple[str, str], said: str, capsys: Printed
) -> None:
    # There is no such model and no such text: nobody has looked.
    assert main(["plan", "nowhere", "--calibration", "nothing.txt", *words]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == f"gacfx plan: {said}"


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys, contextlib, io\nfrom gacfx.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['methods'])\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
