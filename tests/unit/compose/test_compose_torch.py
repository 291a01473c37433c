"""What torch itself offers to modules, done to compressed ones: each as a user expects it."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, parametrizations, parametrize, prune
from transformers import AutoModelForCausalLM

import gacfx
from gacfx import api
from gacfx.core.grouped_low_rank import GroupedLowRank
from gacfx.core.routed import Routed
from gacfx.errors import UnsupportedModel
from gacfx.modules.carrier import Carrier
from gacfx.modules.grouped_low_rank import GroupedLowRankLinear
from gacfx.modules.install import compressed_modules, decisions_in
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.pivot import PivotLinear
from gacfx.modules.pivot_in_order import PivotInOrderLinear
from gacfx.modules.rank_experts import RankExpertLinear
from tests import tiny
from tests.unit.compose import compressed
from tests.unit.compose.compressed import ids, logits, small

Q = "model.layers.0.self_attn.q_proj"


# -- copies ----------------------------------------------------------------------------------------


def zeroed(model: nn.Module) -> nn.Module:
    """The model without its values."""
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_computes_the_same_and_shares_nothing(copied: Callable[[Any], Any]) -> None:
    model = small()
    twin, want = copied(model), logits(model)
    assert torch.equal(logits(twin), want)
    assert decisions_in(twin) == decisions_in(model)
    zeroed(model)
    assert torch.equal(logits(twin), want)


def test_a_state_dict_is_loaded_without_unpickling_code() -> None:
    model, file = small(), io.BytesIO()
    want = logits(model)
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = small()
    zeroed(again)
    assert not torch.equal(logits(again), want)
    found = again.load_state_dict(state)
    assert not found.missing_keys and not found.unexpected_keys
    assert torch.equal(logits(again), want)
    with pytest.raises(RuntimeError, match=r"size mismatch for model.layers.0.self_attn.q_proj.we"):
        compressed.dense().load_state_dict(state)


def test_a_whole_module_is_no_file_of_weights() -> None:
    file = io.BytesIO()
    torch.save(small(), file)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(file, weights_only=True)


# -- wrappers --------------------------------------------------------------------------------------


def test_data_parallel_runs_the_model_where_there_is_no_gpu() -> None:
    model = small()
    wrapped = nn.DataParallel(model)
    assert torch.equal(logits(wrapped), logits(model))
    assert compressed_modules(wrapped).keys() == {f"module.{n}" for n in compressed_modules(model)}
    with pytest.raises(UnsupportedModel, match="DataParallel spreads a model .* give its .module"):
        gacfx.inspect(wrapped)


# -- linear and batch norm -------------------------------------------------------------------------

LAYERS: list[Callable[..., Carrier]] = [
    lambda **more: LowRankLinear(11, 7, 3, **more),
    lambda **more: PivotLinear(11, 7, 3, **more),
    lambda **more: PivotLinear(7, 11, 3, **more),
    lambda **more: PivotInOrderLinear(11, 7, 3, **more),
    lambda **more: RankExpertLinear(11, 7, Routed(6, 4, 2, 2), **more),
    lambda **more: GroupedLowRankLinear(11, 8, GroupedLowRank(2, 3), **more),
]


def norm(size: int) -> nn.BatchNorm1d:
    """In eval mode, with statistics and a scale of its own."""
    made = nn.BatchNorm1d(size).eval()
    draw = torch.Generator().manual_seed(5)
    for tensor in (made.running_mean, made.running_var, made.weight, made.bias):
        assert isinstance(tensor, Tensor)
        tensor.detach().copy_(torch.rand(size, generator=draw) + 0.5)
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("child", ["up", "product"])
def test_a_norm_is_fused_into_the_linear_that_has_the_outputs(child: str, bias: bool) -> None:
    make = LAYERS[0] if child == "up" else LAYERS[3]
    layer, after, x = make(bias=bias).eval(), norm(7), torch.randn(5, 11)
    want = after(layer(x))
    setattr(layer, child, fusion.fuse_linear_bn_eval(getattr(layer, child), after))
    torch.testing.assert_close(layer(x), want)
    assert layer.bias is getattr(layer, child).bias


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", LAYERS)
def test_a_norm_is_not_fused_into_a_layer_that_has_no_weight(
    make: Callable[..., Carrier], bias: bool
) -> None:
    """Scaling the empty guard would leave the outputs as they are, and change the bias alone."""
    layer = make(bias=bias).eval()
    x, state = torch.randn(5, layer.in_features), copy.deepcopy(layer.state_dict())
    want = layer(x)
    with pytest.raises((UnsupportedModel, AttributeError)):
        fusion.fuse_linear_bn_eval(layer, norm(layer.out_features))  # type: ignore[type-var]
    with pytest.raises(UnsupportedModel, match=r"\.weight: is an empty guard.* inside have the"):
        layer.weight = nn.Parameter(torch.ones(layer.out_features, layer.in_features))
    assert torch.equal(layer(x), want)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


# -- parametrizations and masks --------------------------------------------------------------------


class Halved(nn.Module):
    """Half of a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        """[out, in] -> [out, in]."""
        return weight / 2


def test_a_linear_inside_is_parametrized_and_back() -> None:
    model, want = small(), logits(small())
    up = model.get_submodule(Q).up
    parametrize.register_parametrization(up, "weight", Halved())
    halved = logits(model)
    assert not torch.equal(halved, want) and len(compressed_modules(model)) == 4
    parametrize.remove_parametrizations(up, "weight", leave_parametrized=True)
    assert torch.equal(logits(model), halved)


def test_a_linear_inside_is_masked_trained_and_saved(tmp_path: Path) -> None:
    model = small()
    up = model.get_submodule(Q).up
    prune.l1_unstructured(up, "weight", amount=0.5)
    model(ids(), labels=ids()).loss.backward()
    assert torch.equal(up.weight_orig.grad == 0, up.weight_mask == 0)
    with torch.no_grad():
        up.weight_orig -= 0.1 * up.weight_orig.grad
    want = logits(model)
    prune.remove(up, "weight")
    model.save_pretrained(tmp_path)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), want)
    assert float((again.get_submodule(Q).up.weight == 0).float().mean()) == 0.5


def masked(linear: nn.Module) -> None:
    prune.l1_unstructured(linear, "weight", amount=0.5)


def normed(linear: nn.Module) -> None:
    parametrizations.weight_norm(linear)


ATTACHED: dict[Callable[[nn.Module], None], str] = {
    masked: "a pruning mask is attached, .*; call torch.nn.utils.prune.remove first",
    normed: "is parametrized, .*; call torch.nn.utils.parametrize.remove_parametrizations first",
}


@pytest.mark.parametrize("attach", ATTACHED)
def test_what_a_folder_would_hold_in_parts_is_refused_with_what_to_do(
    attach: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    dense = tiny.llama()
    attach(dense.get_submodule("model.layers.1.mlp.up_proj"))
    with pytest.raises(UnsupportedModel, match=f"^model.layers.1.mlp.up_proj: {ATTACHED[attach]}"):
        api.compress(dense, tiny.tokenizer(), calibration=tiny.texts())
    made = api.compress(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    name, layer = next(iter(compressed_modules(made.model).items()))
    child = next(n for n, each in layer.named_children() if isinstance(each, nn.Linear))
    attach(layer.get_submodule(child))
    with pytest.raises(UnsupportedModel, match=rf"^{name}\.{child}: {ATTACHED[attach]}"):
        gacfx.save(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_layers_of_torch_ao_are_refused_before_and_run_after() -> None:
    from torch.ao.quantization import quantize_dynamic

    dense = quantize_dynamic(tiny.llama(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(
        UnsupportedModel, match="q_proj.*: is a dtype and no tensor, .* before that"
    ):
        api.compress(dense, tiny.tokenizer(), calibration=tiny.texts())
    made = quantize_dynamic(small(), {nn.Linear}, dtype=torch.qint8)
    assert 0 < compressed.error(logits(made), logits(small())) < 0.05
