"""A turned and cut model computes what it must: whole with all directions, and with some lost."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.errors import UnsupportedModel
from gacfx.slicing import equal, folding
from gacfx.slicing.basis import Basis, basis_of, without_ones
from gacfx.slicing.door import Found, taken_apart
from gacfx.slicing.equal import check_equal
from gacfx.slicing.folding import check_plain, folded
from tests.unit.slicing.stream_models import TURNED, ids, random_model, turned

HIDDEN = 48
CLOSE = 2e-6
"""Norms compute in float32 also in a float64 model."""


def some_basis(found: Found, size: int, seed: int = 3) -> Basis:
    draw = torch.Generator().manual_seed(seed)
    inside = without_ones(HIDDEN) if found.centred else torch.eye(HIDDEN, dtype=torch.float64)
    count = inside.shape[1]
    square = torch.randn(count, count, generator=draw, dtype=torch.float64)
    return basis_of(inside @ torch.linalg.qr(square).Q[:, : size - found.centred], found.centred)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids(), use_cache=False).logits
    return found


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("name", TURNED)
def test_a_turned_model_computes_the_same_and_a_cut_one_what_is_left(name: str) -> None:
    model = turned(name)
    found = taken_apart(model)
    large = copy.deepcopy(model).double()
    whole = folded(large, found.residual, found.forms, some_basis(found, HIDDEN))
    assert apart(logits(large), logits(whole)) < CLOSE
    basis = some_basis(found, 32)
    check_plain(model, found.residual, 32)
    assert check_equal(model, found.residual, found.forms, basis) < CLOSE
    small = folded(model, found.residual, found.forms, basis)
    assert small.config.hidden_size == 32
    assert small.dtype == torch.float32
    assert apart(logits(model), logits(small)) > 1e-2  # something was lost


@pytest.mark.parametrize("name", ["llama", "tied", "qwen3, norms in heads"])
def test_the_stream_that_is_cut_is_divided_by_the_old_hidden_size(name: str) -> None:
    """Against a norm that is written down here: x Q / sqrt(|x Q|^2 / H + eps), of the old H."""
    model = turned(name).double()
    found = taken_apart(model)
    basis = some_basis(found, 24)
    small = folded(model, found.residual, found.forms, basis)
    turn = basis.read_HD * (24 / HIDDEN) ** 0.5  # orthonormal columns

    class Cut(nn.Module):
        def __init__(self, old: nn.Module) -> None:
            super().__init__()
            self.weight, self.eps = old.weight, float(old.variance_epsilon)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            kept = x @ turn
            kept = kept / (kept.square().sum(-1, keepdim=True) / HIDDEN + self.eps).sqrt()
            found: Tensor = (kept @ turn.T) * self.weight
            return found

    large = copy.deepcopy(model)
    for norm in found.residual.norms:
        large.set_submodule(norm, Cut(large.get_submodule(norm)))
    assert apart(logits(large), logits(small)) < CLOSE


def test_nothing_of_the_dense_model_changes() -> None:
    model = turned("tied")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, config = taken_apart(model), model.config.to_dict()
    check_equal(model, found.residual, found.forms, some_basis(found, 16))
    folded(model, found.residual, found.forms, some_basis(found, HIDDEN))
    small = folded(model, found.residual, found.forms, some_basis(found, 16))
    assert all(torch.equal(before[name], found) for name, found in model.state_dict().items())
    assert model.config.to_dict() == config
    assert model.config.tie_word_embeddings is True
    assert small.config.tie_word_embeddings is False
    assert small.lm_head.weight is not small.model.embed_tokens.weight
    assert small.config.head_dim == 8


def test_regressions_of_a_norm_are_what_its_readers_see() -> None:
    model = turned("llama").double()
    found = taken_apart(model)
    basis = some_basis(found, 16)
    reads = dict.fromkeys(found.residual.norms[:1], 2.0 * basis.read_HD)
    plain = folded(model, found.residual, found.forms, basis)
    other = folded(model, found.residual, found.forms, basis, reads)
    for name, twice in (("self_attn.q_proj", 2.0), ("mlp.up_proj", 1.0)):
        pair: Any = (each.get_submodule(f"model.layers.0.{name}").weight for each in (plain, other))
        one, two = pair
        assert torch.allclose(twice * one, two)


def test_a_model_that_depends_on_the_hidden_size_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = turned("gemma, 1 + weight, scaled and tied")
    found = taken_apart(model)
    monkeypatch.setattr(folding, "_scale", lambda _: 1.0)
    with pytest.raises(UnsupportedModel, match="depends on the hidden size"):
        check_equal(model, found.residual, found.forms, some_basis(found, 16))


def test_the_tolerance_of_the_check_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = turned("llama")
    found = taken_apart(model)
    monkeypatch.setattr(equal, "TOLERANCE", 0.0)
    with pytest.raises(UnsupportedModel, match="computes something else"):
        check_equal(model, found.residual, found.forms, some_basis(found, 16))


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("OPT", {"ffn_dim": 88}, "no configuration says this model"),
        ("GPTNeoX", {}, "no configuration says this model"),
    ],
)
def test_heads_that_follow_from_the_hidden_size_are_refused(
    kind: str, more: dict[str, Any], why: str
) -> None:
    model = random_model(kind, **more)
    found = taken_apart(model)
    with pytest.raises(UnsupportedModel, match=why):
        check_plain(model, found.residual, 36)


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("Gemma2", {"head_dim": 8}, "a norm whose output goes into the residual stream"),
        ("Olmo", {}, "which no rotation leaves alone"),
        ("Mixtral", {"num_experts_per_tok": 2, "num_local_experts": 4}, "experts in one tensor"),
    ],
)
def test_streams_that_cannot_be_turned_are_refused(
    kind: str, more: dict[str, Any], why: str
) -> None:
    model = random_model(kind, **more)
    if kind == "Mixtral":
        model.set_experts_implementation("grouped_mm")
    with pytest.raises(UnsupportedModel, match=why):
        taken_apart(model)


def test_layers_that_share_a_weight_are_refused() -> None:
    model = turned("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(UnsupportedModel, match="its weight is also"):
        taken_apart(model)
