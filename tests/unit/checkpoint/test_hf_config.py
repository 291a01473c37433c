"""The gacfx block of config.json, and what the loader does with one that does not fit."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    AutoHfQuantizer,
)

import gacfx
from gacfx.checkpoint.hf import GacfxConfig, GacfxQuantizer, _check_whole, config_of, register
from gacfx.checkpoint.load import load_checkpoint
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.kinds import write_decision
from gacfx.errors import CheckpointError
from gacfx.modules.install import compressed_modules, install_
from tests.unit.checkpoint.tiny_models import factors_for, llama, plan_for, token_ids

RANKS = {"model.layers.1.self_attn.q_proj": 11, "model.layers.0.self_attn.q_proj": 9}
PAIRS: dict[str, Decision] = {name: LowRank(rank) for name, rank in RANKS.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = llama()
    factors = factors_for(model, ("q_proj",))
    plan = plan_for(model, factors)
    install_(model, factors)
    return save_checkpoint(
        model, None, tmp_path_factory.mktemp("hf") / "model", plan=plan, factors=factors
    )


def from_dict(block: dict[str, Any]) -> GacfxConfig:
    config_class: Any = GacfxConfig
    made = config_class.from_dict(block)
    assert isinstance(made, GacfxConfig)
    return made


def asked(decisions: dict[str, Decision]) -> dict[str, Any]:
    """The part of a block that names the decisions."""
    return {"modules": {name: write_decision(one) for name, one in decisions.items()}}


def copy_with(saved: Path, out: Path, block: dict[str, Any]) -> Path:
    """The saved folder with another gacfx block."""
    out.mkdir()
    for file in saved.iterdir():
        if file.is_file():
            (out / file.name).write_bytes(file.read_bytes())
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] |= block
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_it_is_registered_once() -> None:
    register()
    register()
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["gacfx"] is GacfxConfig
    assert AUTO_QUANTIZER_MAPPING["gacfx"] is GacfxQuantizer
    assert not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path)


def test_the_block_in_words() -> None:
    assert json.loads(GacfxConfig(PAIRS).to_json_string()) == {
        "quant_method": "gacfx",
        "format_version": 2,
        "modules": {name: {"kind": "low-rank", "rank": RANKS[name]} for name in sorted(RANKS)},
        "gacfx_version": gacfx.__version__,
        "gacfx_note": "import gacfx before loading",
    }
    assert type(GacfxConfig().quant_method) is str


def test_it_comes_back() -> None:
    config = GacfxConfig({**PAIRS, "lm_head": Pivot(4)})
    assert from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert config.decisions == {**PAIRS, "lm_head": Pivot(4)}


def test_a_block_of_version_1_becomes_one_of_version_2() -> None:
    old = {"quant_method": "gacfx", "format_version": 1, "ranks": RANKS}
    assert from_dict(old).to_dict() == GacfxConfig(PAIRS).to_dict()
    assert from_dict({"ranks": RANKS}).decisions == PAIRS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format_version": 5}, "format version 5; this gacfx reads 1, 2, 3 and 4"),
        ({"format_version": 5, "gacfx_version": "9.1"}, r"\(it was written by gacfx 9.1\)$"),
        ({"format_version": "1"}, "format version '1'"),
        ({"format_version": 2.0}, "format version 2.0"),
        ({"format_version": [2]}, r"format version \[2\]"),
        ({"format_version": True}, "format version True"),
        ({"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes' is not 'gacfx'"),
        ({"ranks": [3]}, r"ranks must be a table, not \[3\]"),
        ({"ranks": {"a": 0}}, "a: rank 0 is not a positive integer"),
        ({"ranks": {"a": 3.0}}, "a: rank 3.0 is not"),
        ({"ranks": {"a": True}}, "a: rank True is not"),
        ({"ranks": {"a": "8"}}, "a: rank '8' is not"),
        ({"ranks": {"a": [[8]]}}, r"a: rank \[\[8\]\] is not"),
        ({"ranks": {"": 8}}, "'' is no module name"),
        ({"modules": [3]}, r"modules must be a table, not \[3\]"),
        ({"modules": {"": {"kind": "low-rank", "rank": 1}}}, "'' is no module name"),
        ({"modules": {"a": 8}}, "a: a decision is a table with its kind, not 8"),
        ({"modules": {"a": {}}}, "a: no kind of decision None"),
        ({"modules": {"a": {"kind": "low-rank"}}}, "a: low-rank: rank is missing"),
        ({"modules": {"a": {"kind": "low-rank", "rank": True}}}, "a: low-rank: True is no whole"),
        ({"modules": {"a": {"kind": "low-rank", "rank": [8]}}}, r"a: low-rank: \[8\] is no whole"),
        ({"modules": {"a": {"kind": "dense"}}}, "a: nothing replaces a dense weight"),
        (
            {"modules": {"a": {"kind": "butterfly"}}, "gacfx_version": "9.1"},
            r"a: no kind of decision 'butterfly'; .* \(it was written by gacfx 9.1\)$",
        ),
    ],
)
def test_blocks_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        GacfxConfig(**settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_unknown_keys_are_dropped_and_named() -> None:
    with pytest.warns(UserWarning, match="unknown gacfx settings dropped: color, size"):
        config = from_dict({"ranks": RANKS, "size": 3, "color": "red"})
    assert "color" not in config.to_dict()


def test_what_the_quantizer_says_of_itself() -> None:
    quantizer = AutoHfQuantizer.from_config(GacfxConfig(PAIRS), pre_quantized=True)
    assert quantizer.requires_calibration
    assert quantizer.is_serializable()
    assert quantizer.is_trainable


def test_a_dense_checkpoint_is_not_compressed_by_loading(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does require the model to be pre-quantized"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=GacfxConfig(PAIRS))


def test_the_block_of_a_model() -> None:
    model = llama()
    install_(model, factors_for(model, ("q_proj",)))
    assert config_of(model).decisions == {
        "model.layers.0.self_attn.q_proj": LowRank(9),
        "model.layers.1.self_attn.q_proj": LowRank(10),
    }


def test_the_note_survives_loading_and_saving_again(saved: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(saved).save_pretrained(tmp_path)
    blocks = [
        json.loads((folder / "config.json").read_text())["quantization_config"]
        for folder in (saved, tmp_path)
    ]
    assert blocks[0] == blocks[1]
    assert blocks[1]["gacfx_note"] == "import gacfx before loading"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"format_version": 7}, "format version 7"),
        (asked({"model.layers.9.x": LowRank(4)}), "its own model: model.layers.9.x: the"),
        (asked({"model.norm": LowRank(4)}), "model.norm: is a LlamaRMSNorm"),
        (asked(dict.fromkeys(RANKS, LowRank(99))), "rank 99 is outside 1 .. 48"),
        (asked(dict.fromkeys(RANKS, LowRank(10**12))), "rank 1000000000000 is outside 1 .. 48"),
        (asked(dict.fromkeys(RANKS, Pivot(48))), "pivot rank 48 is outside 1 .. 47"),
        (asked(dict.fromkeys(RANKS, Pivot(-3))), "pivot rank -3 is outside 1 .. 47"),
    ],
)
def test_a_block_that_does_not_fit_stops_the_loader(
    saved: Path, tmp_path: Path, block: dict[str, Any], message: str
) -> None:
    folder = copy_with(saved, tmp_path / "copy", block)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("decisions", "weight"),
    [
        ({"model.layers.0.self_attn.q_proj": LowRank(9)}, r"q_proj\.weight.*\(0,\).*\(48, 48\)"),
        (PAIRS, r"q_proj\.down\.weight.*\(10, 48\).*\(11, 48\)"),
    ],
)
def test_ranks_of_another_file_stop_the_loader(
    saved: Path, tmp_path: Path, decisions: dict[str, Decision], weight: str
) -> None:
    folder = copy_with(saved, tmp_path / "copy", asked(decisions))
    with pytest.raises(CheckpointError, match=weight):
        load_checkpoint(folder)
    # Older transformers leave it to gacfx, newer ones complain themselves.
    with pytest.raises((RuntimeError, CheckpointError), match=f"ignore_mismatched_sizes|{weight}"):
        AutoModelForCausalLM.from_pretrained(folder)


def loading(decisions: dict[str, Decision]) -> tuple[GacfxQuantizer, PreTrainedModel]:
    """The loader and its model, after the skeleton was made and before weights come."""
    quantizer = AutoHfQuantizer.from_config(GacfxConfig(decisions), pre_quantized=True)
    assert isinstance(quantizer, GacfxQuantizer)
    model = llama()
    quantizer._process_model_before_weight_loading(model)
    return quantizer, model


# Newer transformers refuse such files before gacfx is asked, 5.17 asks gacfx alone.
@pytest.mark.parametrize("name", [f"{next(iter(RANKS))}.down.weight", "model.norm.weight"])
def test_a_tensor_of_another_shape_is_refused_after_loading_by_name(name: str) -> None:
    quantizer, model = loading(PAIRS)
    assert quantizer._process_model_after_weight_loading(model) is model
    owner = model.get_submodule(name.removesuffix(".weight"))
    shape = tuple(model.get_parameter(name).shape)
    owner.weight = torch.nn.Parameter(torch.zeros(2, 3))
    with pytest.raises(CheckpointError) as caught:
        quantizer._process_model_after_weight_loading(model)
    assert str(caught.value) == (
        f"{name}: the file has (2, 3), the decisions in config.json ask for {shape}; the two do "
        "not belong together"
    )


def test_a_doctored_file_stops_the_loader_whoever_sees_it_first(
    saved: Path, tmp_path: Path
) -> None:
    folder = copy_with(saved, tmp_path / "copy", {})
    name = "model.layers.1.self_attn.q_proj.down.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name][:3].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shapes = r"\(3, 48\).*\(10, 48\)"
    with pytest.raises(CheckpointError, match=shapes):
        load_checkpoint(folder)
    with pytest.raises((RuntimeError, CheckpointError), match=f"ignore_mismatched_sizes|{shapes}"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_auto_model_loads_the_body_alone(saved: Path, tmp_path: Path) -> None:
    whole, body = AutoModelForCausalLM.from_pretrained(saved), AutoModel.from_pretrained(saved)
    want = whole.model(token_ids()).last_hidden_state
    assert torch.equal(body(token_ids()).last_hidden_state, want)
    assert list(compressed_modules(body)) == [
        "layers.0.self_attn.q_proj",
        "layers.1.self_attn.q_proj",
    ]
    body.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(again(token_ids()).last_hidden_state, want)


@pytest.mark.parametrize("name", ["tp_size", "pp_size", "ep_size"])
def test_every_way_to_split_a_model_is_refused(name: str) -> None:
    config = SimpleNamespace(distributed_config=SimpleNamespace(**{name: 2}))
    model: Any = SimpleNamespace(config=config)
    with pytest.raises(CheckpointError, match=f"{name} 2 splits weights"):
        _check_whole(model)
    setattr(config.distributed_config, name, 1)
    _check_whole(model)


def test_another_head_on_the_same_body(saved: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert len(compressed_modules(model)) == 2


# -- orders: integers that a file brings ---------------------------------------------------------

ORDER = "model.layers.1.self_attn.q_proj.order"


@pytest.fixture(scope="module")
def pivots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = llama()
    factors = factors_for(model, ("q_proj",), kind=Pivot)
    plan = plan_for(model, factors)
    install_(model, factors)
    folder = tmp_path_factory.mktemp("hf") / "pivots"
    return save_checkpoint(model, None, folder, plan=plan, factors=factors)


def with_order(saved: Path, out: Path, order: torch.Tensor | None) -> Path:
    """The folder with another order, or none, in its weights."""
    folder = copy_with(saved, out, {})
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if name != ORDER}
    more = {} if order is None else {ORDER: order}
    save_file({**kept, **more}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_of_pivots_loads_with_its_order(pivots: Path) -> None:
    stored = load_file(pivots / "model.safetensors")[ORDER]
    assert stored.dtype == torch.int32 and len(stored) == 48
    for loaded in (load_checkpoint(pivots), AutoModelForCausalLM.from_pretrained(pivots)):
        assert torch.equal(loaded.get_buffer(ORDER), stored)


@pytest.mark.parametrize(
    "order",
    [
        torch.zeros(48, dtype=torch.int32),
        torch.arange(1, 49, dtype=torch.int32),
        torch.arange(48, dtype=torch.int32) - 1,
        torch.full((48,), 2**31 - 1, dtype=torch.int32),
        torch.arange(48, dtype=torch.float32) / 2,
    ],
    ids=["zeros", "beyond", "negative", "huge", "halves"],
)
def test_what_is_no_order_stops_the_loader(
    pivots: Path, tmp_path: Path, order: torch.Tensor
) -> None:
    folder = with_order(pivots, tmp_path / "copy", order)
    for load in (load_checkpoint, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match="q_proj: .*: order is no order of the features"):
            load(folder)


@pytest.mark.parametrize("order", [None, torch.arange(40, dtype=torch.int32)], ids=["none", "cut"])
def test_a_missing_or_cut_order_is_refused(
    pivots: Path, tmp_path: Path, order: torch.Tensor | None
) -> None:
    folder = with_order(pivots, tmp_path / "copy", order)
    with pytest.raises(CheckpointError, match="order"):
        load_checkpoint(folder)
    with pytest.raises((RuntimeError, CheckpointError), match="order|ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_pivots_declared_as_pairs_and_back_are_refused(
    saved: Path, pivots: Path, tmp_path: Path
) -> None:
    swapped = [
        copy_with(pivots, tmp_path / "one", asked({name: LowRank(9) for name in RANKS})),
        copy_with(saved, tmp_path / "two", asked({name: Pivot(9) for name in RANKS})),
    ]
    for folder, lacks in zip(swapped, ("down.weight", "product.weight"), strict=True):
        with pytest.raises(CheckpointError, match=lacks):
            load_checkpoint(folder)


def test_an_unknown_kind_is_named_before_any_work(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = {"modules": {next(iter(RANKS)): {"kind": "butterfly"}}, "gacfx_version": "9.1"}
    folder = copy_with(saved, tmp_path / "copy", block)
    (folder / "model.safetensors").unlink()  # whoever looks for it has worked too much
    for load in (load_checkpoint, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        assert "q_proj: no kind of decision 'butterfly'" in str(caught.value)
        assert str(caught.value).endswith("(it was written by gacfx 9.1)")
