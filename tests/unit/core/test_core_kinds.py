"""The table of kinds: JSON both ways, registration, and kinds of other packages."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.kinds import BUILT_IN, KINDS, Kind, read_decision, write_decision
from gacfx.core.routed import Routed
from gacfx.core.search import Search
from gacfx.errors import PlanError
from tests.unit.core import toy_kinds
from tests.unit.core.toy_kinds import EXPERTS, Experts, Other

DECISIONS = st.one_of(
    st.just(DENSE),
    st.builds(LowRank, st.integers(1, 10**9)),
    st.builds(Pivot, st.integers(1, 99)),
    st.builds(GroupedLowRank, st.integers(-9, 10**9), st.integers(-9, 10**9)),
    st.builds(Routed, *4 * [st.integers(0, 10**9)]),
)


@pytest.fixture
def experts() -> Iterator[None]:
    with toy_kinds.known():
        yield


@given(DECISIONS)
def test_json_gives_the_same_decision_back(decision: Decision) -> None:
    text = json.dumps(write_decision(decision))
    assert read_decision(json.loads(text)) == decision
    assert json.loads(text)["kind"] == decision.kind


def test_a_list_of_numbers_comes_back_as_it_was(experts: None) -> None:
    made = Experts((4, 0, 2))
    assert read_decision(json.loads(json.dumps(write_decision(made)))) == made


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"kind": "monarch", "blocks": 4},
            "no kind of decision 'monarch'; known: dense, low-rank, pi",
        ),
        ({"kind": None}, "no kind of decision None"),
        ({"kind": ["pivot"]}, r"no kind of decision \['pivot'\]"),
        ({"rank": 3}, "no kind of decision None"),
        ({"kind": "low-rank"}, "low-rank: rank is missing"),
        ({"kind": "pivot", "rank": 3, "rows": 4}, "pivot: rows is no field of it"),
        ({"kind": "dense", "rank": 3}, "dense: rank is no field of it"),
        ({"kind": "low-rank", "rank": True}, "low-rank: True is no whole number"),
        ({"kind": "low-rank", "rank": 3.0}, "low-rank: 3.0 is no whole number"),
        ({"kind": "low-rank", "rank": "3"}, "low-rank: '3' is no whole number"),
        ({"kind": "low-rank", "rank": None}, "low-rank: None is no whole number"),
        ({"kind": "low-rank", "rank": [3]}, r"low-rank: \[3\] is no whole number"),
        ({"kind": "low-rank", 3: 3, "rank": 3}, "low-rank: 3 is no field of it"),
        (None, "a decision is a table with its kind, not None"),
        (7, "a decision is a table with its kind, not 7"),
        ([["kind", "dense"]], "a decision is a table with its kind"),
    ],
    ids=str,
)
def test_what_is_no_decision_is_refused_in_one_line(raw: Any, message: str) -> None:
    with pytest.raises(PlanError, match=f"^{message}") as caught:
        read_decision(raw)
    assert "\n" not in str(caught.value)


def test_a_negative_rank_is_read_and_no_weight_can_have_it() -> None:
    for kind in ("low-rank", "pivot"):
        assert "outside 1" in read_decision({"kind": kind, "rank": -3}).problem(8, 8)


def test_a_list_in_a_list_is_a_tuple_and_nothing_else_is_read(experts: None) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for odd in ([1, "2"], [1.5], deep):
        with pytest.raises(PlanError, match="^toy-experts: "):
            read_decision({"kind": "toy-experts", "ranks": odd})


def test_two_kinds_of_one_name_are_refused(experts: None) -> None:
    assert KINDS.register(EXPERTS) is EXPERTS  # the same one again is fine
    with pytest.raises(PlanError, match="'toy-experts' is known twice; rename one"):
        KINDS.register(Kind(Other))
    with pytest.raises(PlanError, match="kind of decision 'pivot' is known twice"):
        KINDS.register(Kind(Pivot, "elsewhere:Layer"))
    assert KINDS["toy-experts"] is EXPERTS
    assert KINDS.find("pivot") in BUILT_IN


# -- entry points --------------------------------------------------------------------------------

PACKAGE = """
from dataclasses import dataclass
from typing import ClassVar

from gacfx.core.decision import LowRank
from gacfx.core.kinds import Kind


@dataclass(frozen=True, slots=True)
class Outside(LowRank):
    kind: ClassVar[str] = "outside"

    @property
    def label(self):
        return f"outside {self.rank}"


KIND = Kind(Outside, "gacfx.modules.low_rank:LowRankLinear")
TEXT = "a word"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the path, without entry points yet; forgotten afterwards."""
    (tmp_path / "gacfx_outside.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(KINDS, "_known", dict(KINDS))
    yield tmp_path
    sys.modules.pop("gacfx_outside", None)


def brings(folder: Path, *lines: str) -> None:
    """Let the package name entry points."""
    about = folder / "gacfx_outside-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gacfx-outside\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(("[gacfx.decisions]", *lines, "")))


def test_a_package_brings_a_kind(package: Path) -> None:
    brings(package, "outside = gacfx_outside:KIND")
    read = read_decision({"kind": "outside", "rank": 3})
    assert (type(read).__name__, read.params(8, 8), read.label) == ("Outside", 48, "outside 3")
    every = [kind.name for kind in KINDS.everything()]
    ours = [kind.name for kind in BUILT_IN]
    assert every == list(KINDS) == [*ours, "outside"]
    assert Search(form="outside").kinds == ("outside",)


def test_what_is_known_is_found_without_a_look_at_packages(package: Path) -> None:
    brings(package, "outside = gacfx_outside:NOTHING")
    assert KINDS.find("pivot").name == "pivot"
    with pytest.raises(PlanError, match=r"known: dense, .*, outside: install"):
        KINDS.find("monarch")  # named, and not imported either
    assert "gacfx_outside" not in sys.modules


@pytest.mark.parametrize(
    "line",
    [
        "outside = gacfx_outside:TEXT",
        "outside = gacfx_outside:Outside",
        "inside = gacfx_outside:KIND",
        "outside = gacfx_outside:NOTHING",
        "outside = gacfx_not_there:KIND",
        "outside = gacfx_outside",
    ],
)
def test_a_package_that_brings_something_else_is_named(package: Path, line: str) -> None:
    brings(package, line)
    name = line.split(" ")[0]
    asks = (lambda: KINDS.find(name), KINDS.everything, lambda: Search(form=name))
    for ask in asks:
        with pytest.raises(PlanError, match=f"entry point '{name}' of gacfx.decisions") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_form_that_nobody_brings_is_refused() -> None:
    with pytest.raises(PlanError, match="no kind of decision 'monarch'; known: dense"):
        Search(form="monarch")
