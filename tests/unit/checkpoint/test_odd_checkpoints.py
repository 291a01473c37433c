"""Folders that are broken in odd ways: refused in one line, or said, never silently wrong."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gacfx.checkpoint.checksums import FILES, verify_checksums, write_checksums
from gacfx.checkpoint.load import AdapterBeside, load_dense
from gacfx.errors import CheckpointError, GacError, UnsupportedModel
from gacfx.inspection import inspect
from gacfx.tracing.skeleton import read_config, skeleton
from tests import tiny

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("dense"))


@pytest.fixture
def folder(dense: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(dense, tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    """Other entries in config.json."""
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def store(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Another tensor in place of one weight."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[UP] = change(tensors[UP])
    save_file(tensors, file, metadata={"format": "pt"})


def refused(read: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(GacError) as error:
        read(folder)
    said = str(error.value)
    assert "\n" not in said
    return said


# -- weights that a loader would cast without a word ---------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
    ],
)
def test_codes_without_their_quantization_are_no_weights(
    folder: Path, dtype: torch.dtype, name: str
) -> None:
    store(folder, lambda t: (t * 1000).to(dtype))
    said = refused(load_dense, folder)
    assert f"model.safetensors: {UP} is stored as {name}" in said
    assert "restore its quantization_config" in said


def test_codes_of_a_method_that_transformers_skips_are_no_weights(folder: Path) -> None:
    store(folder, lambda t: (t * 1000).to(torch.int8))
    edit(folder, quantization_config={"quant_method": "nope"})
    assert "is stored as I8" in refused(load_dense, folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_float_are_read(folder: Path, dtype: torch.dtype) -> None:
    store(folder, lambda t: t.to(dtype))
    assert load_dense(folder)[0].dtype == torch.float32


# -- files beside the weights --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a":' * 2000])
def test_a_broken_generation_config_is_not_taken_for_none(folder: Path, text: str) -> None:
    (folder / "generation_config.json").write_text(text)
    assert "generation_config.json: " in refused(load_dense, folder)


def test_an_index_without_metadata_says_so(folder: Path) -> None:
    model = load_dense(folder)[0]
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    del raw["metadata"]
    index.write_text(json.dumps(raw))
    assert "index.json: has no metadata; " in refused(load_dense, folder)


@pytest.mark.parametrize("text", ["{}", "[]", "null"])
def test_a_broken_tokenizer_says_what_to_do(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    said = refused(load_dense, folder)
    assert "its tokenizer cannot be loaded" in said and "copy the tokenizer's files again" in said


@pytest.mark.parametrize("read", [load_dense, inspect])
def test_an_adapter_alone_is_told_from_a_model(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter and no model; load it with its base" in refused(read, tmp_path)


def test_an_adapter_beside_the_weights_is_said(folder: Path) -> None:
    ranks = {"A": (2, 64), "B": (64, 2)}
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    where = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    pairs = {where.format(i, x): torch.ones(size) for i in (0, 1) for x, size in ranks.items()}
    save_file(pairs, folder / "adapter_model.safetensors")
    with pytest.warns(AdapterBeside, match="beside its weights .* (is attached|is left out)"):
        load_dense(folder)


@pytest.mark.parametrize("source", [None, 5, ["a"], {"a": 1}])
def test_what_is_no_name_is_not_looked_up(source: Any) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint; give a folder or a name"):
        load_dense(source)


# -- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": "x"},
        {"vocab_size": -1},
        {"hidden_size": -64},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"hidden_act": "x"},
        {"pad_token_id": 10**9},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": {"rope_type": "x"}},
        {"layer_types": ["x"]},
        {"quantization_config": []},
        {"dtype": "x"},
        {"dtype": "load"},
        {"model_type": ["llama"]},
    ],
    ids=str,
)
def test_a_wrong_entry_of_config_json_is_one_line(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    refused(inspect, folder)


def test_a_number_of_experts_of_a_model_without_any_says_nothing(folder: Path) -> None:
    rows = inspect(folder).rows
    edit(folder, num_local_experts=2)
    assert inspect(folder).rows == rows


def test_negative_positions_are_not_fed(folder: Path) -> None:
    edit(folder, max_position_embeddings=-1)
    assert inspect(folder).rows


def test_deeply_nested_tables_are_one_line(folder: Path) -> None:
    raw = (folder / "config.json").read_text().rstrip().removesuffix("}")
    deep = '{"a":' * 900 + "1" + "}" * 900
    (folder / "config.json").write_text(f'{raw}, "x": {deep}}}')
    refused(inspect, folder)


@pytest.mark.parametrize(
    "named", ["Trainer", "pipeline", "AutoModel", "PreTrainedModel", "BertModel", "GPT2LMHeadModel"]
)
def test_an_architecture_that_is_no_model_of_this_kind_is_not_called(
    folder: Path, named: str
) -> None:
    edit(folder, architectures=[named])
    assert type(skeleton(read_config(folder))).__name__ == "LlamaForCausalLM"


def test_the_class_of_another_architecture_does_not_hide_the_model_type(folder: Path) -> None:
    edit(folder, model_type="gpt2")  # architectures still says Llama
    assert type(skeleton(read_config(folder))).__name__ == "GPT2LMHeadModel"


def test_inspect_reads_no_block_of_a_newer_gacfx(folder: Path) -> None:
    block = {"quant_method": "gacfx", "format_version": 5, "modules": {}}
    edit(folder, quantization_config=block)
    assert "gacfx format version 5; this gacfx reads 1, 2, 3 and 4" in refused(inspect, folder)


def test_a_skeleton_says_which_kind_of_error_it_met(folder: Path) -> None:
    edit(folder, hidden_act="nope")
    with pytest.raises(UnsupportedModel, match="llama: cannot be built: KeyError: 'nope'"):
        skeleton(read_config(folder))


# -- verify --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "adapter_config.json"]
)
def test_an_added_file_that_a_loader_takes_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_checksums(tmp_path)
    (tmp_path / "mine.txt").touch()
    assert verify_checksums(tmp_path).whole
    (tmp_path / name).touch()
    found = verify_checksums(tmp_path)
    assert (found.whole, found.taken, found.added) == (False, (name,), ("mine.txt",))


def test_a_list_of_no_files_says_nothing_of_a_folder(tmp_path: Path) -> None:
    raw = {"format": "gacfx-files", "version": 1, "files": {}}
    (tmp_path / FILES).write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="lists no file; copy it again"):
        verify_checksums(tmp_path)


def test_a_list_that_forgets_the_weights_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_checksums(tmp_path)
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    with warnings.catch_warnings(action="error"):
        assert not verify_checksums(tmp_path).whole
