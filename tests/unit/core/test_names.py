"""Names and texts from files: what is a module's name, and what a terminal may see."""

import re

import pytest

from gacfx.core.names import (
    MOST_NAME,
    MOST_TEXT,
    is_group_name,
    is_module_name,
    odd_text,
    one_line,
    printable,
)


@pytest.mark.parametrize("name", ["a", "model.layers.0.mlp.up_proj", "h.0.c-attn", "x" * MOST_NAME])
def test_names_of_modules(name: str) -> None:
    assert is_module_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "../x",
            "/etc/passwd",
            "a b",
            "a\n",
            "a\x1b[31m",
            "ä",
            "a:b",
        ),
        *("a\u202eb", "x" * (MOST_NAME + 1), None, 3),
    ],
)
def test_what_is_no_name_of_a_module(name: object) -> None:
    assert not is_module_name(name)


def test_groups_of_one_layer_are_named_by_several_modules() -> None:
    for name in ("a", "layers.0.fc1+fc2", "layer.0.intermediate.dense+output.dense"):
        assert is_group_name(name)
    for odd in ("", "+", "a+", "+a", "a++b", "a+b c", "a+../b", 3, f"a+{'x' * MOST_NAME}"):
        assert not is_group_name(odd)


def test_what_is_printed_is_one_line_that_no_terminal_acts_on() -> None:
    assert printable("a\x1b[31mb\x9bc\u202ed\te\nf") == "a\\x1b[31mb\\x9bc\\u202ed e f"
    assert printable("é ✓") == "é ✓"
    shown = printable("ab" * 5000)
    assert len(shown) < 90 and " ... " in shown


@pytest.mark.parametrize(
    "raw", [{}, [1, None, True], {"a": ["b\n\tc", {"d": "é"}]}, "x" * MOST_TEXT]
)
def test_texts_that_may_be_printed(raw: object) -> None:
    assert odd_text(raw) is None


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"a": [{"b": "\x1b[2J"}]}, r"control characters: '\\x1b\[2J'"),
        ({"a": {"\x07": 1}}, r"control characters: '\\x07'"),
        (["\u202e"], "control characters"),
        ("x" * (MOST_TEXT + 1), r"4,001 characters, 4,000 at most: 'x+ \.\.\. x+'$"),
    ],
)
def test_texts_that_nobody_should_print(raw: object, says: str) -> None:
    found = odd_text(raw)
    assert found is not None and re.search(says, found)


def test_an_error_of_somebody_else_becomes_one_line() -> None:
    assert one_line(ValueError("first\n   second\t third ")) == "first second third"
    assert one_line(ValueError("x" * 999)) == "x" * 300
