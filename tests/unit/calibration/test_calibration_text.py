"""Reading, tokenising and splitting text."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gacfx.calibration.text import (
    Corpus,
    check_fits,
    max_positions,
    read_documents,
    split,
    tokenize,
)
from gacfx.errors import CalibrationError


class Letters:
    """One token for each character, after a BOS of 1."""

    def __call__(self, text: str) -> Mapping[str, Any]:
        return {"input_ids": [1, *(ord(letter) % 90 for letter in text)]}


def corpus(*lengths: int) -> Corpus:
    return Corpus(tuple(torch.arange(n) % 7 + i for i, n in enumerate(lengths)))


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
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CalibrationError, match="no such file"):
        read_documents(tmp_path / "folder.txt")


def test_documents_are_cut_and_short_ones_counted() -> None:
    found = tokenize(["a" * 31, "b" * 32, "c" * 200, ""], Letters(), max_positions=50)
    assert [len(ids) for ids in found.documents] == [33, 50]
    assert found.skipped == 2
    assert found.tokens == 83
    assert all(ids.dtype == torch.int64 and ids[0] == 1 for ids in found.documents)


def test_token_limit_cuts_the_last_document_and_reads_no_further() -> None:
    def endless() -> Any:
        while True:
            yield "x" * 39

    assert [len(d) for d in tokenize(endless(), Letters(), 99, 115).documents] == [40, 40, 35]
    # 20 tokens of room are too few for a document.
    assert [len(d) for d in tokenize(endless(), Letters(), 99, 100).documents] == [40, 40]


@pytest.mark.parametrize(
    ("texts", "positions", "limit"),
    [(["short"], 99, None), (["x" * 99], 32, None), (["x" * 99], 99, 32), ([], 99, None)],
)
def test_no_document_long_enough(texts: list[str], positions: int, limit: int | None) -> None:
    with pytest.raises(CalibrationError, match="no document has 33 tokens"):
        tokenize(texts, Letters(), positions, limit)


def test_digest_knows_ids_order_and_borders() -> None:
    a, b = torch.arange(40), torch.arange(50)
    assert Corpus((a, b)).digest == Corpus((a.clone(), b.clone()), skipped=3).digest
    others = [(b, a), (a,), (torch.cat([a, b]),), (a, b + 1)]
    assert len({Corpus((a, b)).digest, *(Corpus(docs).digest for docs in others)}) == 5


@pytest.mark.parametrize(("count", "held"), [(2, 1), (4, 1), (8, 2), (10, 2), (100, 25)])
def test_split_is_a_partition(count: int, held: int) -> None:
    whole = corpus(*[40] * count)
    first, second = split(whole)
    assert len(second.documents) == held
    assert {id(d) for d in first.documents} | {id(d) for d in second.documents} == {
        id(d) for d in whole.documents
    }
    assert len(first.documents) + held == count
    assert split(whole)[1].digest == second.digest


def test_split_refuses_one_document_and_odd_shares() -> None:
    with pytest.raises(CalibrationError, match="at least two"):
        split(corpus(40))
    with pytest.raises(CalibrationError, match="held_back=1"):
        split(corpus(40, 40), held_back=1)
    assert len(split(corpus(40, 40, 40), held_back=0.99)[0].documents) == 1


class Shell(nn.Module):
    """A model with a configuration and, where asked for, an embedding."""

    def __init__(self, rows: int | None = None, **config: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.embedding = nn.Embedding(rows, 2) if rows else None

    def get_input_embeddings(self) -> nn.Module | None:
        return self.embedding


def test_max_positions_comes_from_the_configuration() -> None:
    assert max_positions(Shell(max_position_embeddings=512)) == 512
    assert max_positions(Shell(n_positions=1024)) == 1024
    assert max_positions(Shell(max_position_embeddings=131072)) == 2048
    assert max_positions(Shell(max_position_embeddings=131072), most=4096) == 4096
    assert max_positions(nn.Linear(2, 2)) == 2048


def test_ids_outside_the_vocabulary_and_long_documents_are_refused() -> None:
    good = Corpus((torch.arange(40),))
    check_fits(Shell(rows=40, max_position_embeddings=40), good)
    check_fits(Shell(), good)
    with pytest.raises(CalibrationError, match=r"ids 0 \.\. 39 are outside .* of 39"):
        check_fits(Shell(rows=39), good)
    with pytest.raises(CalibrationError, match=r"ids -1 \.\. 38"):
        check_fits(Shell(), Corpus((torch.arange(40) - 1,)))
    with pytest.raises(CalibrationError, match="40 tokens, the model 39 positions"):
        check_fits(Shell(max_position_embeddings=39), good)
    with pytest.raises(CalibrationError, match="no document"):
        check_fits(Shell(), Corpus(()))
