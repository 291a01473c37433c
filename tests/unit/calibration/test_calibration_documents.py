"""Documents of files and of callers: what is read, and what is refused with which words."""

import json
from pathlib import Path
from typing import Any

import pytest

from gacfx.calibration.documents import read_documents, texts_of
from gacfx.errors import CalibrationError


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_jsonl_holds_strings_and_objects(tmp_path: Path) -> None:
    lines = [json.dumps("one"), "", json.dumps({"text": "two\n\nparts", "id": 7}), '"a\u2028b"']
    path = write(tmp_path / "t.jsonl", "\n".join(lines) + "\n")
    assert read_documents(path) == ["one", "two\n\nparts", "a\u2028b"]


def test_txt_is_split_at_blank_lines(tmp_path: Path) -> None:
    text = "\ufeffone\nstill one\r\n\r\ntwo\n \t\n\n\n  three  \n"
    assert read_documents(write(tmp_path / "t.txt", text)) == ["one\nstill one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "x", r"unknown suffix '\.csv'.*\.jsonl"),
        ("t.txt", b"ok\n\xff\xfe", "not UTF-8 at byte 3"),
        ("t.txt", " \n\n ", "holds no text"),
        ("t.txt", "", "holds no text"),
        ("t.jsonl", "", "holds no text"),
        ("t.txt", "one\n\nt\0w\0o\0", r"t\.txt: a NUL at character 6 is no text; if .* UTF-16"),
        ("t.jsonl", '"one\0"', r"t\.jsonl:1: not JSON \(Invalid control character"),
        ("t.jsonl", "[" * 100_000, r"t\.jsonl:1: not JSON \(maximum recursion"),
        (
            "t.jsonl",
            '"fine"\n"ab\\ud800c"',
            r"t\.jsonl:2: half a surrogate pair, '\\ud800', at character 2",
        ),
        ("t.jsonl", '{"text": ["one", "two"]}', r"t\.jsonl:1: expected a string"),
        ("t.jsonl", '""\n', "holds no text"),
        ("t.jsonl", '"fine"\n{"text": \n', r"t\.jsonl:2: not JSON"),
        ("t.jsonl", '\n\n{"txt": "x"}', r"t\.jsonl:3: expected a string"),
        ("t.jsonl", '{"text": 5}', r"t\.jsonl:1: expected a string"),
        ("t.jsonl", "[1]", r"t\.jsonl:1: expected a string"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, data: str | bytes, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_documents(write(tmp_path / name, data))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"gone\.txt: no such file"):
        read_documents(tmp_path / "gone.txt")


@pytest.mark.parametrize("name", ["folder.txt", "folder"])
def test_a_folder_is_refused_as_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CalibrationError, match=f"{name}: is a folder; give the path of a .jsonl"):
        read_documents(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Once upon a time\nthere was a cat.", "a str of 2 lines is no path of a file; put a text"),
        ("Once upon a time there was a cat", "unknown suffix ''"),
        ("a cat sat " * 900, "a cat .*: cannot be read"),
        ("a\0b.txt", "cannot be read|no such file"),
    ],
)
def test_a_text_in_place_of_a_path_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as refused:
        read_documents(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_of_any_system_are_the_same_text(ends: str, tmp_path: Path) -> None:
    text = ends.join(["one", "still one", "", "two", ""])
    assert read_documents(write(tmp_path / "t.txt", text)) == ["one\nstill one", "two"]
    lines = ends.join(['"one"', "", '{"text": "two"}', ""])
    assert read_documents(write(tmp_path / "t.jsonl", lines)) == ["one", "two"]


def test_one_document_per_line_without_blank_lines_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "a first text\na second text\n")
    assert read_documents(path) == ["a first text\na second text"]


def test_a_nul_that_json_escapes_is_a_character(tmp_path: Path) -> None:
    assert read_documents(write(tmp_path / "t.jsonl", '"a\\u0000b"')) == ["a\0b"]


def test_texts_are_strings_or_rows() -> None:
    given: list[str | dict[str, object]] = ["one", {"text": "two", "id": 2}]
    assert list(texts_of(iter(given))) == ["one", "two"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", "a single text of 8 characters .* put it into a list"),
        (b"one text", "a single text of 8 characters"),
        ({"train": ["x"], "test": ["y"]}, r"a mapping with keys \['train', 'test'\] .* give one"),
        (7, "int cannot be read as documents"),
        (["fine", b"bytes"], "document 2: expected a string"),
        (["fine", None], "document 2: expected a string .* found None"),
        ([{"content": "x"}], "document 1: expected a string .* found {'content': 'x'}"),
        ([["two", "parts"]], "document 1: expected a string"),
        (["fine", "half \udc00"], r"document 2: half a surrogate pair, '\\udc00', at character 5"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(given: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as refused:
        list(texts_of(given))
    assert "\n" not in str(refused.value)
