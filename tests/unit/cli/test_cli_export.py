"""``gacfx export``: pruned checkpoints as folders that need no gacfx, and its refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import gacfx
from gacfx.cli import main
from tests.families.narrow import decision_of, mlp, plan_of
from tests.families.zoo import FAMILIES


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
