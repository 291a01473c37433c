"""``slice_hidden``, ``save_sliced`` and ``gacfx slice``: what they give, write and refuse."""

import json
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import gacfx
from gacfx.calibration.text import Corpus
from gacfx.cli import main
from gacfx.compressors.methods import METHODS
from gacfx.errors import (
    CalibrationError,
    CheckpointError,
    PipelineError,
    PlanError,
    PoorQuality,
    ProfileError,
    UnsupportedModel,
)
from gacfx.report.slicing_view import slicing_view
from gacfx.slicing import door
from gacfx.slicing.door import taken_apart
from gacfx.slicing.moments import gather_moments, regressions
from tests import tiny
from tests.few import few
from tests.unit.slicing.stream_models import turned
from tests.unit.slicing.test_slicing_folding import some_basis


def corpus(windows: int = 8, tokens: int = 40) -> Corpus:
    draw = torch.Generator().manual_seed(5)
    ids = [torch.randint(3, 97, (tokens - at,), generator=draw) for at in range(windows)]
    return Corpus(tuple(ids))


def asked(model: Any, **more: Any) -> Any:
    given = {"calibration": corpus(), "ratio": 0.2, "align": 4, "force": True, **more}
    return gacfx.slice_hidden(model, **given)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.arange(3, 15)[None], use_cache=False).logits
    return found


def test_a_sliced_model_is_within_its_budget_and_the_next_size_is_not() -> None:
    model = turned("tied")
    before = sum(each.numel() for each in model.parameters())
    sliced = asked(model)
    after = sum(each.numel() for each in sliced.model.parameters())
    said = sliced.to_dict()
    assert after == said["params"] <= 0.8 * before < said["next_params"]
    assert said["removed"] == pytest.approx(1 - after / before)
    assert said["hidden_size"] == {"before": 48, "after": sliced.model.config.hidden_size}
    assert said["hidden_size"]["after"] % 12 == 0  # of 4, and of the heads
    assert said["untied_params"] == 97 * said["hidden_size"]["after"]
    assert said["nats_per_token"] - said["dense_nats_per_token"] == said["rise"]
    assert json.loads(json.dumps(said)) == said
    assert 0 < said["kept_energy"] < 1


def test_the_folder_is_read_by_plain_transformers(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    sliced = asked(turned("tied"))
    gacfx.save_sliced(sliced, tmp_path / "out")
    again: Any = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(again), logits(sliced.model))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_size"], config["head_dim"]) == (sliced.size.hidden, 8)
    assert config["tie_word_embeddings"] is False
    assert "quantization_config" not in config
    with pytest.raises(CheckpointError, match="exists|overwrite|not empty"):
        gacfx.save_sliced(sliced, tmp_path / "out")
    gacfx.save_sliced(sliced, tmp_path / "out", overwrite=True)


def test_a_folder_that_gives_other_logits_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sliced, other = asked(turned("llama")), turned("llama")
    monkeypatch.setattr(door, "load_dense", lambda _: (other, None))
    with pytest.raises(CheckpointError, match="gives other logits"):
        gacfx.save_sliced(sliced, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_all_directions_give_the_dense_model_back() -> None:
    model = turned("llama")
    sliced = asked(model, ratio=0, align=48)
    assert sliced.size.hidden == 48
    assert (sliced.size.next_params, sliced.size.untied_params) == (None, 0)
    assert sliced.kept_energy == pytest.approx(1)
    torch.testing.assert_close(logits(sliced.model), logits(model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "phi, parallel, LayerNorm, shift"])
def test_refitted_readers_are_the_least_squares_of_what_they_read(name: str) -> None:
    model = turned(name)
    found, text = taken_apart(model), corpus()
    basis = some_basis(found, 24)
    reads = regressions(model, text, found.forms, basis)
    norm = found.residual.norms[1]
    seen: list[Tensor] = []
    hook = model.get_submodule(norm).register_forward_pre_hook(
        lambda _m, args: seen.append(args[0].detach().flatten(0, -2))
    )
    for ids_T in text.documents:
        model(ids_T[None], use_cache=False)
    hook.remove()
    x = torch.cat(seen).double()

    def unit(rows: Tensor) -> Tensor:
        rows = rows - rows.mean(-1, keepdim=True) if found.centred else rows
        return rows / (rows.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    z = unit(x @ basis.projector.T) @ basis.write_DH.T

    def error(read: Tensor) -> float:
        return float((unit(x) - z @ read.T).square().sum())

    exact = torch.linalg.lstsq(z, unit(x), driver="gelsd").solution.T
    assert error(reads[norm]) == pytest.approx(error(exact), rel=1e-2)
    assert error(reads[norm]) < 0.98 * error(basis.read_HD)


def test_moments_are_those_of_the_normalised_stream_and_its_gradient() -> None:
    model = turned("llama")
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.linspace(0.1, 4.0, 48))
    found, text = taken_apart(model), corpus(4)
    moments = gather_moments(model, text, found.forms, found.embedding, gradients=True)
    for each in moments.values():
        assert float(each.moment_HH.trace()) == pytest.approx(48, rel=1e-2)
        assert each.gradient_HH is not None and float(each.gradient_HH.trace()) > 0
    name = found.residual.norms[-1]
    # At the last norm gradients are known: (p - onehot) W gain, of labels that are drawn from p.
    probable = gather_moments(model, text, found.forms, found.embedding, gradients=False)
    assert probable[name].gradient_HH is None
    assert torch.allclose(probable[name].moment_HH, moments[name].moment_HH)
    head = model.lm_head.weight.detach().double() * found.forms[name].gain_H
    expected = torch.zeros(48, 48, dtype=torch.float64)
    for ids_T in text.documents:
        p = model(ids_T[None], use_cache=False).logits[0].detach().double().softmax(-1)
        centre = p @ head
        expected += head.T @ (p.sum(0)[:, None] * head) - centre.T @ centre
    expected /= text.tokens
    assert float(moments[name].gradient_HH.trace()) == pytest.approx(  # type: ignore[union-attr]
        float(expected.trace()), rel=0.2
    )


@pytest.mark.parametrize(
    ("rotation", "readers"),
    few(
        [*product(("two-sided", "pca"), ("refitted", "rotated"))],
        ("two-sided", "rotated"),
        ("pca", "refitted"),
    ),
)
def test_every_choice_runs_and_is_said(rotation: Any, readers: Any) -> None:
    sliced = asked(turned("tied"), rotation=rotation, readers=readers)
    assert (sliced.rotation, sliced.readers) == (rotation, readers)
    console = Console(width=80, record=True, file=StringIO())
    console.print(slicing_view(sliced))
    text = " ".join(console.export_text().split())
    assert f"rotation {rotation}, readers {readers}" in text
    assert f"{sliced.size.next_params:,}" in text and "tie_word_embeddings" in text


def test_a_loss_that_rises_too_much_is_refused() -> None:
    model = tiny.llama()
    with pytest.raises(PoorQuality, match="the loss would rise by .* with a hidden size of"):
        asked(model, ratio=0.5, max_loss=1e-9, force=False)


@pytest.mark.parametrize(
    ("more", "error", "why"),
    [
        ({"ratio": "x"}, PlanError, "ratio"),
        ({"ratio": 1.5}, PlanError, "below 1"),
        ({"align": 0}, PlanError, "align"),
        ({"rotation": "best"}, PlanError, "choose one of two-sided, pca"),
        ({"readers": "best"}, PlanError, "choose one of refitted, rotated"),
        ({"max_loss": 0}, PlanError, "max_loss 0"),
        ({"align": None, "gpu": "abacus"}, ProfileError, "abacus"),
        ({"calibration": corpus(1)}, CalibrationError, "cannot be split"),
        ({"calibration": ["text"]}, CalibrationError, "tokenizer"),
    ],
)
def test_what_cannot_be_asked_for(more: dict[str, Any], error: Any, why: str) -> None:
    with pytest.raises(error, match=why):
        asked(turned("llama"), **more)


def test_models_that_are_not_ready_are_refused() -> None:
    model = turned("llama")
    with pytest.raises(UnsupportedModel, match="training mode"):
        asked(model.train())
    with pytest.raises(UnsupportedModel, match="no values"):
        asked(turned("llama").to("meta"))
    with pytest.raises(UnsupportedModel, match="no configuration"):
        asked(torch.nn.Linear(3, 3))
    with pytest.raises(UnsupportedModel, match="is no model"):
        asked("folder")
    broken = turned("llama")
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        asked(broken)


def test_without_an_align_the_profile_says_it() -> None:
    model = turned("llama")
    assert door.align_of(model, None, "h200") == 4
    assert door.align_of(model.bfloat16(), None, "h200") == 8
    assert door.align_of(model, 6, "h200") == 6


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("slice")
    tiny.checkpoint(made / "dense", tie_word_embeddings=True)
    tiny.text_file(made / "text.txt", 12)
    return made


def words(folder: Path, *more: str) -> list[str]:
    text = str(folder / "text.txt")
    return ["slice", str(folder / "dense"), "--calibration", text, "--align", "8", *more]


def test_the_command_writes_a_folder_and_says_what_it_did(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = folder / "out"
    assert main(words(folder, "--out", str(out), "--ratio", "0.3", "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    again: Any = AutoModelForCausalLM.from_pretrained(out)
    assert again.config.hidden_size == said["hidden_size"]["after"] < 64
    assert sum(each.numel() for each in again.parameters()) == said["params"]
    assert AutoTokenizer.from_pretrained(out)("cat")["input_ids"]
    assert main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert main(words(folder, "--out", str(out))) == 1
    assert "overwrite" in capsys.readouterr().err
    assert main(words(folder, "--out", str(out), "--overwrite", "--ratio", "0.3")) == 0
    assert "it needs no gacfx" in capsys.readouterr().out


def test_the_exit_codes_are_those_of_the_other_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "poor"
    assert main(words(folder, "--out", str(out), "--ratio", "0.5", "--max-loss", "1e-9")) == 4
    assert "would rise" in capsys.readouterr().err
    assert main(words(folder, "--out", str(out), "--ratio", "2")) == 1
    assert main(words(folder, "--out", str(folder / "dense"), "--overwrite")) == 1
    assert not out.exists()
    with pytest.raises(SystemExit) as stopped:
        main(words(folder))
    assert stopped.value.code == 2


def test_the_method_is_listed_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "slicegpt"]) == 0
    assert "gacfx slice" in capsys.readouterr().out
    assert main(["methods", "slicegpt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["door"] == "gacfx slice"
    assert main(["methods", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["whole"]] == ["slicegpt"]
    with pytest.raises(PipelineError, match="a command of its own: gacfx slice"):
        METHODS.find("slicegpt")
