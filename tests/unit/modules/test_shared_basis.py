"""Layers that share one basis: one parameter in memory and in files, whoever moves or loads it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from gacfx.checkpoint.hf import declare_
from gacfx.checkpoint.load import load_checkpoint
from gacfx.checkpoint.pretrained import save_pretrained
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.shared_basis import SharedBasis
from gacfx.errors import CheckpointError, UnsupportedModel
from gacfx.modules.install import decisions_in, install_, skeleton_, swapped
from gacfx.modules.low_rank import LowRankLinear
from gacfx.modules.shared_basis import SharedBasisLinear
from tests import tiny

Q = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(3)]
DOWN = [f"{name}.down.weight" for name in Q]
IDS = torch.arange(2, 22)[None]


def factors(rank: int = 16, count: int = 3) -> FactorSet:
    draw = torch.Generator().manual_seed(0)
    down = torch.randn(rank, 64, generator=draw) / 8
    made = FactorSet()
    for at in range(count):
        up = torch.randn(64, rank, generator=draw) / 8
        tensors: dict[str, Tensor] = {"up": up} if at else {"down": down, "up": up}
        made[Q[at]] = Factors(SharedBasis(rank, at), 64, 64, tensors)
    return made


def model(**more: Any) -> Any:
    return tiny.llama(layers=3, width=32, **more)


def compressed(**more: Any) -> Any:
    made = model(**more)
    install_(made, factors())
    return made


def linears(found: Any) -> list[SharedBasisLinear]:
    layers = [found.get_submodule(name) for name in Q]
    assert all(isinstance(layer, SharedBasisLinear) for layer in layers)
    return layers


def slope(layer: SharedBasisLinear) -> Tensor:
    found = layer.down.weight.grad
    assert found is not None
    return found


def test_there_is_one_parameter() -> None:
    made = compressed()
    first, *others = linears(made)
    assert all(each.down is first.down for each in others)
    names = [name for name, _ in made.named_parameters() if name in DOWN]
    assert names == DOWN[:1] == [name for name in made.state_dict() if name in DOWN]
    gone = 3 * 64 * 64 - 16 * (64 + 3 * 64)
    assert sum(p.numel() for p in made.parameters()) == model().num_parameters() - gone
    assert decisions_in(made) == {name: SharedBasis(16, at) for at, name in enumerate(Q)}


def test_it_computes_the_product_and_trains_as_one() -> None:
    made = compressed()
    known = factors()
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    for layer, each in zip(linears(made), known.values(), strict=True):
        weight = each.tensors["up"] @ known[Q[0]].tensors["down"]
        torch.testing.assert_close(layer(x), x @ weight.T)
    made(IDS).logits.sum().backward()
    together = slope(linears(made)[0])
    alone = compressed()
    linears(alone)[1].down = copy.deepcopy(linears(alone)[1].down)
    linears(alone)[2].down = copy.deepcopy(linears(alone)[2].down)
    alone(IDS).logits.sum().backward()
    torch.testing.assert_close(together, sum(map(slope, linears(alone))))


def test_copies_and_casts_keep_it_one() -> None:
    made = copy.deepcopy(compressed()).to(torch.bfloat16)
    first, *others = linears(made)
    assert all(each.down is first.down for each in others)
    assert first.down.weight.dtype == torch.bfloat16


def test_a_state_dict_is_loaded_whole() -> None:
    source, target = compressed(), model(seed=1)
    install_(target, factors())
    state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    state[DOWN[0]].mul_(2)
    for assign in (False, True):
        target.load_state_dict(state, assign=assign)
        first, *others = linears(target)
        torch.testing.assert_close(first.down.weight.data, state[DOWN[0]], rtol=0, atol=0)
        assert all(each.down is first.down for each in others)


def test_on_disk_it_is_stored_once(tmp_path: Path) -> None:
    made = compressed()
    declare_(made)
    wanted = made(IDS).logits
    save_pretrained(made, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = [*file.keys()]
    assert [name for name in names if name in DOWN] == DOWN[:1]
    sizes = sum(tensor.numel() * 4 for tensor in made.state_dict().values())
    overhead = (tmp_path / "model.safetensors").stat().st_size - sizes
    assert 0 < overhead < 16 * 64 * 4  # a header, and no second basis
    again = load_checkpoint(tmp_path)
    assert torch.equal(again(IDS).logits, wanted)
    first, *others = linears(again)
    assert all(each.down is first.down for each in others)
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(load_checkpoint(tmp_path / "again")(IDS).logits, wanted)


def test_a_folder_without_the_basis_is_refused(tmp_path: Path) -> None:
    made = compressed()
    declare_(made)
    state = {name: each for name, each in made.state_dict().items() if name != DOWN[0]}
    save_pretrained(made, tmp_path, tensors=state)
    with pytest.raises(CheckpointError, match="no down.weight of it"):
        load_checkpoint(tmp_path)


def test_afterwards_the_very_same_modules_are_back() -> None:
    made = model()
    before, wanted = dict(made.named_modules()), made(IDS).logits
    with swapped(made, factors()):
        assert not torch.equal(made(IDS).logits, wanted)
    assert dict(made.named_modules()) == before and torch.equal(made(IDS).logits, wanted)


def test_layers_without_their_basis_are_refused_before_anything_changes() -> None:
    lonely = {name: each for name, each in factors().items() if name != Q[0]}
    made = model()
    before = dict(made.named_modules())
    with pytest.raises(UnsupportedModel, match=r"layers\.1.*asks .*layers\.0.*belong together"):
        install_(made, lonely)
    smaller = {**lonely, Q[0]: factors(8)[Q[0]]}
    with pytest.raises(UnsupportedModel, match="that is shared rank 8"):
        install_(made, smaller)
    with pytest.raises(UnsupportedModel, match="there is no such layer"):
        skeleton_(made, {Q[1]: SharedBasis(16, 1)})
    assert dict(made.named_modules()) == before


def test_a_basis_is_borrowed_from_a_layer_that_has_one() -> None:
    layer = SharedBasisLinear(64, 64, 16, 1)
    with pytest.raises(UnsupportedModel, match="is a Linear, which has none of"):
        layer.borrow(torch.nn.Linear(64, 64))
    with pytest.raises(UnsupportedModel, match="which has none of"):
        layer.borrow(LowRankLinear(64, 64, 8))


def test_outputs_in_another_order_leave_the_basis_alone() -> None:
    known = factors()[Q[0]]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    moved = SharedBasisLinear.reordered(SharedBasis(16), known.tensors, order)
    assert moved is not None and torch.equal(moved["down"], known.tensors["down"])
    assert torch.equal(moved["up"], known.tensors["up"][order])
