"""Text that a model cannot be calibrated with, or hardly: one line, or a warning that says so."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx import api
from gacfx.calibration.few_tokens import FewTokens
from gacfx.calibration.readable import UnreadableWindows
from gacfx.calibration.text import Corpus
from gacfx.cli import main
from gacfx.errors import CalibrationError
from tests import tiny
from tests.few import few

SIZES = {"hidden": 32, "width": 48}
WORKS = pytest.mark.parametrize("work", [None, "work"], ids=["whole", "by layer"])


def overflowing() -> Any:
    """A Llama whose second layer overflows where the text has a Z, and only there."""
    model = tiny.llama(**SIZES)
    (token,) = tiny.tokenizer()("Z")["input_ids"][1:]
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0], embedding[token, 0] = 0.0, 9.0
        for layer in model.model.layers:  # nothing writes into the first channel
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        for part in ("gate_proj", "up_proj"):
            model.model.layers[1].mlp.get_submodule(part).weight[0, 0] = 1e30
    return model


def stories(place: int) -> list[str]:
    """Eight documents, the one at ``place`` with a Z."""
    found = tiny.texts()
    found[place] = found[place][:40] + " Z " + found[place][40:80]
    return [text[:90] for text in found]


def text_file(folder: Path, texts: list[str]) -> Path:
    path = folder / "text.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def refused(capfd: pytest.CaptureFixture[str], *words: object) -> str:
    """The only line of a command that fails."""
    capfd.readouterr()
    assert main([str(word) for word in words]) == 1
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    return str(line)


# -- numbers that end ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [2, 3], ids=["measured", "held back"])
def test_a_document_on_which_a_layer_overflows_is_left_out_and_both_are_named(
    place: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = overflowing(), tiny.tokenizer()
    fine = [text.replace("Z", "z") for text in stories(place)]
    api.calibrate(model, tokenizer, calibration=fine, force=True)
    for work in (None, tmp_path / "api"):
        with pytest.warns(UnreadableWindows, match=rf"\(document {place + 1}\)") as caught:
            api.calibrate(model, tokenizer, calibration=stories(place), force=True, work=work)
        (said,) = [str(w.message) for w in caught if w.category is UnreadableWindows]
        assert "model.layers.1" in said and "\n" not in said
    model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    text, out = text_file(tmp_path, stories(place)), tmp_path / "small"
    words = ("compress", tmp_path / "dense", "--calibration", text, "--out", out, "--force")
    with pytest.warns(UnreadableWindows, match=rf"\(document {place + 1}\).*model\.layers\.1"):
        assert main([str(word) for word in words]) == 0
    assert (out / "config.json").exists()


@WORKS
def test_a_weight_that_is_no_number_is_named(work: str | None, tmp_path: Path) -> None:
    model = tiny.llama(**SIZES)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[1, 2] = torch.nan
    where = None if work is None else tmp_path / work
    with pytest.raises(CalibrationError, match=r"layers\.1\.mlp\.down_proj\.weight: NaN or infin"):
        api.calibrate(model, tiny.tokenizer(), calibration=tiny.texts(), work=where)


# -- too few tokens ------------------------------------------------------------------------------


def random_corpus(*lengths: int) -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(2, 258, (n,), generator=random) for n in lengths))


@WORKS
def test_fewer_tokens_than_the_widest_rank_are_said_once(work: str | None, tmp_path: Path) -> None:
    model = tiny.llama(hidden=96, width=104)
    where = None if work is None else tmp_path / work
    text = random_corpus(47, 48)
    with pytest.warns(FewTokens) as said:
        study = api.calibrate(model, calibration=text, force=True, work=where)
    study.plan("0.2", profile=api.load_profile("h200"))  # says nothing more
    (warning,) = said
    assert str(warning.message) == (
        "the calibration text has 95 tokens, and model.layers.0.self_attn.q_proj has 96 "
        "directions: those that no token shows are worth next to nothing in the curves, so that "
        "losses are promised too low; give at least 96 tokens, better many times as many"
    )
    with warnings.catch_warnings(action="error"):
        api.calibrate(model, calibration=random_corpus(48, 48), force=True)


@pytest.mark.parametrize("command", few(["compress", "statistics", "plan"], "compress"))
def test_commands_say_it_as_a_warning(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dense = tiny.checkpoint(tmp_path / "dense", hidden=96, width=104)
    text = text_file(tmp_path, [text[:44] for text in tiny.texts(2)])
    options: dict[str, list[object]] = {
        "compress": ["--out", tmp_path / "out", "--max-loss", "99"],
        "statistics": ["--work", tmp_path / "work"],
        "plan": ["--value", "fisher"],
    }
    words = [command, dense, "--calibration", text, "--force", *options[command]]
    with pytest.warns(FewTokens, match="the calibration text has 89 tokens") as said:
        assert main([str(word) for word in words]) == 0
    assert len(said) == 1
    capfd.readouterr()


# -- more tokens than positions ------------------------------------------------------------------


@pytest.mark.parametrize("command", few(["compress", "statistics"], "statistics"))
def test_documents_longer_than_the_positions_are_cut_and_it_is_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = tiny.checkpoint(tmp_path / "dense", **SIZES, max_position_embeddings=48)
    text = text_file(tmp_path, ["the cat sat on a mat " * 19])
    made = ["--out", tmp_path / "out"] if command == "compress" else ["--work", tmp_path / "work"]
    words = [command, dense, "--calibration", text, "--force", *made]
    assert main([str(word) for word in words]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        "calibration: 384 of 399 tokens in 8 windows; 1 end of documents under 33 tokens left out"
    )


@pytest.mark.parametrize("command", ["compress", "statistics"])
def test_positions_that_hold_no_window_are_refused(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dense = tiny.checkpoint(tmp_path / "dense", **SIZES, max_position_embeddings=32)
    text, made = tiny.text_file(tmp_path / "text.txt"), tmp_path / "made"
    where = "--out" if command == "compress" else "--work"
    line = refused(capfd, command, dense, "--calibration", text, where, made)
    assert "no document has 33 tokens within the limits" in line and "positions 32" in line
    assert not made.exists()


@WORKS
@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        (random_corpus(40, 97, 40, 40), "a window has 97 tokens, the model 96 positions"),
        (Corpus((torch.arange(40), torch.arange(230, 270))), "are outside the model's vocabulary"),
    ],
)
def test_a_corpus_that_does_not_fit_is_refused(
    corpus: Corpus, says: str, work: str | None, tmp_path: Path
) -> None:
    where = None if work is None else tmp_path / work
    with pytest.raises(CalibrationError, match=says):
        api.calibrate(tiny.llama(**SIZES), calibration=corpus, work=where)


def test_the_tokenizer_of_a_larger_vocabulary_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dense = tiny.checkpoint(tmp_path / "dense", **SIZES, vocab_size=60)
    text, out = tiny.text_file(tmp_path / "text.txt"), tmp_path / "out"
    line = refused(capfd, "compress", dense, "--calibration", text, "--out", out)
    assert "are outside the model's vocabulary of 60; tokenise" in line
    assert not out.exists()
