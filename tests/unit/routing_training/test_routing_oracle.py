"""Energies of pieces against the definition, and picks by them against planted pieces."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.compressors.methods import METHODS
from gacfx.core.routed import Routed
from gacfx.core.statistics import Moments
from gacfx.errors import CalibrationError, PlanError, UnsupportedModel
from gacfx.modules.rank_experts import RankExpertLinear
from gacfx.modules.routing_hooks import picked, pools
from gacfx.routing.against_dense import kl_to_dense, outputs_of, weighed
from gacfx.routing.one_basis.oracle import (
    Energies,
    domain_pick,
    measure_energies,
    oracle_pick,
    piece_weights,
    pool_weights,
)
from gacfx.routing.pools import Pool
from tests import tiny
from tests.unit.routing_training import planted

DECISION = Routed(12, 8, 4, 2)


def random_model(seed: int = 0) -> Any:
    """Float64, two layers, random pools in both."""
    model = tiny.llama(16, 24, 2, seed, vocab_size=32).double()
    random = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        made = RankExpertLinear(16, 24, DECISION, bias=False, dtype=torch.float64)
        for tensor in (made.down, made.up):
            tensor.data.copy_(torch.randn(tensor.shape, generator=random))
        layer.mlp.up_proj = made
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(50)
    return model


def prompts(count: int = 5, tokens: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(32, (count, tokens), generator=torch.Generator().manual_seed(seed))


def inputs_of(model: Any, name: str, ids_PT: Tensor) -> Tensor:
    """What a layer is called with, [P, T, N]."""
    found: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: found.append(args[0])
    )
    with torch.no_grad():
        model(ids_PT)
    hook.remove()
    return found[0]


def test_energies_are_those_of_the_definition() -> None:
    model, ids_PT = random_model(), prompts()
    weights = {name: torch.rand(12).double() for name in pools(model)}
    found = measure_energies(model, ids_PT, weights=weights, batch=2)
    assert list(found) == list(pools(model))
    for name, layer in pools(model).items():
        with weighed(model):
            x_PTN = inputs_of(model, name, ids_PT)
        square_PR = (x_PTN @ layer.down.T).square().mean(1).detach()
        output_PR = square_PR * layer.up.norm(dim=1).square().detach()
        torch.testing.assert_close(found[name].output_PR, output_PR)
        torch.testing.assert_close(found[name].scores("nats"), square_PR * weights[name])


def test_output_energy_is_the_energy_of_a_piece_alone() -> None:
    model, ids_PT = random_model(), prompts(2)
    name = next(iter(pools(model)))
    layer = pools(model)[name]
    found = measure_energies(model, ids_PT)[name].output_PR
    x_PTN = inputs_of(model, name, ids_PT)
    alone = torch.zeros(12).double()
    alone[7] = 1.0
    with weighed(model, dict.fromkeys(pools(model), alone)):
        y_PTM = layer(x_PTN)
    torch.testing.assert_close(found[:, 7], y_PTM.square().sum(-1).mean(1).detach())


def test_the_prefix_gives_later_layers_other_inputs() -> None:
    model, ids_PT = random_model(), prompts()
    whole, prefix = (measure_energies(model, ids_PT, whole=each) for each in (True, False))
    first, second = pools(model)
    torch.testing.assert_close(whole[first].output_PR, prefix[first].output_PR)
    assert not torch.allclose(whole[second].output_PR, prefix[second].output_PR, rtol=1e-3)
    x_PTN = inputs_of(model, second, ids_PT)
    layer = pools(model)[second]
    square_PR = (x_PTN @ layer.down.T).square().mean(1) * layer.up.norm(dim=1).square()
    torch.testing.assert_close(prefix[second].output_PR, square_PR.detach())


def test_padding_does_not_count() -> None:
    model, ids_PT = random_model(), prompts(3)
    mask_PT = torch.ones_like(ids_PT)
    mask_PT[1, 5:] = 0
    found = measure_energies(model, ids_PT, mask_PT)
    alone = measure_energies(model, ids_PT[1:2, :5])
    for name in found:
        torch.testing.assert_close(found[name].output_PR[1:2], alone[name].output_PR)


def test_counted_tokens_and_the_others_make_up_the_whole() -> None:
    model, ids_PT = random_model(), prompts()
    late_PT = torch.zeros_like(ids_PT)
    late_PT[:, 6:] = 1
    whole = measure_energies(model, ids_PT)
    late = measure_energies(model, ids_PT, counted_PT=late_PT)
    early = measure_energies(model, ids_PT[:, :6])
    for name in whole:
        both = (3 * late[name].output_PR + 6 * early[name].output_PR) / 9
        torch.testing.assert_close(whole[name].output_PR, both)


def test_a_model_is_left_as_it_was() -> None:
    model, ids_PT = random_model(), prompts(2)
    before = model(ids_PT).logits
    measure_energies(model, ids_PT)
    assert all(
        not each._forward_pre_hooks and each.weights is None for each in pools(model).values()
    )
    assert torch.equal(model(ids_PT).logits, before)


@pytest.mark.parametrize("score", ["output", "nats"])
def test_prompts_pick_the_pieces_that_they_use(score: Any) -> None:
    dense = planted.dense_model()
    model = planted.pooled(dense)
    ids_PT = planted.windows(4)
    decisions = {name: each.routed for name, each in pools(model).items()}
    weights = {name: torch.rand(16) + 0.1 for name in decisions}
    energies = measure_energies(model, ids_PT[:, : planted.PROMPT], weights=weights)
    pick = oracle_pick(energies, decisions, score)
    for blocks_PB in pick.blocks.values():
        assert blocks_PB.tolist() == [planted.EVEN] * 4 + [planted.ODD] * 4
    found = kl_to_dense(model, ids_PT, planted.PROMPT, dense, pick, batch=3)
    prefix = kl_to_dense(model, ids_PT, planted.PROMPT, dense, batch=3)
    assert float(found.max()) < 1e-5 < 1e-2 < float(prefix.min())


def test_nats_leave_out_what_no_gradient_sees() -> None:
    """Output energy prefers a piece into outputs that the loss does not depend on; nats do not."""
    random = torch.Generator().manual_seed(3)
    up_RM = torch.eye(6).double() * torch.tensor([9.0, 9.0, 9.0, 1.0, 1.0, 1.0]).double()
    grads_TM = torch.randn(50, 6, generator=random).double()
    grads_TM[:, :3] = 0.0
    moments = Moments.from_samples(torch.eye(6).double(), grads_TM, grads_TM)
    square_PR = torch.ones(1, 6).double()
    energies = Energies(
        square_PR * up_RM.norm(dim=1).square(), square_PR * piece_weights(up_RM, moments)
    )
    decision = {"a": Routed(6, 3, 0, 1)}
    assert oracle_pick({"a": energies}, decision, "output").blocks["a"].tolist() == [[0, 1, 2]]
    assert oracle_pick({"a": energies}, decision, "nats").blocks["a"].tolist() == [[3, 4, 5]]


def test_weights_are_half_the_mean_squared_gradient_along_a_piece() -> None:
    random = torch.Generator().manual_seed(4)
    up_RM, grads_TM = (torch.randn(n, 7, generator=random).double() for n in (3, 40))
    inputs_TN, weight_MN = (torch.randn(n, 5, generator=random).double() for n in (40, 7))
    moments = Moments.from_samples(weight_MN, inputs_TN, grads_TM, both_sides=True)
    expected_R = (grads_TM @ up_RM.T).square().mean(0) / 2
    torch.testing.assert_close(piece_weights(up_RM, moments), expected_R)


@pytest.mark.parametrize(("rows", "columns"), [(9, 5), (5, 9), (6, 6)])
def test_weights_of_a_pool_are_those_of_its_stored_pieces(rows: int, columns: int) -> None:
    random = torch.Generator().manual_seed(rows)
    weight_MN, inputs_TN, grads_TM = (
        torch.randn(*shape, generator=random).double()
        for shape in ((rows, columns), (60, columns), (60, rows))
    )
    moments = Moments.from_samples(weight_MN, inputs_TN, grads_TM, both_sides=True)
    pool = Pool.of(weight_MN, moments, METHODS.find("gfwsvd"), "a")
    stored_KM = pool.pieces()[1][:4]
    torch.testing.assert_close(pool_weights(pool, 4), piece_weights(stored_KM, moments))


def test_shrinkage_goes_from_the_prompt_to_the_corpus() -> None:
    random = torch.Generator().manual_seed(5)
    own, corpus = (Energies(torch.rand(n, 8, generator=random).double()) for n in (4, 6))
    decision = {"a": Routed(8, 4, 2, 2)}
    for shrinkage in (0.0, 0.3, 1.0):
        pick = oracle_pick(
            {"a": own}, decision, "output", shrinkage=shrinkage, corpus={"a": corpus}
        )
        mixed_PR = (1 - shrinkage) * own.output_PR + shrinkage * corpus.output_PR.mean(0)
        for row, scores_R in zip(pick.blocks["a"].tolist(), mixed_PR.tolist(), strict=True):
            sums = [scores_R[2 * at] + scores_R[2 * at + 1] for at in range(4)]
            best = max(range(1, 4), key=lambda at: sums[at])
            assert row == [0, best]


def test_domains_have_one_row_each_by_their_mean() -> None:
    first = Energies(torch.tensor([[9.0, 0.0, 5.0, 0.0], [0.0, 0.0, 5.0, 1.0]]))
    second = Energies(torch.tensor([[0.0, 4.0, 0.0, 3.0]]))
    pick = domain_pick(
        {"stories": {"a": first}, "code": {"a": second}}, {"a": Routed(4, 2, 0, 1)}, "output"
    )
    assert pick.blocks["a"].tolist() == [[0, 2], [1, 3]]
    assert pick.classes == (1, 2)


def test_what_cannot_be_measured_is_said() -> None:
    model, ids_PT = random_model(), prompts(2)
    with pytest.raises(UnsupportedModel, match="has no pools"):
        measure_energies(tiny.llama(16, 24, 1, vocab_size=32), ids_PT)
    with pytest.raises(CalibrationError, match="prompt 2 has no token"):
        measure_energies(model, ids_PT, torch.tensor([[1] * 9, [0] * 9]))
    with pytest.raises(CalibrationError, match=r"weights \(3,\) for 12 pieces"):
        measure_energies(model, ids_PT, weights={name: torch.ones(3) for name in pools(model)})
    with pytest.raises(CalibrationError, match="weights None"):
        measure_energies(model, ids_PT, weights={})
    moments = Moments.from_samples(torch.ones(4, 4).double(), *[torch.ones(3, 4).double()] * 2)
    with pytest.raises(CalibrationError, match="5 outputs"):
        piece_weights(torch.ones(2, 5), moments)


def test_rows_of_all_prompts_together_are_refused() -> None:
    model = random_model()
    mlp = model.model.layers[0].mlp
    flat = mlp.forward
    mlp.forward = lambda x: flat(x.flatten(0, 1)).view(x.shape)
    with pytest.raises(UnsupportedModel, match="not with whole prompts"):
        measure_energies(model, prompts(2))
    assert all(not each._forward_pre_hooks for each in pools(model).values())


def test_what_cannot_be_picked_is_said() -> None:
    energies, decision = {"a": Energies(torch.ones(1, 4))}, {"a": Routed(4, 2, 0, 1)}
    odd: Any = "loss"
    with pytest.raises(PlanError, match="none of"):
        oracle_pick(energies, decision, odd)
    with pytest.raises(PlanError, match="nats need a weight"):
        oracle_pick(energies, decision, "nats")
    with pytest.raises(PlanError, match="shrinkage 2"):
        oracle_pick(energies, decision, "output", shrinkage=2)
    with pytest.raises(PlanError, match="b: no energies"):
        oracle_pick(energies, {"b": Routed(4, 2, 0, 1)}, "output")
    with pytest.raises(PlanError, match="4 pieces for routed 2 of 5"):
        oracle_pick(energies, {"a": Routed(5, 2, 0, 1)}, "output")
    with pytest.raises(PlanError, match="no domain"):
        domain_pick({}, decision, "output")


@pytest.mark.parametrize("cap", [1.0, 9.0])
def test_single_ranks_are_picked_as_weights_of_0_and_1(cap: float) -> None:
    """Blocks of 1, in a union with masks, in groups, and for one sequence alone."""
    layer = RankExpertLinear(5, 7, Routed(6, 3, 1, 1), dtype=torch.float64)
    random = torch.Generator().manual_seed(6)
    for tensor in layer.parameters():
        tensor.data.copy_(torch.randn(tensor.shape, generator=random))
    x_BTN = torch.randn(3, 4, 5, generator=random).double()
    blocks = torch.tensor([[0, 2, 5], [0, 1, 3], [0, 2, 5]])
    layer.choose(blocks, cap=cap)
    found = layer(x_BTN)
    weights = torch.zeros(3, 6).double().scatter_(1, blocks, 1.0)[:, None]
    layer.weigh(weights)
    torch.testing.assert_close(found, layer(x_BTN))
    layer.choose(blocks[:1])
    torch.testing.assert_close(found[:1], layer(x_BTN[:1]))


def test_divergence_is_that_of_the_tokens_behind_the_prompt() -> None:
    dense = planted.dense_model(dtype=torch.float64)
    model, ids_PT = planted.pooled(dense), planted.windows(2)
    found = kl_to_dense(model, ids_PT, 5, dense)
    with torch.no_grad():
        known, own = (
            torch.log_softmax(each(ids_PT).logits, -1)[:, 4:-1] for each in (dense, model)
        )
    expected_P = nn.functional.kl_div(own, known, reduction="none", log_target=True).sum(-1).mean(1)
    torch.testing.assert_close(found, expected_P)
    with pytest.raises(CalibrationError, match="more than the 14 tokens"):
        kl_to_dense(model, ids_PT, 14, dense)
    with pytest.raises(UnsupportedModel, match="a function has no hidden states"):
        outputs_of(lambda ids: ids, ids_PT, hidden=True)


def test_a_router_rests_while_weights_are_given() -> None:
    model = planted.pooled(planted.dense_model())
    with picked(model, None), weighed(model):
        assert all(each.weights is not None for each in pools(model).values())
    assert all(each.weights is None for each in pools(model).values())
