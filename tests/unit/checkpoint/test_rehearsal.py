"""What would not come back is refused before any work, and saving writes what is in memory."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM

from gacfx import api
from gacfx.api import Compressed
from gacfx.checkpoint.pretrained import save_pretrained, state_dict_to_save
from gacfx.checkpoint.rehearsal import ChangedByLoading, stand_ins
from gacfx.checkpoint.save import save_checkpoint
from gacfx.checkpoint.written import check_written
from gacfx.core.rise import rise_text
from gacfx.errors import CheckpointError, GacError, UnsupportedModel
from tests import tiny
from tests.few import few


def dropped() -> Any:
    model = tiny.llama(layers=3)
    model.model.layers = nn.ModuleList(model.model.layers[i] for i in (0, 2))
    return model


def cut_by_hand() -> Any:
    model = tiny.llama()
    mlp = model.model.layers[1].mlp
    mlp.up_proj.weight = nn.Parameter(mlp.up_proj.weight[:160])
    mlp.gate_proj.weight = nn.Parameter(mlp.gate_proj.weight[:160])
    mlp.down_proj.weight = nn.Parameter(mlp.down_proj.weight[:, :160])
    return model


def grown() -> Any:
    model = tiny.llama()
    model.model.embed_tokens = nn.Embedding(300, 64)
    return model


def with_head() -> Any:
    model = tiny.llama()
    model.model.extra = nn.Linear(64, 2)
    return model


def adapted() -> Any:
    peft = pytest.importorskip("peft", reason="adapters come with peft")
    model = tiny.llama()
    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    try:
        model.add_adapter(lora)
    except ValueError as error:
        pytest.skip(f"transformers and peft do not go together: {error}")
    return model.eval()


@pytest.fixture(scope="module")
def made() -> Compressed:
    """A fifth of the weights gone; not to be changed."""
    return api.compress(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "dropped layers": (dropped, r"model\.layers\.2\.\S+ \(and 8 more\): the configuration has it"),
    "hand-pruned layers": (cut_by_hand, r"mlp\.\w+\.weight: is .*160.*asks for .*176"),
    "grown vocabulary": (grown, r"embed_tokens\.weight: is \(300, 64\), .* asks for \(258, 64\)"),
    "foreign module": (with_head, r"model\.extra\.bias \(and 1 more\): the model has it"),
    "adapters": (adapted, r"an adapter is attached.*merge_and_unload"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_not_come_back_is_refused_before_calibration(kind: str) -> None:
    make, why = REFUSED[kind]
    with pytest.raises(UnsupportedModel, match=why):
        api.compress(make(), None, calibration=tiny.texts())  # no tokenizer: nothing is read


def test_what_became_of_a_compressed_model_is_refused_before_it_is_saved(tmp_path: Path) -> None:
    made = api.compress(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.1")
    made.model.model.embed_tokens = nn.Embedding(300, 64)
    with pytest.raises(UnsupportedModel, match=r"embed_tokens\.weight: is \(300, 64\)"):
        api.save(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_resized_by_transformers_comes_back(tmp_path: Path) -> None:
    model = tiny.llama()
    model.resize_token_embeddings(270, mean_resizing=False)
    made = api.compress(model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.1")
    again, _ = api.load(api.save(made, tmp_path / "out"))
    assert again.get_input_embeddings().weight.shape == (270, 64)


def test_what_save_pretrained_raises_is_found_before_calibration() -> None:
    model = tiny.llama()
    model.config.strange = {1, 2}  # a set is no JSON
    with pytest.raises(CheckpointError, match=r"LlamaForCausalLM cannot be saved: .*JSON"):
        api.compress(model, None, calibration=tiny.texts())


def test_a_generation_config_that_transformers_refuses_is_written_as_it_was_read(
    tmp_path: Path,
) -> None:
    model = tiny.llama()
    model.generation_config.temperature = 0.6
    model.generation_config.do_sample = False
    with pytest.raises(ValueError, match="temperature"):
        model.generation_config.save_pretrained(tmp_path)
    own = model.generation_config
    made = api.compress(model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.1")
    out = api.save(made, tmp_path / "out")
    assert model.generation_config is own
    assert json.loads((out / "generation_config.json").read_text())["temperature"] == 0.6
    assert GenerationConfig.from_pretrained(out).temperature == 0.6


@pytest.mark.parametrize("how", few(["apply_", "apply", "compress"], "apply_", "compress"))
def test_the_models_own_save_pretrained_writes_the_block(how: str, tmp_path: Path) -> None:
    model = tiny.llama()
    told: dict[str, Any] = {"calibration": tiny.texts(), "ratio": "0.2"}
    if how == "compress":
        made = api.compress(model, tiny.tokenizer(), **told).model
    else:
        planned = api.plan(model, tiny.tokenizer(), **told)
        made = api.apply(model, planned) if how == "apply" else model
        if how == "apply_":
            api.apply_(model, planned)
    made.save_pretrained(tmp_path / "out")
    block = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert block["quant_method"] == "gacfx"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        assert torch.equal(again(ids)[0], made(ids)[0])


def test_saving_by_the_trainer_writes_the_block(made: Compressed, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    model = copy.deepcopy(made.model)
    trainer = Trainer(model, TrainingArguments(str(tmp_path / "run"), report_to=[]))
    trainer.save_model(str(tmp_path / "out"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        assert torch.equal(again(ids)[0], made.model(ids)[0])


def test_undeclared_sharing_is_written_twice_and_declared_sharing_once(tmp_path: Path) -> None:
    model = tiny.llama(tie_word_embeddings=True)
    first, second = model.model.layers
    second.self_attn.q_proj = first.self_attn.q_proj
    save_pretrained(model, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    one, two = (written[f"model.layers.{i}.self_attn.q_proj.weight"] for i in (0, 1))
    assert torch.equal(one, two)
    assert len({"lm_head.weight", "model.embed_tokens.weight"} & written.keys()) == 1
    check_written(model, tmp_path)


def test_stand_ins_share_what_the_written_tensors_share() -> None:
    model = tiny.llama(tie_word_embeddings=True)
    model.model.layers[1].self_attn.q_proj = model.model.layers[0].self_attn.q_proj
    small, whole = stand_ins(model), state_dict_to_save(model)
    assert small.keys() == whole.keys()
    assert sum(tensor.numel() for tensor in small.values()) == len(small)
    assert len({t.data_ptr() for t in small.values()}) == len(
        {t.untyped_storage().data_ptr() for t in whole.values()}
    )


def test_a_tensor_that_was_written_wrong_is_found(tmp_path: Path) -> None:
    model = tiny.llama()
    save_pretrained(model, tmp_path)
    check_written(model, tmp_path)
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-6
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: .* is not the"):
        check_written(model, tmp_path)


def test_a_tensor_that_was_not_written_is_found(tmp_path: Path) -> None:
    model = tiny.llama()
    save_pretrained(model, tmp_path)
    model.model.extra = nn.Linear(4, 4)
    with pytest.raises(CheckpointError, match=r"model\.extra\.weight: was not written"):
        check_written(model, tmp_path)


def test_a_tensor_that_the_model_does_not_have_is_found(tmp_path: Path) -> None:
    model = tiny.llama()
    save_pretrained(model, tmp_path)
    del model.model.norm.weight
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: was written, and the model"):
        check_written(model, tmp_path)


def test_the_same_numbers_in_another_dtype_are_found(tmp_path: Path) -> None:
    model = tiny.llama()
    model.model.norm.weight = nn.Parameter(torch.zeros(64))
    save_pretrained(model, tmp_path)
    model.model.norm.weight = nn.Parameter(torch.zeros(64, dtype=torch.int32), requires_grad=False)
    with pytest.raises(CheckpointError, match=r"float32 \(64,\) was written, .* torch\.int32"):
        check_written(model, tmp_path)


def test_bits_are_compared_and_not_numbers(tmp_path: Path) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
        model.model.norm.weight[1] = 0.0
    save_pretrained(model, tmp_path)
    check_written(model, tmp_path)
    with torch.no_grad():
        model.model.norm.weight[1] = -0.0
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: .* is not the"):
        check_written(model, tmp_path)


def test_every_shard_is_compared(tmp_path: Path) -> None:
    model = tiny.llama()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    check_written(model, tmp_path)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: .* is not the"):
        check_written(model, tmp_path)


def test_a_declared_tie_that_memory_does_not_have_is_no_excuse(tmp_path: Path) -> None:
    model = tiny.llama(tie_word_embeddings=True)
    save_pretrained(model, tmp_path)
    check_written(model, tmp_path)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight + 1)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: was not written"):
        check_written(model, tmp_path)


def test_an_empty_buffer_that_was_not_written_is_found(tmp_path: Path) -> None:
    model = tiny.llama()
    model.register_buffer("one", torch.empty(0))
    save_pretrained(model, tmp_path)
    check_written(model, tmp_path)
    model.register_buffer("two", torch.empty(0))
    with pytest.raises(CheckpointError, match="two: was not written"):
        check_written(model, tmp_path)


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded:UserWarning")
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_layers_on_disk_is_saved(tied: bool, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    made = api.compress(
        tiny.llama(tie_word_embeddings=tied),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        ratio="0.2",
    )
    whole = api.save(made, tmp_path / "whole")
    parts = ("embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb")
    places = {**{f"model.{part}": "cpu" for part in parts}, "lm_head": "cpu"}
    places["model.layers.1"] = "disk"
    if tied:
        places["model.embed_tokens"] = places["lm_head"] = "disk"
    model = AutoModelForCausalLM.from_pretrained(
        whole, device_map=places, offload_folder=tmp_path / "off", offload_buffers=True
    )
    assert all(parameter.is_meta for parameter in model.model.layers[1].parameters())
    planned = made.planned
    out = save_checkpoint(
        model, None, tmp_path / "again", plan=planned.plan, factors=planned.factors
    )
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, out))
    weights = [name for name, tensor in first.items() if tensor.numel()]
    assert len(weights) > 20 and all(torch.equal(first[n], second[n]) for n in weights)
    check_written(model, out)
    (out / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was not written"):
        check_written(model, out)


def test_what_lies_on_disk_is_compared_before_the_folder_appears(
    made: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gacfx.checkpoint import pretrained

    def spoilt(model: nn.Module) -> dict[str, torch.Tensor]:
        return {n: t + 1 if n == "lm_head.weight" else t for n, t in model.state_dict().items()}

    monkeypatch.setattr(pretrained, "state_dict_to_save", spoilt)
    with pytest.raises(GacError, match=r"lm_head\.weight: .* is not the"):
        api.save(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unused_weights_are_told_at_loading_and_in_the_report(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from gacfx.checkpoint.load import UnusedWeights

    source = tiny.checkpoint(tmp_path / "dense")
    tensors = load_file(source / "model.safetensors")
    extra = {"model.layers.2.mtp.weight": torch.ones(4, 4)}
    save_file({**tensors, **extra}, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UnusedWeights, match=r"does not use 1 weights .* model\.layers\.2\.mtp"):
        model, tokenizer = api.load(source)
    made = api.compress(model, tokenizer, calibration=tiny.texts(), ratio="0.2")
    report = json.loads((api.save(made, tmp_path / "out") / "gacfx_report.json").read_text())
    assert report["unused_weights"] == ["model.layers.2.mtp.weight"]


def test_one_weight_in_another_dtype_is_warned_of() -> None:
    model = tiny.llama().to(torch.bfloat16)
    model.model.norm.float()
    model.model.rotary_emb.float()
    with pytest.warns(ChangedByLoading, match=r"model\.norm\.weight: not torch\.bfloat16"):
        api.check_saves(model)


def test_a_weight_that_transformers_keeps_in_float32_is_not_warned_of() -> None:
    model = tiny.llama().to(torch.bfloat16)
    model.model.norm.float()
    model.model.rotary_emb.float()  # as a loader leaves it
    model._keep_in_fp32_modules = {"norm"}
    api.check_saves(model)  # warnings are errors here


@pytest.mark.parametrize("shown", [True, False])
def test_the_progress_bars_of_transformers_are_as_they_were(shown: bool) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    turn: dict[bool, Any] = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    try:
        turn[shown]()
        api.check_saves(tiny.llama())
        assert logging.is_progress_bar_enabled() is shown
    finally:
        turn[before]()


def test_a_class_of_ones_own_is_warned_of() -> None:
    class Own(LlamaForCausalLM):
        pass

    model: Any = Own(tiny.llama().config)
    model.train(False)
    with pytest.warns(ChangedByLoading, match="Own is no class of transformers"):
        api.check_saves(model)


def test_the_card_says_what_it_cost(made: Compressed, tmp_path: Path) -> None:
    card = (api.save(made, tmp_path / "out") / "README.md").read_text()
    assert made.summary.rise is not None
    assert f"| loss | {rise_text(made.summary.rise)} |" in card


def test_a_head_that_was_untied_is_said_to_be_untied(tmp_path: Path) -> None:
    model = tiny.llama(tie_word_embeddings=True)
    model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach())
    made = api.compress(model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    out = api.save(made, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert model.config.tie_word_embeddings is True  # the model is left as it was
    again, _ = api.load(out)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)


def test_a_head_that_is_tied_stays_so(tmp_path: Path) -> None:
    model = tiny.llama(tie_word_embeddings=True)
    made = api.compress(model, tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    out = api.save(made, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize("as_a_table", [True, False])
def test_a_model_that_another_program_quantized_is_refused_before_its_block_is_written_over(
    as_a_table: bool,
) -> None:
    planned = api.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    model = tiny.llama()
    block = {"quant_method": "gptq", "bits": 4}
    model.config.quantization_config = block if as_a_table else SimpleNamespace(**block)
    before = dict(model.named_parameters())
    for door in (
        lambda: api.compress(model, None, calibration=tiny.texts()),
        lambda: api.apply_(model, planned),
        lambda: api.apply(model, planned),
    ):
        with pytest.raises(CheckpointError, match="quantized with gptq; gacfx cannot save that"):
            door()
    found = model.config.quantization_config
    assert (found if as_a_table else vars(found)) == block
    assert dict(model.named_parameters()) == before
