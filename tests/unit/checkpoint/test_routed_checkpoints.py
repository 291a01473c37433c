"""Checkpoints with pools and their router: what comes back, and what is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

import gacfx
from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.hf import declare_
from gacfx.cli import main
from gacfx.errors import CheckpointError
from gacfx.modules.carrier import NOTICE
from gacfx.modules.routing_hooks import detach_, pools, router_of
from tests import stock
from tests.unit.modules.routed_models import (
    DECISION,
    by_hand_,
    left_padded,
    pooled,
    prompt,
    routed_llama,
)

PREFIX = "gacfx_router."
ASKED: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by plain save_pretrained."""
    model, folder = routed_llama(dtype=torch.float32), tmp_path_factory.mktemp("routed") / "made"
    declare_(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def plain(folder: Path, **more: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **more)


def block_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def with_block(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(raw))


def with_router(folder: Path, **changes: Any) -> None:
    with_block(folder, router={**block_of(folder)["router"], **changes})


def with_tensor(folder: Path, name: str, tensor: Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[PREFIX + name]
    more = {} if tensor is None else {PREFIX + name: tensor}
    save_file({**tensors, **more}, folder / "model.safetensors", metadata={"format": "pt"})


def tensor_of(folder: Path, name: str) -> Tensor:
    return load_file(folder / "model.safetensors")[PREFIX + name]


def refused(folder: Path, message: str) -> None:
    """By both ways of loading, in one line that says where it is."""
    for load in (gacfx.load, plain, AutoModel.from_pretrained):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


# -- what comes back -------------------------------------------------------------------------------


def test_what_is_loaded_computes_and_generates_the_same(saved: Path, tmp_path: Path) -> None:
    model = routed_llama(dtype=torch.float32)
    ids, mask = left_padded([prompt(1, 7), prompt(2, 5), prompt(0, 9)])
    want = model(ids, attention_mask=mask).logits
    tokens = model.generate(ids, attention_mask=mask, max_new_tokens=6, **ASKED)
    once = plain(saved)
    once.save_pretrained(tmp_path / "again")
    for made in (once, gacfx.load(saved)[0], plain(tmp_path / "again")):
        assert torch.equal(made(ids, attention_mask=mask).logits, want)
        assert made.gacfx_router.installed.classes == (1, 2, 0)
        found = made.generate(ids, attention_mask=mask, max_new_tokens=6, **ASKED)
        assert torch.equal(found, tokens)
        assert all(layer.decision == DECISION for layer in pools(made).values())
        assert made.training is False and made.gacfx_router.training is False
    assert block_of(tmp_path / "again") == block_of(saved)


def test_the_block_says_version_4_and_the_sizes(saved: Path) -> None:
    block = block_of(saved)
    assert block["format_version"] == 4
    sizes = {"features": 64, "directions": 2, "classes": 2, "lengths": 1}
    assert block["router"] == {"head": "classes", **sizes}
    assert block["modules"]["model.layers.0.self_attn.q_proj"] == {
        "kind": "routed",
        "pool": 56,
        "active": 24,
        "shared": 8,
        "block": 8,
    }
    assert tensor_of(saved, "centre").dtype == torch.int32


def test_everything_of_a_file_is_used_and_nothing_is_missing(saved: Path) -> None:
    made, info = plain(saved, output_loading_info=True)
    assert not any(info.values())
    assert len(pools(made)) == 14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_picks_the_same(saved: Path, dtype: torch.dtype) -> None:
    whole, half = plain(saved), plain(saved, dtype=dtype)
    assert half.model.layers[0].mlp.up_proj.down.dtype == dtype
    for name in ("centre", "basis", "scale", "means", "lengths", "limits"):
        assert torch.equal(whole.gacfx_router.floats(name), half.gacfx_router.floats(name))
    mean_BF = torch.randn(500, 64) * 2
    picks = [each.gacfx_router.pick(mean_BF).classes for each in (whole, half)]
    assert picks[0] == picks[1] and len({*picks[0]}) == 3
    found = half(prompt(2, 9)).logits
    want = whole(prompt(2, 9)).logits
    assert half.gacfx_router.installed.classes == (2,)
    assert found.dtype == dtype and float((found - want).norm() / want.norm()) < 0.05


def test_the_body_alone_routes_too(saved: Path, tmp_path: Path) -> None:
    body = AutoModel.from_pretrained(saved)
    body.save_pretrained(tmp_path / "body")
    for made in (body, AutoModel.from_pretrained(tmp_path / "body")):
        for kind in (1, 2, 0):
            hand = by_hand_(pooled(dtype=torch.float32), kind).model
            ids = prompt(kind, 6)
            assert torch.equal(made(ids).last_hidden_state, hand(ids).last_hidden_state)


def test_pools_without_a_router_run_their_first_ranks(tmp_path: Path) -> None:
    model = routed_llama(dtype=torch.float32)
    detach_(model)
    declare_(model)
    model.save_pretrained(tmp_path)
    assert block_of(tmp_path)["format_version"] == 2 and "router" not in block_of(tmp_path)
    made = plain(tmp_path)
    assert router_of(made) is None
    want = pooled(dtype=torch.float32)(prompt(1, 6)).logits
    assert torch.equal(made(prompt(1, 6)).logits, want)


def test_verify_reads_every_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checksums(folder)
    assert main(["verify", str(folder)]) == 0
    with_tensor(folder, "limits", tensor_of(folder, "limits") + 1)
    assert main(["verify", str(folder)]) != 0
    assert "model.safetensors" in capsys.readouterr().out


STOCK = """
import sys
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
except RuntimeError as error:
    print("STOPPED", error, "gacfx" in sys.modules)
"""


@pytest.mark.exhaustive  # as for any other kind
def test_without_gacfx_the_load_stops_and_says_what_to_do(saved: Path) -> None:
    done = stock.run(STOCK, str(saved))
    assert done.returncode == 0 and "STOPPED" in done.stdout and "False" in done.stdout
    assert f"self_attn.q_proj.{NOTICE}" in done.stderr


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["centre", "basis", "scale", "means", "lengths", "limits", "table"]
)
def test_a_tensor_that_is_missing_is_named(folder: Path, name: str) -> None:
    with_tensor(folder, name, None)
    refused(folder, f"^gacfx_router.{name}: is in no file, and config.json asks for it")


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("means", torch.zeros(3, 2, dtype=torch.int32), r"I32 of \(3, 2\)"),
        ("centre", torch.zeros(1, dtype=torch.int32), r"I32 of \(1,\)"),
        ("table", torch.zeros(2, 41, dtype=torch.int32), r"I32 of \(2, 41\)"),
        ("limits", torch.zeros(3), r"F32 of \(3,\)"),
        ("table", torch.zeros(2, 42, dtype=torch.int64), r"I64 of \(2, 42\)"),
    ],
    ids=str,
)
def test_a_tensor_of_another_shape_or_type_is_named(
    folder: Path, name: str, tensor: Tensor, found: str
) -> None:
    with_tensor(folder, name, tensor)
    refused(folder, f"^gacfx_router.{name}: the file has {found}, config.json asks for I32 of")


@pytest.mark.parametrize("name", ["centre", "basis", "scale", "means", "lengths", "limits"])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_refused(folder: Path, name: str, odd: float) -> None:
    held = tensor_of(folder, name)
    held.flatten()[0] = torch.tensor(odd).view(torch.int32)
    with_tensor(folder, name, held)
    with pytest.raises(CheckpointError, match=f"^router: {name} has NaN or infinite values; the"):
        plain(folder)


@pytest.mark.parametrize("block", [-1, 7, 2**31 - 1, 0])
def test_a_table_of_blocks_that_a_pool_does_not_have_is_refused(folder: Path, block: int) -> None:
    table = tensor_of(folder, "table")
    table[1, 4] = block  # 0 is there already: a block twice
    with_tensor(folder, "table", table)
    refused(folder, r"^router: the blocks of .*layers.0.mlp.gate_proj are none of routed 24 of 56")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 65}, "its own model: the router knows embeddings of 65 numbers, those of th"),
        ({"features": 2**20, "directions": 2**20}, "router knows embeddings of 1048576 numbers"),
        ({"features": -1}, "router: features -1"),
        ({"directions": 3}, r"gacfx_router.\w+: the file has I32 of .* asks for I32 of"),
        ({"directions": 65}, "router: 65 directions of 64 features"),
        ({"classes": 3}, r"gacfx_router.\w+: the file has I32 of .* asks for I32 of"),
        ({"classes": 2**20}, r"gacfx_router.\w+: the file has I32 of .* asks for I32 of"),
        ({"classes": 0}, "router: classes 0"),
        (
            {"head": "scores", "classes": 0},
            "gacfx_router.weight: is in no file, and config.json asks for it",
        ),
        ({"head": "scores"}, "router: classes 2"),
        ({"head": "linear"}, "router: head 'linear' is none of"),
        ({"seed": 3}, "router: field 'seed' is missing or unknown"),
    ],
    ids=str,
)
def test_sizes_of_another_router_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with_router(folder, **changes)
    refused(folder, message)


@pytest.mark.parametrize("version", [2, 3])
def test_a_router_in_an_older_version_is_refused(folder: Path, version: int) -> None:
    with_block(folder, format_version=version)
    refused(folder, f"gacfx format version {version} has no router; it should be 4")


def test_a_router_for_no_pools_is_refused(folder: Path) -> None:
    with_block(folder, modules={})
    refused(folder, "has no pools of ranks, so nothing is routed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": 2**60}, "pool .* is above 16,777,216 ranks"),
        ({"active": 72, "pool": 72}, "active rank 72 is outside 1 .. 64"),
        ({"block": 0}, "block 0 is below 1"),
        ({"shared": 32}, "shared rank 32 is outside 0 .. 24"),
        ({"pool": "56"}, "routed: '56' is no whole number"),
        ({"active": 16}, "asks for I32 of|the file has|of another shape"),
    ],
    ids=str,
)
def test_a_pool_that_cannot_be_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    name = "model.layers.1.self_attn.q_proj"
    modules = block_of(folder)["modules"]
    with_block(folder, modules={**modules, name: {**modules[name], **changes}})
    refused(folder, message)
