"""``pad_`` and ``gacfx pad``: what they refuse, what they leave alone, and what they print."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import gacfx
from gacfx import padding
from gacfx.cli import main
from gacfx.errors import CheckpointError, UnsupportedModel
from gacfx.padding import pad_, save_padded
from gacfx.report.padding_view import padding_view
from tests.families.odd import ODD
from tests.families.zoo import FAMILIES


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in after)


def printed(found: padding.Padding) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(padding_view(found))
    return console.export_text()


def test_an_aligned_model_is_left_alone() -> None:
    model: Any = FAMILIES["llama"].make()
    before, modules = state(model), dict(model.named_modules())
    found = pad_(model, align=8)
    assert (found.changes, found.left, found.stuck) == ((), {}, False)
    assert found.after is found.before
    assert unchanged(model, before)
    assert dict(model.named_modules()) == modules
    assert not hasattr(model.config, "quantization_config")


def test_a_part_that_would_compute_something_else_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ODD["qwen3"].make()
    before, config = state(model), model.config.to_dict()
    scale = model.model.layers[0].self_attn.scaling
    monkeypatch.setattr(padding, "TOLERANCE", -1.0)
    found = pad_(model, align=8)
    assert found.changes == ()
    assert found.stuck
    assert "computes something else" in found.left["model.layers.0.mlp"]
    why = found.left["model.layers.0.self_attn"]
    assert "computes something else" in why
    assert "end: the model does not run: " in why
    assert unchanged(model, before)
    assert model.config.to_dict() == config
    assert model.model.layers[0].self_attn.scaling == scale
    assert model.model.layers[0].self_attn.head_dim == 10
    assert type(model.model.rotary_emb).__name__ == "Qwen3RotaryEmbedding"


def test_attentions_that_are_not_understood_keep_their_reason() -> None:
    import transformers

    config = transformers.Olmo2Config(**ODD["llama"].settings)
    model = transformers.Olmo2ForCausalLM(config).eval()
    found = pad_(model, align=8)
    assert [each.what for each in found.changes] == ["MLP width"]
    assert "q_norm.weight" in found.left["model.layers.0.self_attn"]


def test_layer_norms_of_a_head_are_left_alone() -> None:
    import transformers

    settings = {**ODD["phi"].settings, "qk_layernorm": True}
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**settings)).eval()
    found = pad_(model, align=8)
    assert [each.what for each in found.changes] == ["MLP width"]
    why = found.left["model.layers.0.self_attn"]
    assert why.count("q_layernorm is a LayerNorm over each head") == 1


def test_a_weight_of_two_layers_is_left_alone() -> None:
    model = ODD["llama"].make()
    first, second = model.model.layers
    second.mlp.down_proj.weight = first.mlp.down_proj.weight
    before = state(model)
    found = pad_(model, align=8, heads=False)
    assert found.changes == ()
    assert unchanged(model, before)
    assert "mlp.down_proj" in printed(found).partition("below tier 1 still: ")[2]


def test_models_that_are_refused() -> None:
    model = ODD["llama"].make()
    with pytest.raises(UnsupportedModel, match="training mode"):
        pad_(model.train())
    with pytest.raises(UnsupportedModel, match="align 0"):
        pad_(model.eval(), align=0)
    with pytest.raises(UnsupportedModel, match="no values"):
        pad_(ODD["llama"].make().to("meta"))
    pad_(model, align=8)
    with pytest.raises(UnsupportedModel, match="compressed or padded by gacfx already"):
        pad_(model, align=16)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not empty"):
        save_padded(ODD["llama"].make(), tmp_path)


def test_the_names_of_the_package() -> None:
    assert gacfx.pad_ is pad_
    assert gacfx.save_padded is save_padded


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ODD["llama"].make().save_pretrained(tmp_path / "odd")
    odd, out, more = (str(tmp_path / name) for name in ("odd", "out", "more"))
    assert main(["pad", odd, out, "--align", "8"]) == 0
    said = capsys.readouterr().out
    for text in ("91 -> 96", "10 -> 16", "halves", "before", "after", "zeros all", "import gacfx"):
        assert text in said
    assert main(["verify", out]) == 0
    assert main(["inspect", out]) == 0
    assert "heads x 16" in capsys.readouterr().out
    assert main(["pad", odd, out, "--align", "8"]) == 1
    assert main(["pad", out, more]) == 1
    assert "already" in capsys.readouterr().err
    assert not Path(more).exists()
    assert main(["pad", odd, more, "--align", "8", "--widths-only", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["what"] for each in found["changes"]] == ["MLP width"]
    assert found["needs_gacfx"] is False
    again = str(tmp_path / "again")
    assert main(["pad", more, again, "--align", "8", "--widths-only"]) == 0
    assert "nothing to pad" in capsys.readouterr().out
    assert not Path(again).exists()
