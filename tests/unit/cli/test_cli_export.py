"""``gacfx export``: checkpoints as folders that need no gacfx, and its refusals."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import gacfx
from gacfx.checkpoint.hf import declare_
from gacfx.cli import main
from gacfx.core.decision import LowRank
from gacfx.exports.targets import TARGETS
from gacfx.modules.install import install_
from tests import tiny
from tests.families.narrow import decision_of, mlp, plan_of
from tests.families.zoo import FAMILIES
from tests.unit.checkpoint.tiny_models import factors_for


def pruned(folder: Path, *layers: int) -> Any:
    """A checkpoint with half the channels in these layers."""
    model: Any = FAMILIES["llama"].make()
    blocks = [mlp(model, "llama", layer) for layer in layers]
    kept = tuple(range(44))
    gacfx.apply_(model, plan_of(model, *((one, decision_of(one, kept)) for one in blocks)))
    model.save_pretrained(folder)
    return model


def test_a_plain_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pruned(tmp_path / "small", 0, 1)
    command = ["export", str(tmp_path / "small"), str(tmp_path / "out"), "--to", "plain"]
    assert main(command) == 0
    assert "an ordinary checkpoint of a smaller model" in capsys.readouterr().out
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    inputs = FAMILIES["llama"].inputs()
    assert torch.equal(back(**inputs).logits, model(**inputs).logits)
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert main(command) == 1
    assert "out" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_numbers_for_each_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruned(tmp_path / "small", 1)
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "small"), str(out), "--to", "plain"]) == 1
    said = capsys.readouterr().err
    assert "model.layers.0 has width 88, model.layers.1 has width 44" in said
    assert main(["export", str(tmp_path / "small"), str(out), "--to", "per-layer-config"]) == 0
    config = json.loads((out / "config.json").read_text())
    widths = [one["ffn"]["intermediate_size"] for one in config["block_configs"]]
    assert widths == [88, 44]


def test_the_format_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "small", "out"])
    assert caught.value.code == 2
    assert "--to" in capsys.readouterr().err


def factored(folder: Path) -> Any:
    """A checkpoint with low ranks, and its tokenizer."""
    model = tiny.llama(hidden=32, width=48)
    install_(model, factors_for(model, ("q_proj", "down_proj"), kind=LowRank))
    declare_(model)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model


def test_a_graph_of_torch_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = factored(tmp_path / "small"), tmp_path / "out"
    command = ["export", str(tmp_path / "small"), str(out), "--to", "pt2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "torch.export.load, with torch alone; its logits differ by at most 0 of" in said
    ids = torch.tensor([[3, 4, 5]])
    program = torch.export.load(out / "model.pt2").module()
    assert torch.equal(program(input_ids=ids), model(ids).logits)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert {"tokenizer.json", "generation_config.json"} <= {path.name for path in out.iterdir()}
    assert main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert main(command) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--dtype", "bf16"]) == 0
    again = torch.export.load(out / "model.pt2").module()
    assert again(input_ids=ids).dtype == torch.bfloat16


def test_products_multiplied_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = factored(tmp_path / "small")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "small"), str(out), "--to", "dense"]) == 0
    before, after = model.num_parameters(), tiny.llama(hidden=32, width=48).num_parameters()
    said = capsys.readouterr().out
    assert f"{before:,} parameters became {after:,}" in said
    assert "save neither memory nor time" in said
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() == after


def test_a_dense_checkpoint_is_exported_but_has_no_products(
    tmp_path: Path, narrow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(narrow), str(tmp_path / "pt2"), "--to", "pt2"]) == 0
    assert main(["export", str(narrow), str(tmp_path / "dense"), "--to", "dense"]) == 1
    assert "has no low rank and no pivot to multiply out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pt2"]


def test_half_precision_on_a_cpu_names_the_option(
    tmp_path: Path, narrow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra gacfx[onnx]")
    model = AutoModelForCausalLM.from_pretrained(narrow, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    command = ["export", str(tmp_path / "half"), str(tmp_path / "out"), "--to", "onnx"]
    assert main(command) == 1
    assert "--dtype fp32" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_cache_goes_out_as_well(
    tmp_path: Path, narrow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra gacfx[onnx]")
    onnxruntime: Any = pytest.importorskip("onnxruntime", reason="needs the extra gacfx[onnx]")
    command = ["export", str(narrow), str(tmp_path / "out"), "--to", "onnx"]
    assert main([*command, "--dtype", "fp32", "--cache"]) == 0
    assert "loaded by ONNX Runtime" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert session.get_outputs()[-1].name == "present.1.value"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["small", "out", "--to", "gguf"], 2, "invalid choice: 'gguf'"),
        (["small", "out", "--to", "pt2", "--cache"], 2, "--cache goes with --to onnx, openvino"),
        (["small", "out.pt2", "--to", "pt2"], 1, "exports are folders"),
        (["missing", "out", "--to", "pt2"], 1, "missing"),
        ([".", "out", "--to", "pt2"], 1, "config.json"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        found = main(["export", *words])
    except SystemExit as error:
        found = error.code  # type: ignore[assignment]
    assert found == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "missing", "out", "--to", "onnx"]) == 1
    assert "onnxscript: pip install 'gacfx[onnx]'" in capsys.readouterr().err


def test_help_names_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: {target.what}" in said for name, target in TARGETS.items())
