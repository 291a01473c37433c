"""Lines and tables that fit: pieces stay whole, columns are as wide as their cells."""

import pytest

from gacfx.report.layout import Column, Flow, grid, listing, sentence, width_of


def test_pieces_stay_whole_and_later_lines_stand_back() -> None:
    flow = Flow(["aaa", "bbb", "ccc ddd"], indent=2)
    assert flow.lines(30) == ["aaa  bbb  ccc ddd"]
    assert flow.lines(16) == ["aaa  bbb", "  ccc ddd"]
    assert flow.lines(9) == ["aaa  bbb", "  ccc ddd"]


def test_commas_end_lines_and_blanks_do_not() -> None:
    assert listing("kept: a 0-8,10, b 1, c").lines(16) == ["kept: a 0-8,10,", "    b 1, c"]
    assert all(line == line.rstrip() for line in sentence("one two three four").lines(8))


def test_a_piece_that_no_line_holds_breaks_between_its_words() -> None:
    assert Flow(["one two three"], indent=2).lines(9) == ["one two", "  three"]
    assert Flow(["x", "one two three"], indent=2).lines(9) == ["x", "  one two", "  three"]
    assert Flow(["longer-than-the-line"], indent=0).lines(5) == ["longer-than-the-line"]


@pytest.mark.parametrize("width", range(12, 80, 7))
def test_nothing_is_lost_at_any_width(width: int) -> None:
    text = "kept dense: self_attn.q_proj 0-8,10, mlp.up 1,4-5 (a reason, in two parts)"
    for flow in (listing(text), sentence(text)):
        assert " ".join(" ".join(flow.lines(width)).split()) == text


def test_a_grid_is_as_wide_as_its_cells() -> None:
    columns = [Column("name", ["a", "bb"]), Column("n", ["1", "1,000"], right=True)]
    assert width_of(columns) == 4 + 2 + 5
    text = grid(columns, below=[["why"], []])
    assert text.plain.split("\n") == ["name      n", "a         1", "      why", "bb    1,000"]
