"""dense: products multiplied out, as a folder that plain transformers loads without gacfx."""

import copy
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import gacfx
from gacfx.core.decision import LowRank
from gacfx.core.pruning import Skip
from gacfx.errors import CheckpointError, ExportError
from gacfx.exports.dense import dense_model, product
from gacfx.modules.carrier import Carrier
from gacfx.modules.experts import ungrouped, unpack_
from gacfx.modules.grouped import group_experts_
from gacfx.modules.install import compressed_modules, install_
from tests import stock
from tests.families.narrow import attention, mlp, plan_of
from tests.families.zoo import FAMILIES
from tests.svd import Svd
from tests.unit.checkpoint.tiny_models import cast_, dense_weight, factors_for
from tests.unit.exports.kinds import (
    KINDS,
    conv1d,
    dense_llama,
    ids_of,
    logits_of,
    low_rank,
    model_of,
    narrow_low_rank,
)

FACTORED = [
    *("low rank", "pivot", "pivot in order", "narrow, low rank", "gpt2"),
    *("grouped low rank", "shared basis"),
]
CHILD = """
import json, sys
from pathlib import Path
sys.modules["gacfx"] = None
import numpy as np, torch
from transformers import AutoModelForCausalLM
found = {}
for folder in map(Path, sys.argv[1:]):
    model, info = AutoModelForCausalLM.from_pretrained(folder / "out", output_loading_info=True)
    ids, logits = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("ids", "logits"))
    with torch.no_grad():
        apart = float((model(ids).logits - logits).abs().max())
    keys = [list(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    found[folder.name] = [apart, model.num_parameters(), keys]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kind -> difference, parameters and odd keys, in a process without gacfx."""
    home, folders = tmp_path_factory.mktemp("dense"), []
    for kind in FACTORED:
        model, folder = model_of(kind), home / kind
        folder.mkdir()
        gacfx.export(model, folder / "out", to="dense")
        np.save(folder / "ids.npy", ids := ids_of(3, 17))
        np.save(folder / "logits.npy", logits_of(model, ids))
        folders.append(str(folder))
    done = stock.run(CHILD, *folders)
    assert done.returncode == 0, done.stderr[-2000:]
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("kind", FACTORED)
def test_plain_transformers_loads_it_without_gacfx(kind: str, found: dict[str, Any]) -> None:
    apart, count, keys = found[kind]
    assert apart < 1e-6
    assert keys == [[], [], []]
    family = "gpt2" if kind == "gpt2" else "llama"
    whole: Any = FAMILIES[family].make()
    if kind != "narrow, low rank":
        assert count == whole.num_parameters()
    else:
        assert count < whole.num_parameters()  # half of each MLP is gone


@pytest.mark.parametrize("kind", FACTORED)
def test_a_product_is_exact(kind: str) -> None:
    for name, layer in compressed_modules(model_of(kind)).items():
        exact: Any = product(layer)
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1))
        bias = layer.bias
        own = layer(x).double() - (0 if bias is None else bias.double())
        assert exact.dtype == torch.float64, name
        assert torch.allclose(x.double() @ exact.T, own, atol=1e-5), name


def test_a_product_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = compressed_modules(model_of("pivot"))
    whole = {name: product(layer) for name, layer in layers.items()}
    monkeypatch.setattr("gacfx.exports.dense._ROWS", 7)
    assert whole and all(torch.allclose(product(layers[n]), w) for n, w in whole.items())


def test_products_are_rounded_once() -> None:
    model = cast_(low_rank(), torch.bfloat16)
    made = dense_model(model)
    layer: Any = model.model.layers[0].mlp.down_proj
    wanted = (layer.up.weight.double() @ layer.down.weight.double()).bfloat16()
    assert torch.equal(made.model.layers[0].mlp.down_proj.weight, wanted)
    assert made.model.embed_tokens.weight is model.model.embed_tokens.weight


def test_the_model_has_its_layers_again(tmp_path: Path) -> None:
    model = conv1d()
    layers = compressed_modules(model)
    made = gacfx.export(model, tmp_path / "out", to="dense")
    assert compressed_modules(model) == layers
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, dense_gpt2()))
    assert made.notes == (
        f"{before:,} parameters became {after:,}: multiplied out, low ranks and pivots save "
        "neither memory nor time",
    )


def dense_gpt2() -> Any:
    return FAMILIES["gpt2"].make()


def test_a_failure_gives_the_layers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = low_rank()
    layers = compressed_modules(model)

    def fails(_: Carrier) -> Any:
        raise MemoryError

    monkeypatch.setattr("gacfx.exports.dense.product", fails)
    with pytest.raises(MemoryError):
        dense_model(model)
    assert compressed_modules(model) == layers


def test_a_layer_that_is_skipped_whole_is_left_out(tmp_path: Path) -> None:
    model = low_rank_below_a_gap()
    out = gacfx.export(model, tmp_path / "out", to="dense").folder
    back = AutoModelForCausalLM.from_pretrained(out)
    assert back.config.num_hidden_layers == 1
    assert torch.allclose(logits_of(back, ids_of(2, 9)), logits_of(model, ids_of(2, 9)), atol=1e-6)


def low_rank_below_a_gap() -> Any:
    model = dense_llama()
    blocks = attention(model, "llama", 1), mlp(model, "llama", 1)
    gacfx.apply_(model, plan_of(model, *((each, Skip()) for each in blocks)))
    install_(model, factors_for(model, ("layers.0.self_attn.q_proj",), kind=LowRank))
    return model


def with_ranks_too(kind: str) -> Any:
    model = KINDS[kind]()
    install_(model, factors_for(model, ("layers.1.self_attn.q_proj",), kind=LowRank))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_ranks_too("skipped"), "attention is skipped and its MLP is not"),
        (lambda: with_ranks_too("narrow"), "not alike: .* per-layer-config"),
        (lambda: narrow_low_rank(1), "layers.0 has width 88, model.layers.1 has width 44"),
    ],
)
def test_what_no_plain_configuration_says_is_refused(
    make: Any, message: str, tmp_path: Path
) -> None:
    model = make()
    layers = compressed_modules(model)
    with pytest.raises(CheckpointError, match=message):
        gacfx.export(model, tmp_path / "out", to="dense")
    assert compressed_modules(model) == layers
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["narrow", "skipped", "padded", "dense"])
def test_nothing_to_multiply_out_is_refused(kind: str, tmp_path: Path) -> None:
    model = dense_llama() if kind == "dense" else model_of(kind)
    with pytest.raises(ExportError, match="no low rank and no pivot .*plain .*per-layer-config"):
        gacfx.export(model, tmp_path / "out", to="dense")


def test_what_overflows_is_refused(tmp_path: Path) -> None:
    model = cast_(low_rank(), torch.float16)
    layer: Any = model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        layer.up.weight.fill_(300.0)
        layer.down.weight.fill_(300.0)
    with pytest.raises(ExportError, match=r"down_proj: its product .* overflows torch\.float16"):
        gacfx.export(model, tmp_path / "out", to="dense")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("grouped", [False, True])
def test_experts_go_back_into_their_tensors(*, grouped: bool) -> None:
    dense = FAMILIES["mixtral"].make()
    model = copy.deepcopy(dense)
    unpack_(model)
    home, ids = "model.layers.1.mlp.experts", ids_of(2, 9)
    chosen = [f"{home}.{n}.fc1" for n in range(4)] if grouped else [f"{home}.1.fc2"]
    made = {
        name: Svd.of(dense_weight(cast(Any, model), name)).factors(LowRank(8)) for name in chosen
    }
    install_(model, made)
    if grouped:
        assert group_experts_(model) == {}
    want, state = logits_of(model, ids), model.state_dict()
    out = dense_model(cast(Any, ungrouped(model)))
    shapes = {name: tensor.shape for name, tensor in out.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in dense.state_dict().items()}
    torch.testing.assert_close(logits_of(out, ids), want)
    assert model.state_dict().keys() == state.keys(), "the model is left as it was"
    assert torch.equal(logits_of(model, ids), want)
