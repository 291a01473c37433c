"""torchao after gacfx: what is quantized, at which error, and back. Before gacfx: refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import gacfx
from gacfx import api
from gacfx.calibration import running
from gacfx.calibration.evaluate import evaluate
from gacfx.core.quantized import held_otherwise
from gacfx.errors import CheckpointError
from gacfx.modules.install import compressed_modules
from tests import tiny
from tests.unit.compose import compressed

pytest.importorskip("torchao", reason="torchao is not installed: make test-quant")

from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    quantize_,
)
from torchao.quantization.granularity import PerGroup

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torchao.*")
FORMATS: dict[str, tuple[Callable[[], Any], float]] = {
    "int8": (Int8WeightOnlyConfig, 0.02),
    "float8": (Float8WeightOnlyConfig, 0.08),
}
"""Format -> configuration, most that the logits of the compressed model change by, relative."""


def int4(group: int) -> Any:
    return IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, "int4"),  # noqa: B009 - unknown to the stubs
        granularity=PerGroup(group),
    )


def quantized(name: str) -> Any:
    model = compressed.small()
    quantize_(model, FORMATS[name][0]())
    return model


# -- after gacfx -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_product_of_a_compressed_model_is_quantized(name: str) -> None:
    model = compressed.small()
    want, inside = compressed.logits(model), compressed.linears(model)
    assert len(compressed_modules(model)) == 4 and len(inside) == 2 * 7 + 4
    quantize_(model, FORMATS[name][0]())
    held = held_otherwise(model)
    assert held.keys() >= {f"{linear}.weight" for linear in inside}
    assert len(held) == len(inside) + 1  # the head
    assert 0 < compressed.error(compressed.logits(model), want) < FORMATS[name][1]
    tokens = model.generate(compressed.ids(), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert tokens.shape == (3, 21)


def test_a_plan_for_groups_can_be_quantized_in_groups_and_another_one_cannot() -> None:
    made: dict[str, Any] = {}
    for quant in ("int4-g128", None):
        model = tiny.llama(hidden=256, width=512, layers=1)
        search = gacfx.Search(quant=quant, value="two-sided")
        planned = api.plan(
            model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.3", search=search
        )
        made[str(quant)] = gacfx.apply(model, planned)
    sizes = {size for m in made["int4-g128"].modules() for size in _ranks(m)}
    assert sizes and not any(size % 128 for size in sizes)
    want = compressed.logits(made["int4-g128"])
    quantize_(made["int4-g128"], int4(128))
    assert 0 < compressed.error(compressed.logits(made["int4-g128"]), want) < 1
    assert any(size % 128 for m in made["None"].modules() for size in _ranks(m))
    with pytest.raises(AssertionError, match="divisible"):
        quantize_(made["None"], int4(128))


def _ranks(module: nn.Module) -> list[int]:
    """K of the products inside a compressed layer."""
    inside = [m for m in module.children() if type(m) is nn.Linear]
    return [m.in_features for m in inside] if compressed_modules(module).keys() == {""} else []


@pytest.mark.parametrize("name", FORMATS)
def test_quantizing_what_is_loaded_is_quantizing_what_was_saved(name: str, tmp_path: Path) -> None:
    folder = compressed.folder(tmp_path / "small")
    again = AutoModelForCausalLM.from_pretrained(folder)
    quantize_(again, FORMATS[name][0]())
    assert torch.equal(compressed.logits(again), compressed.logits(quantized(name)))


@pytest.mark.parametrize("name", FORMATS)
def test_the_state_of_a_quantized_model_comes_back_into_the_compressed_one(
    name: str, tmp_path: Path
) -> None:
    model, folder = quantized(name), compressed.folder(tmp_path / "small")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = AutoModelForCausalLM.from_pretrained(folder)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), assign=True)
    assert torch.equal(compressed.logits(again), compressed.logits(model))
    assert held_otherwise(again) == held_otherwise(model)


def test_a_quantized_model_is_not_saved_as_a_compressed_folder(tmp_path: Path) -> None:
    made = api.compress(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.3")
    quantize_(made.model, Int8WeightOnlyConfig())
    with pytest.raises(
        CheckpointError, match=r"is no plain tensor, but Int8Tensor of torchao; .* save, and"
    ):
        gacfx.save(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_transformers_does_not_quantize_while_it_loads_a_compressed_folder(tmp_path: Path) -> None:
    from transformers import TorchAoConfig

    folder = compressed.folder(tmp_path / "small")
    with pytest.raises(ValueError, match="quantized with GacfxConfig but you are passing a Torch"):
        AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
        )


def test_a_compressed_graph_is_quantized_by_pt2e() -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    inputs = {"input_ids": compressed.ids(), "use_cache": False}
    gm = gacfx.apply(gacfx.capture(compressed.dense()), compressed.plan())
    want = gm(**inputs)[0]
    rules = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(gm, rules)
    prepared(**inputs)
    found = convert_pt2e(prepared)
    steps = [n for n in found.graph.nodes if "quantize_per" in str(n.target)]
    assert len(steps) > len(compressed.linears(compressed.small()))
    assert 0 < compressed.error(found(**inputs)[0], want) < 0.05


# -- before gacfx ----------------------------------------------------------------------------------


def test_a_folder_that_torchao_quantized_is_loaded_and_evaluated_and_shown(tmp_path: Path) -> None:
    from transformers import TorchAoConfig

    source = tiny.checkpoint(tmp_path / "dense")
    asked = TorchAoConfig(Int8WeightOnlyConfig())
    AutoModelForCausalLM.from_pretrained(source, quantization_config=asked).save_pretrained(
        tmp_path / "int8"
    )
    tiny.tokenizer().save_pretrained(tmp_path / "int8")
    model, tokenizer = gacfx.load(tmp_path / "int8")
    assert set(held_otherwise(model).values()) == {"Int8Tensor of torchao"}
    judged = evaluate(model, api.read_calibration(tiny.texts(), model, tokenizer))
    assert 4 < judged.checked().nats_per_token < 7
    seen = [gacfx.inspect(each) for each in (source, tmp_path / "int8", model)]
    assert [each.stored for each in seen] == ["", "", "14 of 21 as Int8Tensor of torchao"]
    assert str(seen[1].stored_as).startswith("torchao")
    assert seen[0].folded() == seen[1].folded() == seen[2].folded()


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantized_model_is_refused_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = api.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    model = tiny.llama()
    quantize_(model, FORMATS[name][0]())
    before = dict(model.named_parameters())
    monkeypatch.setattr(nn.Module, "__call__", None)  # no forward
    text: dict[str, Any] = {"calibration": tiny.texts(), "ratio": "0.2"}
    doors: list[Callable[[], object]] = [
        lambda: api.compress(model, tiny.tokenizer(), **text),
        lambda: api.plan(model, tiny.tokenizer(), **text),
        lambda: api.plan(model, tiny.tokenizer(), **text, work=tmp_path / "work"),
        lambda: gacfx.apply(model, planned),
        lambda: gacfx.apply_(model, planned),
        lambda: gacfx.pad_(model),
    ]
    for door in doors:
        with pytest.raises(
            CheckpointError, match=r"q_proj\.weight: is no plain tensor, but \w+ of torchao"
        ):
            door()
    assert dict(model.named_parameters()) == before and not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bfloat16", [True, False], ids=["with products", "without products"])
def test_a_quantized_model_in_half_precision_is_evaluated_on_any_cpu(
    name: str, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "multiplies_bfloat16", lambda: bfloat16)
    plain, model = (tiny.llama(vocab_size=40_000).bfloat16() for _ in range(2))
    quantize_(model, FORMATS[name][0]())
    text = api.read_calibration(tiny.texts(), model, tiny.tokenizer())
    found, want = (evaluate(each, text).checked().nats_per_token for each in (model, plain))
    assert 0 < abs(found - want) < 0.05


def test_a_deepcopy_of_a_quantized_model_is_one() -> None:
    model = quantized("int8")
    twin = copy.deepcopy(model)
    assert held_otherwise(twin) == held_otherwise(model)
    assert torch.equal(compressed.logits(twin), compressed.logits(model))
