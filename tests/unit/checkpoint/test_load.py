"""load_dense and load_checkpoint: whole models come, broken folders are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gacfx.checkpoint.load import check_finite, load_checkpoint, load_dense
from gacfx.checkpoint.save import save_checkpoint
from gacfx.errors import CheckpointError, UnsupportedModel
from gacfx.modules.install import compressed_modules, install_
from tests.unit.checkpoint.tiny_models import cast_, factors_for, llama, plan_for, token_ids
from tests.unit.checkpoint.tiny_tokenizer import tokenizer


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dense")
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(dense: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(dense, tmp_path / "model"))


def shard_(folder: Path) -> None:
    """Split the weights over several files with an index."""
    model, _ = load_dense(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "model.safetensors.index.json").exists()


def test_model_and_tokenizer(dense: Path) -> None:
    torch.manual_seed(0)
    model, words = load_dense(dense)
    assert torch.equal(model(token_ids()).logits, llama()(token_ids()).logits)
    assert words is not None
    assert words("b c")["input_ids"] == [4, 5]
    assert not model.training


def test_a_string_and_a_dtype(dense: Path) -> None:
    assert load_dense(str(dense))[0].dtype == torch.float32
    assert load_dense(dense, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_auto_keeps_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    cast_(llama(), torch.bfloat16).save_pretrained(tmp_path)
    assert load_dense(tmp_path)[0].dtype == torch.bfloat16


def test_a_folder_without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert load_dense(folder)[1] is None


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be loaded"):
        load_dense(folder)


def test_sharded_weights(folder: Path) -> None:
    want = load_dense(folder)[0](token_ids()).logits
    shard_(folder)
    assert torch.equal(load_dense(folder)[0](token_ids()).logits, want)


def _no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _config_no_table(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def _missing_shard(folder: Path) -> None:
    shard_(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _truncated_shard(folder: Path) -> None:
    shard_(folder)
    file = sorted(folder.glob("model-*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1])


def _odd_index(folder: Path) -> None:
    shard_(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def _edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _missing_weight(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def _other_shape(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    _edit(folder, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))


def _nan(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))


def _infinite(folder: Path) -> None:
    _edit(folder, lambda tensors: tensors["model.norm.weight"][3:4].fill_(-torch.inf))


def _own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code of the checkpoint was run')\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_folder, "model: there is no such folder"),
        (_no_config, "model: has no config.json"),
        (_config_no_json, "config.json: is not JSON"),
        (_config_no_table, "config.json: is not a JSON table"),
        (_no_weights, "model: has no model.safetensors"),
        (_pickled, "has pickled weights only.*convert to safetensors"),
        (_truncated, "model.safetensors: is missing, truncated or no safetensors file"),
        (_no_safetensors, "model.safetensors: is missing, truncated or no safetensors file"),
        (_missing_shard, "model-00002-of-.*.safetensors: is missing, truncated"),
        (_truncated_shard, "model-00002-of-.*.safetensors: is missing, truncated"),
        (_odd_index, "index.json: has no weight_map"),
        (_missing_weight, "1 weights are missing.*: model.layers.1.mlp.up_proj.weight"),
        (_other_shape, r"1 weights are of another shape .*up_proj.weight \(3, 3\) for \(88, 48\)"),
        (_nan, "model.norm.weight: NaN or infinite"),
        (_infinite, "model.norm.weight: NaN or infinite"),
        (_own_code, "brings its own modelling code"),
    ],
)
def test_broken_folders_are_refused_by_name(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_dense(folder)


@pytest.mark.parametrize("path", ["models/mine/dense", "./dense", "~/dense", "/no/such/dense"])
def test_what_can_only_be_a_path_is_looked_for_on_disk_alone(path: str) -> None:
    # A hub name has one slash at most; nothing is asked of the network for these.
    with pytest.raises(CheckpointError, match=f"^{Path(path)}: there is no such folder$"):
        load_dense(path)


def test_an_architecture_that_transformers_does_not_know(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "never_heard_of"}')
    with pytest.raises(UnsupportedModel, match="never_heard_of"):
        load_dense(folder)


def test_an_architecture_without_causal_language_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UnsupportedModel, match="Unrecognized configuration class"):
        load_dense(folder)


def test_a_compressed_folder_loads_through_both_doors(tmp_path: Path) -> None:
    model = llama()
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    install_(model, factors)
    out = save_checkpoint(model, None, tmp_path / "out", plan=plan, factors=factors)
    want = model(token_ids()).logits
    for back in (load_dense(out)[0], load_checkpoint(out), load_checkpoint(str(out))):
        assert len(compressed_modules(back)) == 2
        assert torch.equal(back(token_ids()).logits, want)
    assert load_checkpoint(out, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_dense_folder_is_no_compressed_checkpoint(dense: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not compressed by gacfx \(quant_method None\)"):
        load_checkpoint(dense)


def test_code_is_not_run_even_on_request(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gacfx", "ranks": {}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="never runs code"):
        load_checkpoint(folder, trust_remote_code=True)


def test_check_finite_skips_what_has_no_values() -> None:
    filled = nn.Linear(2, 2)
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), filled)
    check_finite(model)
    filled.bias.data[1] = torch.inf
    with pytest.raises(CheckpointError, match=r"1\.bias: NaN or infinite"):
        check_finite(model)


def test_check_finite_reads_eight_bit_floats() -> None:
    layer = nn.ParameterDict({"w": nn.Parameter(torch.ones(3).to(torch.float8_e4m3fn), False)})
    check_finite(layer)
    layer["w"] = nn.Parameter(torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn), False)
    with pytest.raises(CheckpointError, match="w: NaN"):
        check_finite(layer)
