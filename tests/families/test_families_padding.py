"""Padding loses nothing: every family, in memory, saved and loaded again, while it generates."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from gacfx.modules.blocks import blocks_in
from gacfx.modules.install import decisions_in
from gacfx.padding import pad_, save_padded
from gacfx.tracing.skeleton import read_config, skeleton
from tests import stock
from tests.families.odd import ODD, WIDTH
from tests.families.test_families_narrow_reload import WITHOUT
from tests.families.zoo import VOCAB
from tests.few import few

NORMS = ("qwen3", "gemma3")
"""Their norms of a head compute in float32, so they agree to that."""


def tokens() -> Tensor:
    return torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))


def logits64(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = copy.deepcopy(model).double()(tokens()).logits
    return found


def generated(model: Any, **more: Any) -> list[list[int]]:
    ids = tokens()
    mask = torch.ones_like(ids)
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=16, do_sample=False, eos_token_id=None, **more
    )
    found: list[list[int]] = out.tolist()
    return found


def width_of(config: Any) -> int:
    names = ("intermediate_size", "n_inner", "ffn_dim")
    found: int = next(getattr(config, name) for name in names if hasattr(config, name))
    return found


@pytest.mark.parametrize(
    "family", few(ODD, "llama", "qwen3", "cohere", "phi3 partial", "gptneox odd", "gpt2")
)
def test_nothing_changes_but_sizes(family: str, tmp_path: Path) -> None:
    odd = ODD[family]
    model = odd.make()
    before, text = logits64(model), generated(model)
    assert generated(model, use_cache=False) == text
    padding = pad_(model, align=8)
    assert padding.left == {}
    assert [(each.what, each.fitting.old, each.fitting.new) for each in padding.changes] == [
        ("MLP width", WIDTH, 96),
        ("head dim", odd.head_dim, 8 if odd.head_dim == 7 else 16),
    ]
    assert padding.changes[1].layout == odd.layout
    gap = (logits64(model) - before).abs().max() / before.abs().max()
    assert gap < (1e-6 if family in NORMS else 1e-14)
    assert generated(model) == text
    assert generated(model, cache_implementation="static") == text
    with torch.no_grad():
        logits = model(tokens()).logits
    save_padded(model, tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(back(tokens()).logits, logits)
    assert generated(back) == text
    assert blocks_in(back) == blocks_in(model)
    assert decisions_in(back) == decisions_in(model)
    assert width_of(back.config) == 96
    empty = skeleton(read_config(tmp_path / "out"))
    shapes = {name: tensor.shape for name, tensor in back.state_dict().items()}
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == shapes


def test_eager_attention_too() -> None:
    model = ODD["llama"].make()
    model.set_attn_implementation("eager")
    before = logits64(model)
    pad_(model, align=8)
    torch.testing.assert_close(logits64(model), before, rtol=0, atol=1e-12)


def test_half_precision_and_its_own_choice(tmp_path: Path) -> None:
    ODD["llama"].make().save_pretrained(tmp_path / "odd")
    kwargs: Any = {"dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "odd", **kwargs).eval()
    with torch.no_grad():
        before = model(tokens()).logits
    padding = pad_(model, gpu="a100", seq=64)
    assert padding.changes
    assert padding.after.latency_us < padding.before.latency_us
    assert max(each.difference for each in padding.changes) < 1e-14
    with torch.no_grad():
        gap = (model(tokens()).logits - before).abs().max() / before.abs().max()
    assert gap < 0.02
    save_padded(model, tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert back.dtype == torch.bfloat16
    assert generated(back) == generated(model)


def test_the_body_alone_and_saving_what_was_loaded(tmp_path: Path) -> None:
    model = ODD["qwen3"].make()
    pad_(model, align=8)
    model.save_pretrained(tmp_path / "one")
    AutoModelForCausalLM.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    body = AutoModel.from_pretrained(tmp_path / "two").eval()
    with torch.no_grad():
        want = model.model(tokens()).last_hidden_state
        assert torch.equal(body(tokens()).last_hidden_state, want)


def test_widths_alone_need_no_gacfx(tmp_path: Path) -> None:
    model = ODD["llama"].make()
    before = logits64(model)
    padding = pad_(model, align=8, heads=False)
    assert [each.what for each in padding.changes] == ["MLP width"]
    assert not padding.needs_gacfx
    save_padded(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["intermediate_size"] == 96
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    torch.testing.assert_close(logits64(model), before, rtol=0, atol=1e-12)


def test_longer_heads_need_gacfx_and_plain_transformers_refuses_them(tmp_path: Path) -> None:
    folders = []
    for family, heads in (("llama", False), ("llama", True), ("gpt2", True)):
        model = ODD[family].make()
        pad_(model, align=8, heads=heads)
        folders.append(str(tmp_path / f"{family}-{heads}"))
        save_padded(model, folders[-1])
    done = stock.run(WITHOUT, *folders)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["loaded", "refused", "refused"]
