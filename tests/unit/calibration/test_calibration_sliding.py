"""Windows that overlap: every token once, with its context, and the losses of a direct count."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gacfx.calibration.evaluate import evaluate, token_losses
from gacfx.calibration.sliding import (
    Slides,
    check_windows,
    read_slides,
    slide,
    sliding_losses,
)
from gacfx.calibration.text import Corpus, tokenize, usage
from gacfx.errors import CalibrationError
from tests import tiny


def documents(*lengths: int, seed: int = 0) -> Corpus:
    random = torch.Generator().manual_seed(seed)
    return Corpus(tuple(torch.randint(2, 258, (n,), generator=random) for n in lengths))


def places(slides: Slides) -> list[tuple[int, int]]:
    """(place in its document, tokens before it in its window) of every predicted token."""
    found, number, start = list[tuple[int, int]](), -1, 0
    for index, (ids_T, count) in enumerate(
        zip(slides.corpus.documents, slides.scored, strict=True)
    ):
        start = start + slides.stride if slides.corpus.number(index) == number else 0
        number = slides.corpus.number(index)
        found += [(start + at, at) for at in range(len(ids_T) - count, len(ids_T))]
    return found


@pytest.mark.parametrize(("window", "stride"), [(40, 20), (40, 1), (40, 39), (33, 7), (64, 13)])
@pytest.mark.parametrize("tokens", [33, 39, 40, 41, 60, 61, 79, 80, 81, 200])
def test_every_token_is_predicted_once_with_its_context(
    window: int, stride: int, tokens: int
) -> None:
    found = slide(documents(tokens), window, stride)
    assert [place for place, _ in places(found)] == list(range(1, tokens))
    assert found.tokens == tokens - 1
    late = [before for place, before in places(found) if place >= window]
    assert min(late, default=window) >= found.context == window - stride
    assert max(map(len, found.corpus.documents)) <= window
    assert min(found.scored) >= 1


def test_the_windows_of_the_page() -> None:
    (text_T,) = documents(61).documents
    found = slide(Corpus((text_T,)), 40, 20)
    starts = [0, 20, 40]
    assert [ids_T.tolist() for ids_T in found.corpus.documents] == [
        text_T[start : start + 40].tolist() for start in starts
    ]
    assert found.scored == (39, 20, 1)


def test_losses_are_those_of_a_direct_count() -> None:
    model, text = tiny.llama(), documents(70, 35, 90)
    nats: list[Tensor] = []
    for ids_T in text.documents:
        for place in range(1, len(ids_T)):
            # The first window that holds the token: it begins at a multiple of the stride.
            start = max(0, -(-(place - 47) // 16) * 16)
            with torch.no_grad():
                logits_TV = model(ids_T[None, start:place]).logits[0]
            nats.append(-logits_TV[-1].log_softmax(-1)[ids_T[place]])
    found = sliding_losses(model, slide(text, 48, 16))
    torch.testing.assert_close(torch.cat(found), torch.stack(nats), rtol=1e-4, atol=1e-5)
    assert [len(each) for each in found] == list(slide(text, 48, 16).scored)


def test_a_stride_of_the_window_is_the_plain_evaluation() -> None:
    model, texts = tiny.llama(), [" ".join(tiny.texts()), "short", tiny.TEXT]
    plain = tokenize(texts, tiny.tokenizer(), 48)
    whole = tokenize(texts, tiny.tokenizer(), 10**6)
    for found in (read_slides(texts, tiny.tokenizer(), 48, 48), slide(whole, 48, 48)):
        assert found.corpus.digest == plain.digest
        assert (found.corpus.skipped, found.corpus.ends) == (plain.skipped, plain.ends) == (1, 1)
        losses = sliding_losses(model, found)
        for one, other in zip(losses, token_losses(model, plain), strict=True):
            assert torch.equal(one, other)
        assert found.tokens == evaluate(model, plain).tokens


def test_one_token_that_is_left_of_a_document_is_an_end() -> None:
    found = slide(documents(81), 40, 40)
    assert [len(ids_T) for ids_T in found.corpus.documents] == [40, 40]
    assert found.scored == (39, 39) and found.corpus.ends == 1


def test_a_document_within_a_window_is_read_whole() -> None:
    model, text = tiny.llama(), documents(50, 40)
    for one, other in zip(
        sliding_losses(model, slide(text, 96, 10)), token_losses(model, text), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_documents_under_33_tokens_are_left_out_and_counted() -> None:
    found = slide(documents(20, 50, 32), 40, 10)
    assert found.corpus.skipped == 2
    assert set(found.corpus.numbers) == {2}
    with pytest.raises(CalibrationError, match="no document has 33 tokens; give longer"):
        slide(documents(20, 32), 40, 10)


def test_texts_are_read_whole_and_tokens_count_once() -> None:
    texts = [" ".join(tiny.texts()), *tiny.texts(3)]
    found = read_slides(texts, tiny.tokenizer(), 60, 15)
    counts = [len(tiny.tokenizer()(text)["input_ids"]) for text in texts]
    assert found.tokens == sum(counts) - len(counts)
    assert found.text.tokens == sum(counts)
    said = usage(found.text, "evaluation", len(found.scored))
    assert (
        said
        == f"evaluation: {sum(counts):,} of {sum(counts):,} tokens in {len(found.scored)} windows"
    )
    few = read_slides(texts, tiny.tokenizer(), 60, 15, 200)
    assert few.text.tokens == 200 and 190 <= few.tokens < 200


def test_windows_of_one_document_stand_in_their_order() -> None:
    found = slide(documents(120, 90), 40, 10)
    assert list(found.corpus.numbers) == sorted(found.corpus.numbers)
    pieces = [
        ids_T
        for ids_T, n in zip(found.corpus.documents, found.corpus.numbers, strict=True)
        if n == 1
    ]
    for one, other in pairwise(pieces):
        assert torch.equal(one[10:][: len(other)], other[: len(one) - 10])


@pytest.mark.parametrize(
    ("window", "stride", "positions", "message"),
    [
        (32, 8, None, "^window 32: one has at least 33 tokens"),
        (64, 0, None, r"^stride 0: give 1 .. 64, the window; a larger one leaves out tokens"),
        (64, 65, None, r"^stride 65: give 1 .. 64"),
        (97, 8, 96, "^window 97: small has 96 positions; give at most these"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    window: int, stride: int, positions: int | None, message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        check_windows(window, stride, positions, "small")
    check_windows(96, 96, 96)
    if positions is None:
        with pytest.raises(CalibrationError, match=message):
            slide(documents(99), window, stride)
        with pytest.raises(CalibrationError, match=message):
            read_slides(tiny.texts(), tiny.tokenizer(), window, stride)


def test_a_window_beyond_the_positions_is_refused_by_the_model_too() -> None:
    with pytest.raises(CalibrationError, match="a window has 97 tokens, the model 96 positions"):
        sliding_losses(tiny.llama(), slide(documents(120), 97, 20))
