"""RankExpertLinear made of a weight, with its outputs in another order, and in print."""

import pytest
import torch

from gacfx.core.routed import Routed
from gacfx.errors import DecompositionFailed
from gacfx.modules.make import make_factors
from gacfx.modules.rank_experts import RankExpertLinear
from tests.svd import Svd
from tests.unit.modules.test_rank_experts import ROUTED, M, N, close, layer_of


def test_a_pool_is_made_of_the_best_components_and_balanced() -> None:
    weight_MN = torch.randn(M, N, dtype=torch.float64)
    source = Svd.of(weight_MN)
    made = make_factors(source, Routed(12, 4, 2, 2), M, N, torch.float64).tensors
    up_MR, down_RN = source.pair(12)
    for rank in (1, 5, 12):
        close(made["up"][:rank].T @ made["down"][:rank], up_MR[:, :rank] @ down_RN[:rank])
    torch.testing.assert_close(made["up"].norm(dim=1), made["down"].norm(dim=1))
    with pytest.raises(DecompositionFailed, match="own ranks of clusters are made by"):
        make_factors(source, Routed(14, 4, 2, 2), M, N, torch.float64)


def test_outputs_in_another_order() -> None:
    layer, order = layer_of(bias=False), torch.randperm(M)
    made = RankExpertLinear.reordered(ROUTED, layer.tensors(), order)
    assert made is not None
    other = layer_of(bias=False)
    other.load_state_dict({**other.state_dict(), **made})
    x = torch.randn(5, N, dtype=torch.float64)
    close(other(x), layer(x)[:, order])


def test_it_prints_its_sizes() -> None:
    said = repr(layer_of())
    assert "in_features=13, out_features=17, routed 8 of 24, 2 shared, blocks of 2, bias" in said


def test_gradients_reach_what_is_picked_and_nothing_else() -> None:
    decision = Routed(24, 16, 8, 4)
    layer = RankExpertLinear(10, 12, decision, bias=False).train()
    with torch.no_grad():
        layer.down.normal_()
        layer.up.normal_()
    layer.choose(torch.tensor([[0, 1, 3, 5]]))
    x = torch.randn(2, 3, 10)
    layer(x).square().sum().backward()
    picked = torch.tensor([0, 1, 3, 5]).repeat_interleave(4) * 4 + torch.arange(4).repeat(4)
    for grad in (layer.down.grad, layer.up.grad):
        assert grad is not None
        rows = set(grad.abs().sum(1).nonzero().flatten().tolist())
        assert rows == set(picked.tolist())
    trained = layer(x)
    layer.eval()
    assert torch.equal(layer(x), trained)
