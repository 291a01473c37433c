"""A compressed checkpoint in other hands: without gacfx, cast, trained, adapted, distributed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from gacfx.checkpoint.hf import GacfxConfig
from gacfx.checkpoint.load import load_checkpoint, load_dense
from gacfx.checkpoint.save import save_checkpoint
from gacfx.cli import main
from gacfx.errors import CheckpointError
from gacfx.modules.carrier import NOTICE
from gacfx.modules.install import compressed_modules, install_
from tests import stock, tiny
from tests.unit.checkpoint.tiny_models import factors_for, llama, plan_for, token_ids

FIRST = Path(__file__).parents[2] / "fixtures" / "checkpoint-format-1"
"""Written by the first code that wrote checkpoints: 2 layers, without the notice."""
FIRST_LOGITS = [-0.031164012849330902, 0.054273735731840134, -0.08412691205739975]
"""Of the last of the ids 3 .. 10, by the model that was saved there."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(llama(), tmp_path_factory.mktemp("hands") / "model")


def save(model: PreTrainedModel, out: Path) -> Path:
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    install_(model, factors)
    return save_checkpoint(model, None, out, plan=plan, factors=factors)


def plain(folder: Path, **settings: Any) -> Any:
    """What other people's programs do."""
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


def block(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text()).get("quantization_config")


# -- item 1: without gacfx ------------------------------------------------------------------------

STOCK = """
import sys, torch
from transformers import AutoModelForCausalLM
def weight():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], ignore_mismatched_sizes=True)
    return model.model.layers[0].self_attn.q_proj.weight
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
except RuntimeError as error:
    print("STOPPED", error)
print("RANDOM", not torch.equal(weight(), weight()), "gacfx" in sys.modules)
"""


def test_item_1_without_gacfx_the_load_stops_and_says_what_to_do(saved: Path) -> None:
    done = stock.run(STOCK, str(saved))
    assert done.returncode == 0 and "STOPPED" in done.stdout, done.stderr[-2000:]
    assert f"self_attn.q_proj.{NOTICE}" in done.stderr
    # It cannot be prevented that somebody asks for random weights; docs/file-format.md says so.
    assert "RANDOM True False" in done.stdout


def test_item_1_checkpoints_of_the_first_format_load_without_complaint(tmp_path: Path) -> None:
    assert block(FIRST)["format_version"] == 1
    model, info = plain(FIRST, output_loading_info=True)
    assert not any(info.values())
    ids = torch.arange(3, 11)[None]
    for found in (model, load_checkpoint(FIRST), load_dense(FIRST)[0]):
        assert len(compressed_modules(found)) == 4
        torch.testing.assert_close(found(ids).logits[0, -1, :3], torch.tensor(FIRST_LOGITS))
    model.save_pretrained(tmp_path)
    again, info = plain(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert sum(name.endswith(NOTICE) for name in again.state_dict()) == 4


# -- item 3: casts and what follows from "quantized" ----------------------------------------------


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        ("half", torch.float16),
        ("float", torch.float32),
        ("double", torch.float64),
        ("bfloat16", torch.bfloat16),
    ],
)
def test_item_3_casts_after_loading(saved: Path, cast: str, dtype: torch.dtype) -> None:
    for model in (getattr(plain(saved), cast)(), plain(saved).to(dtype)):
        floats = [t for t in model.state_dict().values() if t.is_floating_point()]
        assert {t.dtype for t in floats} == {dtype}
        assert model(token_ids()).logits.dtype == dtype


def test_item_3_nothing_of_a_quantized_model_is_left_but_the_block(
    saved: Path, tmp_path: Path
) -> None:
    model = plain(saved).half()
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        assert not hasattr(model, name)
    assert not hasattr(model.config, "_is_quantized")
    with pytest.raises(ValueError, match="first quantize your model"):
        model.dequantize()
    model.save_pretrained(tmp_path)
    assert block(tmp_path) == block(saved)
    halves = plain(tmp_path).state_dict()
    assert all(torch.equal(halves[name], value) for name, value in model.state_dict().items())


def test_item_3_an_fp16_checkpoint_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = save(tiny.llama().half(), tmp_path / "half")
    tiny.tokenizer().save_pretrained(out)
    text = tiny.text_file(tmp_path / "text.txt")
    assert main(["eval", str(out), "--text", str(text), "--json"]) == 0
    assert 4 < json.loads(capsys.readouterr().out)["nats_per_token"] < 7


def test_item_3_the_trainer_accepts_it(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    model = plain(saved)
    before = model.model.layers[0].self_attn.q_proj.up.weight.clone()
    data = [{"input_ids": row, "labels": row} for row in token_ids()]
    settings = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, settings, train_dataset=data)
    trainer.train()
    assert not torch.equal(before, model.model.layers[0].self_attn.q_proj.up.weight)
    trainer.save_model(str(tmp_path / "trained"))
    assert torch.equal(
        plain(tmp_path / "trained")(token_ids()).logits, model.eval()(token_ids()).logits
    )


# -- item 4: LoRA ---------------------------------------------------------------------------------


def adapted(model: Any, targets: Any) -> Any:
    peft = pytest.importorskip("peft", reason="LoRA needs peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2))


def test_item_4_lora_by_the_usual_names_says_where_it_goes(saved: Path) -> None:
    with pytest.raises(ValueError, match=r'target_modules=\["down", "up"\] or "all-linear"'):
        adapted(plain(saved), ["q_proj", "v_proj"])


# Deprecated within transformers, and asked for by PEFT.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "targets", ["all-linear", ["up", "down"], r".*\.(q_proj|v_proj)\.(up|down)", None]
)
def test_item_4_lora_on_a_compressed_model(saved: Path, tmp_path: Path, targets: Any) -> None:
    peft = pytest.importorskip("peft", reason="LoRA needs peft")
    model = plain(saved)
    if targets is None:  # as docs/file-format.md has it, dense and factorized ones together
        targets = [
            name
            for name, layer in model.named_modules()
            if type(layer) is nn.Linear and {"q_proj", "v_proj"} & {*name.split(".")}
        ]
    lora = adapted(model, targets)
    assert any(name.endswith("q_proj.down") for name in lora.targeted_module_names)
    lora(token_ids(), labels=token_ids()).loss.backward()
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0
                parameter.normal_(std=0.3)
    want = lora(token_ids()).logits
    lora.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(plain(saved), tmp_path / "adapter")
    assert torch.equal(again(token_ids()).logits, want)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = plain(tmp_path / "merged")(token_ids()).logits
    torch.testing.assert_close(merged, want, atol=1e-4, rtol=1e-4)


# -- item 5: where and how it is loaded -----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Passing `tp_plan` directly:FutureWarning")
def test_item_5_a_tensor_parallel_plan_for_one_process_changes_nothing(saved: Path) -> None:
    whole = plain(saved)(token_ids()).logits
    assert torch.equal(plain(saved, tp_plan="auto")(token_ids()).logits, whole)


@pytest.mark.parametrize(
    ("name", "asked"),
    [("tp_size", DistributedConfig(tp_size=2)), ("pp_size", DistributedConfig(pp_size=2))],
)
def test_item_5_splitting_over_processes_is_refused_before_a_weight_is_read(
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    asked: DistributedConfig,
) -> None:
    # As if torchrun had started two processes, without starting them.
    monkeypatch.setattr(
        LlamaForCausalLM,
        "prepare_distribute_model",
        lambda config, device_map=None, **_: (config, device_map, None),
    )
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{name} 2 splits weights.*leave out tp_plan") as e:
        plain(folder, dtype=torch.float32, distributed_config=asked)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"device_map": "auto"},
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"low_cpu_mem_usage": True},
        {"dtype": torch.float32},
        {"torch_dtype": torch.float32},
    ],
)
def test_item_5_devices_and_dtypes(saved: Path, settings: dict[str, Any]) -> None:
    if "device_map" in settings:
        pytest.importorskip("accelerate", reason="device_map needs accelerate")
    whole = plain(saved)(token_ids()).logits
    found = plain(saved, **settings)
    assert len(compressed_modules(found)) == 2
    assert torch.equal(found(token_ids()).logits.float(), whole)


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded:UserWarning")
@pytest.mark.parametrize("offload_buffers", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["first format", "this format"])
def test_item_5_layers_on_disk(
    saved: Path, tmp_path: Path, first: bool, offload_buffers: bool
) -> None:
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    names = ["embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb"]
    places = {**{f"model.{name}": "cpu" for name in names}, "lm_head": "cpu"}
    places["model.layers.1"] = "disk"
    folder, ids = FIRST if first else saved, token_ids() % 13
    found = plain(
        folder, device_map=places, offload_folder=tmp_path / "off", offload_buffers=offload_buffers
    )
    assert found.model.layers[1].self_attn.q_proj.up.weight.is_meta
    want = plain(folder)(ids).logits
    assert torch.equal(found(ids).logits, want)
    found.save_pretrained(tmp_path / "again")
    assert torch.equal(plain(tmp_path / "again")(ids).logits, want)


def test_item_5_the_block_given_again_as_an_argument(saved: Path) -> None:
    # lm_eval reads it from config.json and passes it on.
    given = GacfxConfig(block(saved)["modules"])
    with pytest.warns(UserWarning, match="already has a `quantization_config`"):
        found = plain(saved, quantization_config=given)
    assert torch.equal(found(token_ids()).logits, plain(saved)(token_ids()).logits)


# -- item 6: invented blocks ----------------------------------------------------------------------


def test_item_6_decisions_of_the_body_that_it_does_not_have_are_refused_by_auto_model(
    saved: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel

    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    modules = config["quantization_config"]["modules"]
    modules["model.layers.9.self_attn.q_proj"] = {"kind": "low-rank", "rank": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="layers.9.self_attn.q_proj: the model has no such"):
        AutoModel.from_pretrained(folder)
