"""Pages: whole after merges, and naming what there is: folders, fields of a plan, kinds."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gacfx.core.kinds import BUILT_IN
from gacfx.core.plan import Choice, Plan, Weight

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
PAGE = (ROOT / "docs" / "file-format.md").read_text(encoding="utf-8")
PLAN = PAGE.partition("## plan.json")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_merge_was_left_half_done(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if re.match(r"(<{7}|={7}|>{7})( |$)", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_begins_with_its_head(page: Path) -> None:
    lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
    heads = [at for at, line in enumerate(lines) if line.startswith("|") and not lines[at - 1]]
    assert [lines[at] for at in heads if not re.match(r"\| ?[-:]", lines[at + 1])] == []


def test_the_map_shows_every_folder_of_the_package() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Map\n")[2]
    shown = set(re.findall(r"^    gacfx/(\w+) ", text.partition("\n## ")[0], re.MULTILINE))
    there = {each.parent.name for each in (ROOT / "gacfx").glob("*/__init__.py")} - {"passes"}
    assert shown == there


def test_every_field_of_a_plan_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PLAN, re.MULTILINE)
    assert sorted(rows) == sorted(each.name for each in fields(Plan))


@pytest.mark.parametrize("name", [each.name for cls in (Choice, Weight) for each in fields(cls)])
def test_every_field_of_a_choice_is_named(name: str) -> None:
    assert f"`{name}`" in PLAN


@pytest.mark.parametrize("kind", [each.name for each in BUILT_IN])
def test_every_kind_is_named(kind: str) -> None:
    assert f"`{kind}`" in PLAN
