"""``gacfx methods``, and names that no method or value model has."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gacfx.cli import main
from gacfx.compressors.methods import METHODS
from gacfx.core.settings import settings_of
from gacfx.report.layout import Column
from gacfx.report.methods_view import table

Printed = pytest.CaptureFixture[str]


def test_the_list_as_json(capsys: Printed) -> None:
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    methods = {row["name"]: row for row in found["methods"]}
    assert list(methods) == [
        *("svd", "asvd", "svd-llm", "svd-llm-v2", "dobi-svd", "basis-sharing", "gfwsvd", "palu"),
        *("llm-pruner", "magnitude", "random"),
    ]
    assert methods["svd"]["settings"] == [] and "kept dense" not in methods["svd"]["allocates"]
    assert methods["asvd"]["settings"][0] == {
        "name": "alpha",
        "default": "0.5",
        "what": "power of the channel scale, from 0 (plain SVD) to 1",
        "values": "a number",
    }
    assert all(row["allocates"] and row["leaves"] for row in methods.values())
    assert methods["svd"]["statistics"] == [] and methods["svd"]["kinds"] == ["low-rank", "pivot"]
    assert methods["llm-pruner"]["kinds"] == ["width", "heads"]
    assert methods["llm-pruner"]["statistics"] == ["weight gradients"]
    assert methods["asvd"]["proxy"] == "activation"
    assert methods["gfwsvd"]["minimises"] == "|G^1/2 D A^1/2|"
    units = {row["name"]: (row["in_nats"], row["unit"]) for row in found["values"]}
    assert units == {
        "two-sided": (True, "nats"),
        "fisher": (True, "nats"),
        "per-token": (True, "nats"),
        "relative": (False, "share"),
        "paper": (False, "importance x params"),
    }
    assert all(row["source"] for row in (*found["methods"], *found["values"]))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(
    width: int, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "K-FAC" in text and "importance" in text


def test_every_claim_names_a_benchmark_that_there_is_or_says_that_there_is_none() -> None:
    root = Path(__file__).parents[3]
    for method in METHODS.everything():
        for claim in method.claims:
            assert claim.what and bool(claim.found) == bool(claim.command)
            if claim.command:
                found = re.match(r"python -m benchmarks\.(\w+)", claim.command)
                assert found and (root / "benchmarks" / f"{found[1]}.py").is_file()


def test_what_claims_say_is_what_the_benchmark_found() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "results" / "methods.json"
    found = json.loads(path.read_text(encoding="utf-8"))["claims"]
    ratios = ("0.2", "0.3", "0.4")
    pruner, steep = "llm-pruner:first=0", "svd-llm-v2:shift=1"
    always = [("asvd", "svd"), ("svd-llm", "svd"), ("svd-llm-v2", "svd-llm")]
    for one, other in (*always, (pruner, "magnitude"), (pruner, "random")):
        assert found[f"{one} below {other}"] == dict.fromkeys(ratios, True)
    assert found[f"{steep} below svd-llm"] == dict.fromkeys(ratios, False)
    assert found["svd-llm below asvd"] == {"0.2": False, "0.3": True, "0.4": True}


def test_what_the_claims_of_palu_say_is_what_its_benchmark_found() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "results" / "palu.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    for said in METHODS.find("palu").claims:
        assert said.command == "python -m benchmarks.palu" and said.found
    always = dict.fromkeys(("0.3", "0.5"), True)
    for other in ("allocation=uniform", "heads-per-group=1"):
        assert found["claims"][f"palu below palu:{other}"] == always
    assert all(r["odd_sizes"] == 0 for r in found["rows"] if r["sizes"].endswith("of 8"))
    assert all(r["kept_params"] <= r["limit_params"] for r in found["rows"])


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("name", [*METHODS, "asvd:alpha=0.3,scale=abs-max"])
def test_one_method_in_full(
    name: str, width: int, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["methods", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name}\n") and max(map(len, text.splitlines())) <= width
    said = " ".join(text.split())
    method = METHODS.find(name)
    assert " ".join(method.source.split()) in said and " ".join(method.allocates.split()) in said
    for one in settings_of(method):
        assert str(one) in said and one.what in said
    for claim in method.claims:
        assert claim.what in said and (claim.command or "(none yet)") in said
    for reason in method.leaves:
        assert reason in said
    assert main(["methods", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == name


def test_one_that_there_is_not_is_one_line(capsys: Printed) -> None:
    for name, said in (("gold", "no method 'gold'; known: svd"), ("asvd:alpha=9", "it has: alpha")):
        assert main(["methods", name]) == 1
        printed = capsys.readouterr()
        assert printed.out == "" and said in printed.err and printed.err.count("\n") == 1


def test_what_does_not_fit_stands_below_its_row() -> None:
    columns = [Column("a", ["1", "2"]), Column("b", ["one two", "three"]), Column("c", ["x", "y"])]
    assert table(columns, 13).plain == "a  b        c\n1  one two  x\n2  three    y"
    assert table(columns, 12).plain == "a  b\n1  one two\n   x\n2  three\n   y"
    assert table(columns, 8).plain == "a\n1\n   one\n   two\n   x\n2\n   three\n   y"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--method", "gold"),
            f"no method 'gold'; known: {', '.join(METHODS)}\n",
        ),
        (
            ("--value", "gold"),
            "no value model 'gold'; known: auto, two-sided, fisher, per-token, relative, paper\n",
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
