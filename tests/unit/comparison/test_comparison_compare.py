"""Several checkpoints in one table: what is compared with what, and what is not."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.calibration.evaluate import evaluate, token_losses
from gacfx.calibration.text import read_documents, tokenize
from gacfx.comparison import Comparison, Questions, Text, compare, measure_text
from gacfx.comparison.sides import predicted_bytes, read_sides, read_texts
from gacfx.errors import CalibrationError, CheckpointError, NoLmEval
from gacfx.zeroshot import harness, read_tasks, score
from tests import tiny
from tests.unit.zeroshot import stand_in


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dense model, one that was compressed, and others that do not go with it."""
    root = tmp_path_factory.mktemp("models")
    dense = tiny.checkpoint(root / "dense", layers=1, initializer_range=0.3)
    model, tokenizer = gacfx.load(dense)
    made = gacfx.compress(model, tokenizer, calibration=tiny.texts(), ratio=0.4, force=True)
    words = tiny.checkpoint(root / "words", layers=1, initializer_range=0.2)
    table = json.loads((words / "tokenizer.json").read_text())
    table["post_processor"] = None  # no <s> in front
    (words / "tokenizer.json").write_text(json.dumps(table))
    return {
        "dense": dense,
        "small": gacfx.save(made, root / "small"),
        "other": tiny.checkpoint(root / "other", layers=1, seed=3),
        "words": words,
        "larger": tiny.checkpoint(root / "larger", layers=1, vocab_size=300),
        "short": tiny.checkpoint(root / "short", layers=1, max_position_embeddings=48),
    }


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_file(tmp_path_factory.mktemp("text") / "stories.txt", 12)


def of(folders: dict[str, Path], *names: str, **more: Any) -> Comparison:
    return compare([folders[name] for name in names], **more)


def test_each_loss_is_that_of_the_plain_evaluation(folders: dict[str, Path], text: Path) -> None:
    found = of(folders, "dense", "small", text=Text(text))
    assert found.dense is found.models[0]
    assert (found.window, found.stride) == (96, 96)
    for each in found.models:
        model, tokenizer = gacfx.load(each.source)
        corpus = tokenize(read_documents(text), tokenizer, 96)
        plain = evaluate(model, corpus)
        assert each.text is not None
        assert each.text.loss.mean == pytest.approx(plain.nats_per_token, rel=1e-6)
        assert each.text.perplexity == pytest.approx(plain.perplexity, rel=1e-5)
        assert (each.text.tokens, each.text.windows) == (plain.tokens, len(corpus.documents))
        assert each.params == sum(p.numel() for p in model.parameters())
    small = found.models[1]
    assert small.nbytes == (folders["small"] / "model.safetensors").stat().st_size
    assert [each.compressed for each in found.models] == [False, True]
    assert small.params < found.models[0].params


def test_changes_are_paired_and_the_kl_is_that_of_the_predictions(
    folders: dict[str, Path], text: Path
) -> None:
    found = of(folders, "dense", "small", text=Text(text, window=40, stride=10))
    dense, small = (each.text for each in found.models)
    assert dense is not None and small is not None
    assert dense.change is None and dense.divergence is None
    assert small.change is not None and small.divergence is not None
    assert small.change.mean == pytest.approx(small.loss.mean - dense.loss.mean, abs=1e-6)
    assert small.change.stderr is not None and small.loss.stderr is not None
    assert small.change.stderr < small.loss.stderr
    sides = read_sides([folders["dense"], folders["small"]])
    slides = read_texts(sides, Text(text, window=40, stride=10))[0]
    models = [gacfx.load(each.source)[0] for each in found.models]
    sums = [0.0, 0]
    for ids_T, count in zip(slides.corpus.documents, slides.scored, strict=True):
        with torch.no_grad():
            logp, logq = (m(ids_T[None]).logits[0, :-1].double().log_softmax(-1) for m in models)
        sums[0] += float((logp.exp() * (logp - logq)).sum(-1)[-count:].sum())
        sums[1] += count
    assert small.divergence.mean == pytest.approx(sums[0] / sums[1], rel=1e-3)
    assert slides.tokens == sums[1] == small.tokens


def test_the_dense_model_comes_first_wherever_it_is_named(
    folders: dict[str, Path], text: Path
) -> None:
    for names in (("small", "other"), ("small", "other", "dense")):
        found = of(folders, *names, against=folders["dense"], text=Text(text))
        assert [each.name for each in found.models] == ["dense", "small", "other"]
        assert found.against
    alone = of(folders, "small", against=folders["dense"], text=Text(text))
    assert [each.name for each in alone.models] == ["dense", "small"]


def test_a_compressed_model_in_front_is_nothing_to_compare_with(
    folders: dict[str, Path], text: Path
) -> None:
    found = of(folders, "small", "dense", text=Text(text))
    assert found.dense is None and found.to_dict()["against"] is None
    for each in found.models:
        assert each.text is not None
        assert each.text.change is None and each.text.divergence is None


def test_another_tokenizer_has_no_kl_and_no_change(folders: dict[str, Path], text: Path) -> None:
    found = of(folders, "dense", "small", "words", text=Text(text))
    small, words = found.models[1:]
    assert words.text is not None and small.text is not None
    assert words.text.change is None and words.text.divergence is None
    assert words.apart.startswith(
        "its tokenizer cuts the text into other tokens than that of dense"
    )
    assert small.apart == small.no_kl == "" and small.text.divergence is not None
    assert found.tokenizers_differ and words.no_kl == "other tokens"
    model, tokenizer = gacfx.load(folders["words"])
    corpus = tokenize(read_documents(text), tokenizer, 96)
    assert words.text.loss.mean == pytest.approx(evaluate(model, corpus).nats_per_token, rel=1e-6)


def test_another_vocabulary_has_a_change_and_no_kl(folders: dict[str, Path], text: Path) -> None:
    larger = of(folders, "dense", "larger", text=Text(text)).models[1]
    assert larger.no_kl == "vocabularies of 300 and 258 tokens" and larger.apart == ""
    assert larger.text is not None
    assert larger.text.change is not None and larger.text.divergence is None


def test_nats_per_byte_are_those_of_the_predicted_text(
    folders: dict[str, Path], text: Path
) -> None:
    (side,) = read_sides([folders["dense"]])
    (slides,) = read_texts([side], Text(text, window=40, stride=10))
    # One byte for a token; <s> in front of each document is not predicted, all else is.
    assert predicted_bytes(slides, side.tokenizer) == slides.tokens
    assert slides.tokens == sum(len(document) for document in read_documents(text))
    found, _ = measure_text(folders["dense"], Text(text, window=40, stride=10))
    assert found.nats_per_byte == pytest.approx(found.loss.mean)


def test_windows_fit_the_model_with_the_fewest_positions(
    folders: dict[str, Path], text: Path
) -> None:
    found = of(folders, "dense", "short", text=Text(text))
    assert (found.window, found.stride) == (48, 48)
    with pytest.raises(CalibrationError, match="window 64: short has 48 positions; give at most"):
        of(folders, "dense", "short", text=Text(text, window=64))
    with pytest.raises(CalibrationError, match=r"stride 50: give 1 .. 40, the window"):
        of(folders, "dense", "short", text=Text(text, window=40, stride=50))


def test_a_limit_of_tokens_needs_one_tokenizer(folders: dict[str, Path], text: Path) -> None:
    few = of(folders, "dense", "small", text=Text(text, tokens=200))
    assert few.usage.startswith("evaluation: 183 of about ")
    with pytest.raises(CalibrationError, match="tokens 200: words cut the text into other tokens"):
        of(folders, "dense", "words", text=Text(text, tokens=200))


def test_a_model_without_numbers_is_said_and_does_not_end_the_comparison(
    folders: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    model = tiny.llama(layers=1)
    model.model.norm.weight.data.fill_(3e38)
    model.lm_head.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path / "broken")
    tiny.tokenizer().save_pretrained(tmp_path / "broken")
    found = compare([folders["dense"], tmp_path / "broken", folders["small"]], text=Text(text))
    broken, small = (each.text for each in found.models[1:])
    assert broken is not None and small is not None
    assert broken.loss.mean == broken.perplexity == math.inf
    assert found.problems == [f"broken: {broken.problem}"]
    assert "logits are NaN or infinite on document 1" in broken.problem
    assert small.change is not None and math.isfinite(small.change.mean)
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["models"][1]["text"]["nats_per_token"] is None
    assert said["models"][1]["text"]["change"] == {"mean": None, "stderr": None}


def test_bad_checkpoints_are_refused_before_any_is_read(
    folders: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("gacfx.comparison.side_by_side.load_dense", read)
    dense = folders["dense"]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((dense / "config.json").read_text())
    mute = tmp_path / "mute"
    tiny.llama(layers=1).save_pretrained(mute)
    cases: list[tuple[list[str | Path], str]] = [
        ([dense], "a comparison needs at least two checkpoints; name another one"),
        ([dense, folders["small"], str(dense) + "/"], "named twice; leave one out"),
        ([dense, tmp_path / "none"], "there is no such folder"),
        ([dense, bare], "has no model.safetensors"),
        ([dense, mute], "has no tokenizer to read the text with; copy its files"),
    ]
    for sources, message in cases:
        with pytest.raises(CheckpointError, match=message):
            compare(sources, text=Text(text))
    with pytest.raises(CheckpointError, match="named twice"):
        compare([dense, dense, folders["small"]], against=dense, text=Text(text))
    with pytest.raises(CalibrationError, match="nothing to compare by; give a text, or tasks"):
        compare([dense, folders["small"]])
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n\n ")
    with pytest.raises(CalibrationError, match="holds no text"):
        compare([dense, folders["small"]], text=Text(empty))


def test_folders_of_one_name_are_told_apart(
    folders: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    twin = tiny.checkpoint(tmp_path / "dense", layers=1, seed=5)
    found = compare([folders["dense"], twin, folders["small"]], text=Text(text))
    assert [each.name for each in found.models] == [str(folders["dense"]), str(twin), "small"]


def test_tasks_are_scored_as_they_are_alone(
    folders: dict[str, Path], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "lm_eval", stand_in.tools)
    monkeypatch.setattr("gacfx.comparison.side_by_side.check_installed", lambda: None)
    asked = Questions((stand_in.data("piqa", 20), stand_in.data("arc_easy", 12)), limit=10)
    found = of(folders, "dense", "small", questions=asked)
    assert found.usage == "" and found.window is None
    for each in found.models:
        alone = score(*gacfx.load(each.source), asked.tasks, limit=10, name=each.name)
        assert each.tasks == alone
    dense, small = found.models
    change = small.changes(dense, "acc")
    assert small.tasks is not None and dense.tasks is not None
    for place, mean in enumerate(change):
        apart = small.tasks.tasks[place].acc.mean - dense.tasks.tasks[place].acc.mean
        assert mean.mean == pytest.approx(apart)
    said = found.to_dict()["models"]
    assert said[0]["zero_shot"].get("change") is None
    assert said[1]["zero_shot"]["change"]["piqa"]["acc"] == pytest.approx(change[0].mean)
    both = of(folders, "dense", "small", questions=asked, text=Text(text))
    assert [each.tasks for each in both.models] == [each.tasks for each in found.models]
    assert all(each.text is not None for each in both.models)


def test_without_lm_eval_nothing_is_read(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    asked = Questions(read_tasks(["piqa"]))
    with pytest.raises(NoLmEval, match="zero-shot tasks need lm-eval"):
        of(folders, "dense", "small", questions=asked)


def test_the_losses_of_one_model(folders: dict[str, Path], text: Path) -> None:
    found, slides = measure_text(folders["small"], Text(text))
    model, tokenizer = gacfx.load(folders["small"])
    corpus = tokenize(read_documents(text), tokenizer, 96)
    assert slides.corpus.digest == corpus.digest
    losses = token_losses(model, corpus)
    assert found.loss.mean == pytest.approx(float(torch.cat(losses).double().mean()), rel=1e-6)
    assert found.loss.stderr is not None and found.change is None
