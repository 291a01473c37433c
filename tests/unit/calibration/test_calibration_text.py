"""Windows of text: what is used, what is left out, how a limit is kept, and the two parts."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gacfx.calibration.shards import Shard
from gacfx.calibration.text import (
    Corpus,
    check_fits,
    max_positions,
    split,
    token_limit,
    tokenize,
    usage,
)
from gacfx.errors import CalibrationError
from tests import tiny


class Letters:
    """One token for each character, after a BOS of 1."""

    def __call__(self, text: str) -> Mapping[str, Any]:
        return {"input_ids": [1, *(ord(letter) % 90 for letter in text)]}


def corpus(*lengths: int) -> Corpus:
    return Corpus(tuple(torch.arange(n) % 7 + i for i, n in enumerate(lengths)))


def test_long_documents_become_windows_and_every_token_is_used() -> None:
    letters = "".join(chr(33 + i % 90) for i in range(200))
    found = tokenize([letters, "short", "b" * 60], Letters(), max_positions=50)
    assert [len(ids) for ids in found.documents] == [50, 50, 50, 50, 50]
    assert torch.cat(found.documents[:4]).tolist() == Letters()(letters)["input_ids"][:200]
    assert all(ids.dtype == torch.int64 for ids in found.documents)
    # One token is left of the first document and eleven of the third.
    assert (found.skipped, found.ends) == (1, 2)
    assert (found.tokens, found.given, found.given_is) == (250, 201 + 6 + 61, "exact")


def test_an_end_of_33_tokens_is_a_window() -> None:
    assert [len(d) for d in tokenize(["x" * 82], Letters(), 50).documents] == [50, 33]
    assert [len(d) for d in tokenize(["x" * 81], Letters(), 50).documents] == [50]


def test_windows_that_continue_a_document_have_no_special_token_of_their_own() -> None:
    first, second, last = tokenize(["x" * 119], Letters(), 40).documents
    assert first[0] == 1
    assert 1 not in second and 1 not in last


def test_token_limit_cuts_the_last_window_and_reads_no_further() -> None:
    def many() -> Any:
        for _ in range(1000):
            yield "x" * 39

    found = tokenize(many(), Letters(), 99, 115)
    assert [len(d) for d in found.documents] == [40, 40, 35]
    assert (found.given, found.given_is) == (120, "more than")
    # 20 tokens of room are too few for a window.
    found = tokenize(many(), Letters(), 99, 100)
    assert [len(d) for d in found.documents] == [40, 40]
    assert (found.given, found.given_is) == (80, "more than")


def test_an_end_that_is_left_out_takes_nothing_of_the_limit() -> None:
    found = tokenize(["x" * 59, "y" * 59, "z" * 59], Letters(), 50, 100)
    assert ([len(d) for d in found.documents], found.ends) == ([50, 50], 1)


def test_a_document_of_33_tokens_is_a_window() -> None:
    found = tokenize(["x" * 32, "y" * 31], Letters(), 50)
    assert ([len(d) for d in found.documents], found.skipped) == ([33], 1)


@pytest.mark.parametrize(("limit", "windows"), [(90, [50, 40]), (70, [50]), (100, [50, 50])])
def test_what_the_limit_cuts_off_is_no_end_of_a_document(limit: int, windows: list[int]) -> None:
    found = tokenize(["x" * 109, "y" * 109], Letters(), 50, limit)
    assert [len(d) for d in found.documents] == windows
    assert (found.skipped, found.ends) == (0, 0)


def test_a_limit_takes_documents_from_the_whole_of_a_list_in_its_order() -> None:
    texts = [chr(90 + i) * 39 for i in range(50)]  # token i, as it counts modulo 90
    found = tokenize(texts, Letters(), 99, 400)
    places = [int(ids[1]) for ids in found.documents]
    assert places == sorted(places) and len(places) == 10
    gaps = [later - place for place, later in pairwise([*places, 50 + places[0]])]
    assert max(gaps) <= 8 and min(gaps) >= 3  # 5 would be the same for all
    few = tokenize(texts, Letters(), 99, 200)
    assert {bytes(ids.numpy()) for ids in few.documents} < {
        bytes(ids.numpy()) for ids in found.documents
    }
    # An iterator is read no further than the limit asks for.
    first = tokenize(iter(texts), Letters(), 99, 400)
    assert [int(ids[1]) for ids in first.documents] == [*range(10)]


def test_the_word_for_a_bad_document_counts_from_the_beginning_of_the_list() -> None:
    texts: list[Any] = ["x" * 49] * 8 + [7] + ["x" * 49] * 8
    with pytest.raises(CalibrationError, match="document 9: expected a string"):
        tokenize(texts, Letters(), 50)


def test_an_enormous_line_is_read_only_as_far_as_the_limit() -> None:
    read = []

    class Watched(Letters):
        def __call__(self, text: str) -> Mapping[str, Any]:
            read.append(len(text))
            return super().__call__(text)

    line = "a long line without an end " * 40_000
    found = tokenize([line], Watched(), 64, 640)
    assert [len(ids) for ids in found.documents] == [64] * 10
    assert max(read) < 10_000
    assert found.given_is == "about" and found.given is not None
    assert len(line) <= found.given <= 1.01 * len(line)
    whole = tokenize([line[:5000]], Letters(), 64)
    assert all(map(torch.equal, found.documents, whole.documents[:10]))


def test_a_limit_takes_the_first_windows_of_a_real_tokenizer() -> None:
    text = " ".join(tiny.texts(200))
    few, all_of_it = (tokenize([text], tiny.tokenizer(), 96, limit) for limit in (960, None))
    assert len(few.documents) == 10 < len(all_of_it.documents)
    assert all(map(torch.equal, few.documents, all_of_it.documents[:10]))


class Rows:
    """A data set: sized, rows one after the other, no list."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[dict[str, object]]:
        return ({"text": text, "number": i} for i, text in enumerate(self.texts))


@pytest.mark.parametrize("rows", [False, True])
def test_what_a_limit_leaves_unread_is_estimated_from_characters(rows: bool) -> None:
    texts = ["x" * 49] * 90
    given = Rows(*texts) if rows else [*texts]
    found = tokenize(given, Letters(), 50, 100)
    assert (found.tokens, found.given, found.given_is) == (100, 4500, "about")
    # The limit ends with the text: nothing is estimated.
    assert tokenize(texts[:2], Letters(), 50, 100).given_is == "exact"


def test_an_estimate_is_never_below_what_is_used() -> None:
    found = tokenize(["x" * 4999, "y" * 4], Letters(), 50, 5000)
    assert found.tokens == 5000
    assert found.given is not None and 5000 < found.given <= 5010
    assert found.given_is == "about"


def test_rows_of_a_data_set_are_read_like_texts() -> None:
    texts = ["x" * 49, "y" * 49]
    assert tokenize(Rows(*texts), Letters(), 50).digest == tokenize(texts, Letters(), 50).digest


@pytest.mark.parametrize(
    ("texts", "positions", "limit"),
    [(["short"], 99, None), (["x" * 99], 32, None), (["x" * 99], 99, 32), ([], 99, None)],
)
def test_no_document_long_enough(texts: list[str], positions: int, limit: int | None) -> None:
    with pytest.raises(CalibrationError, match="no document has 33 tokens"):
        tokenize(texts, Letters(), positions, limit)


def test_the_line_says_what_is_used_and_what_is_left_out() -> None:
    ids = (torch.arange(50), torch.arange(40))
    assert usage(Corpus(ids)) == "calibration: 90 tokens in 2 windows"
    line = usage(Corpus(ids, skipped=3, given=1_240_000, given_is="about"))
    assert line == (
        "calibration: 90 of about 1,240,000 tokens in 2 windows; "
        "3 documents under 33 tokens left out"
    )
    line = usage(Corpus(ids[:1], 1, 1, 72), "evaluation")
    assert line == (
        "evaluation: 50 of 72 tokens in 1 window; "
        "1 document and 1 end of documents under 33 tokens left out"
    )


@pytest.mark.parametrize(
    ("asked", "limit"),
    [(None, 256 * 64), ("all", None), (33, 33), ("500k", 500_000), ("1.5k", 1500)],
)
def test_a_number_of_tokens_is_read_like_other_numbers(
    asked: int | str | None, limit: int | None
) -> None:
    assert token_limit(asked, window=64) == limit


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("32", "tokens 32: one window has at least 33; ask for more"),
        (0, "tokens 0: must be at least 1"),
        (-5, "tokens -5: not a number such as 500k or all"),
        ("some", "tokens 'some': not a number such as 500k or all"),
        (4.5, "tokens 4.5: give a whole number or text such as 500k or all"),
    ],
)
def test_a_number_of_tokens_that_cannot_be_is_refused(asked: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        token_limit(asked, window=64)


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


@pytest.mark.parametrize(
    ("tokens", "places"), [(1, [0]), (80, [0, 5]), (81, [0, 2, 5]), (10**9, [*range(10)])]
)
def test_a_sample_has_windows_from_everywhere_in_their_order(
    tokens: int, places: list[int]
) -> None:
    whole = corpus(*[40] * 10)
    found = whole.sample(tokens).documents
    assert [id(ids_T) for ids_T in found] == [id(whole.documents[place]) for place in places]


def test_parts_know_which_documents_their_windows_are_from() -> None:
    whole = tokenize(["short", "x" * 119, "short", "y" * 39, "z" * 79], Letters(), 40)
    assert whole.numbers == (2, 2, 2, 4, 5, 5)
    parts = split(whole, held_back=0.5)
    assert [part.numbers for part in parts] == [(2, 2, 5), (2, 4, 5)]
    assert [parts[1].number(index) for index in range(3)] == [2, 4, 5]
    assert whole.sample(41).numbers == (2, 5)
    (third,) = Shard(3, 3).of([whole])
    assert third.numbers == (2, 5)
    assert [corpus(40, 40, 40, 40).number(index) for index in range(4)] == [1, 2, 3, 4]
    assert split(corpus(40, 40, 40, 40))[1].number(0) == 4


def test_split_refuses_one_document_and_odd_shares() -> None:
    with pytest.raises(CalibrationError, match="1 window of 40 tokens .* at least two"):
        split(corpus(40))
    with pytest.raises(CalibrationError, match="held_back=1"):
        split(corpus(40, 40), held_back=1)
    assert len(split(corpus(40, 40, 40), held_back=0.99)[0].documents) == 1


def test_one_long_document_is_split_by_its_windows() -> None:
    whole = tokenize(["x" * 399], Letters(), 50)
    first, second = split(whole)
    assert (len(first.documents), len(second.documents)) == (6, 2)
    assert all(torch.equal(second.documents[i], whole.documents[4 * i + 3]) for i in range(2))


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
    with pytest.raises(CalibrationError, match="a window has 40 tokens, the model 39 positions"):
        check_fits(Shell(max_position_embeddings=39), good)
    with pytest.raises(CalibrationError, match="no document"):
        check_fits(Shell(), Corpus(()))
