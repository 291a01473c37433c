"""Token ids of one text, whatever a tokenizer or a processor gives them in."""

# T tokens of one text

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gacfx.calibration.token_ids import first_token_ids, token_ids
from gacfx.errors import CalibrationError
from tests import tiny

IDS = [5, 0, 41, 7]


class Gives:
    """A tokenizer that gives the same for every text."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def __call__(self, text: str) -> Any:
        return self.found


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        tuple,
        lambda ids: [ids],
        lambda ids: [tuple(ids)],
        np.array,
        lambda ids: np.array([ids], dtype=np.uint16),
        lambda ids: [np.array(ids)],
        lambda ids: [np.int64(i) for i in ids],
        torch.tensor,
        lambda ids: torch.tensor([ids], dtype=torch.int32),
        lambda ids: [torch.tensor(ids)],
    ],
    ids=lambda _: "",
)
@pytest.mark.parametrize("ids", [IDS, [7], []])
def test_a_batch_of_one_is_that_one(wrap: Callable[[list[int]], Any], ids: list[int]) -> None:
    found_T = token_ids(Gives({"input_ids": wrap(ids)}), "text", "document 1")
    assert found_T.dtype == torch.int64 and found_T.tolist() == ids


def test_tokens_that_a_cut_in_the_text_changes_are_not_among_the_first() -> None:
    def words(text: str) -> Any:
        ids = [int(word) for word in text.split()]
        return {"input_ids": [*ids[:-30], *[7] * len(ids[-30:])]}

    text = " ".join(str(10**10 + i) for i in range(3000))  # 12 characters a token: more than usual
    ids_T, characters = first_token_ids(words, text, 100, "document 1")
    assert ids_T[:100].tolist() == [10**10 + i for i in range(100)]
    assert characters < len(text) / 3
    assert first_token_ids(words, text, None, "document 1")[1] == len(text)


def test_ids_are_a_copy() -> None:
    buffer = torch.tensor(IDS)
    found_T = token_ids(Gives({"input_ids": buffer}), "text", "document 1")
    buffer.zero_()
    assert found_T.tolist() == IDS


def test_a_real_tokenizer_gives_the_same_in_every_form() -> None:
    tokenizer = tiny.tokenizer()
    text = "the cat\0 sat"
    want = tokenizer(text)["input_ids"]
    assert len(want) == 1 + len(text)
    for form in (None, "pt", "np"):
        found_T = token_ids(lambda t, form=form: tokenizer(t, return_tensors=form), text, "")
        assert found_T.tolist() == want


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"input_ids": [IDS, IDS]}, r"input_ids of shape \[2, 4\] for one text"),
        ({"input_ids": torch.ones(2, 9, dtype=torch.int64)}, r"of shape \[2, 9\]"),
        ({"input_ids": [[IDS]]}, r"of shape \[1, 1, 4\]"),
        ({"input_ids": 5}, r"of shape \[\]"),
        ({"input_ids": [IDS, [1]]}, r"gives input_ids \[\[5, 0, 41, 7\], \[1\]\]; one text must"),
        ({"input_ids": [5.0, 7.5]}, r"input_ids of torch.float32, \[5.0, 7.5\]; token ids are int"),
        ({"input_ids": [1.5]}, "input_ids of torch.float32"),
        ({"input_ids": np.array([1j])}, "input_ids of torch.complex"),
        ({"input_ids": [True, False]}, "input_ids of torch.bool"),
        ({"input_ids": ["the", "cat"]}, r"gives input_ids \['the', 'cat'\]; one text must give"),
        ({"input_ids": "the cat"}, "gives input_ids 'the cat'"),
        ({"input_ids": ["the cat"]}, r"gives input_ids \['the cat'\]"),
        ({"input_ids": None}, "gives input_ids None"),
        ({"input_ids": [2**70]}, "gives input_ids"),
        ({"ids": IDS}, "gives {'ids': .*needs a mapping with input_ids"),
        (IDS, r"gives \[5, 0, 41, 7\]; gacfx needs a mapping with input_ids"),
        (None, "gives None; gacfx needs a mapping"),
        ("the cat", "gives 'the cat'; gacfx needs a mapping"),
    ],
    ids=str,
)
def test_what_is_no_list_of_integers_is_said_in_one_line(found: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as refused:
        token_ids(Gives(found), "text", "document 3")
    assert str(refused.value).startswith("document 3: Gives gives ")
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_fails_is_named_with_the_document() -> None:
    def fails(text: str) -> Any:
        raise TypeError("cannot read\nthis text")

    with pytest.raises(CalibrationError) as refused:
        token_ids(fails, "text", "document 3")
    assert str(refused.value).startswith(
        "document 3: function fails on it (TypeError: cannot read); mend or leave out the text"
    )
    no_tokenizer: Any = "a name"
    with pytest.raises(CalibrationError, match="document 3: str fails on it .* not callable"):
        token_ids(no_tokenizer, "text", "document 3")


def test_no_word_of_transformers_about_texts_that_are_cut_here() -> None:
    known = tiny.tokenizer()
    known.model_max_length = 8
    ids_T = token_ids(known, "a text of more than eight bytes", "text 1")
    assert len(ids_T) > 8
    assert known.deprecation_warnings == {}
    known("a text of more than eight bytes")
    assert known.deprecation_warnings != {}
