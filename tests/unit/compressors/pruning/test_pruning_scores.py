"""Scores of units against what their formulas say, position by position, and against autograd."""

# M outputs, N inputs, T tokens

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.gather import gather
from gacfx.calibration.taylor import taylor_sums
from gacfx.compressors.pruning.closing import Closing
from gacfx.compressors.pruning.scores import SCORES, Evidence, unit_scores
from gacfx.core.structures import Member, Positions, Structure
from gacfx.errors import CalibrationError, DecompositionFailed, PipelineError
from gacfx.modules.dense import dense_weight
from tests.unit.calibration.samples import corpus, linears, llama

MLP, ATTENTION = "model.layers.0.mlp", "model.layers.1.self_attn"
TEXT = corpus(40, 33, 27)


def channels(count: int) -> Positions:
    return Positions(np.arange(count), np.zeros(count, dtype=np.int64))


def mlp() -> Structure:
    names = [f"{MLP}.{x}_proj" for x in ("gate", "up", "down")]
    return Structure(
        MLP,
        "width",
        24,
        1,
        (
            Member(names[0], 24, 16, outputs=channels(24)),
            Member(names[1], 24, 16, outputs=channels(24)),
            Member(names[2], 16, 24, inputs=channels(24)),
        ),
    )


def attention(model: nn.Module) -> Structure:
    """Query heads 0 .. H - 1 belong to the first key-value head, as repeat_kv has it."""
    config: Any = model.config
    kv, heads = config.num_key_value_heads, config.num_attention_heads
    size, share = 16 // heads, heads // kv
    queries = Positions(
        np.repeat(np.arange(kv), share * size), np.tile(np.repeat(np.arange(share), size), kv)
    )
    shared = Positions(np.repeat(np.arange(kv), size), np.full(kv * size, -1))
    names = {x: f"{ATTENTION}.{x}_proj" for x in "qkvo"}
    return Structure(
        ATTENTION,
        "heads",
        kv,
        share,
        (
            Member(names["q"], 16, 16, outputs=queries),
            Member(names["k"], kv * size, 16, outputs=shared),
            Member(names["v"], kv * size, 16, outputs=shared),
            Member(names["o"], 16, 16, inputs=queries),
        ),
    )


@pytest.fixture(scope="module")
def model() -> nn.Module:
    found: nn.Module = llama()
    return found


@pytest.fixture(scope="module")
def evidence(model: nn.Module) -> Evidence:
    names = linears(model)
    weights = {name: dense_weight(module) for name, module in names.items()}
    moments = gather(model, TEXT, names, both_sides=names).moments
    return Evidence(weights, moments, taylor_sums(model, TEXT, names))


def own_loss(model: Any, documents: tuple[Tensor, ...]) -> Tensor:
    losses = [model(ids_T[None], labels=ids_T[None]).loss * (len(ids_T) - 1) for ids_T in documents]
    found = torch.stack(losses).sum() / sum(len(ids_T) - 1 for ids_T in documents)
    return found


def by_hand(model: nn.Module, structure: Structure, name: str) -> list[float]:
    """Scores of the members, unit by unit, from autograd's gradients."""
    weights: dict[str, Any] = {m: model.get_submodule(m).weight for m in structure.modules}
    mean = torch.autograd.grad(own_loss(model, TEXT.documents), list(weights.values()))
    own = [
        torch.autograd.grad(own_loss(model, (ids_T,)), list(weights.values()))
        for ids_T in TEXT.documents
    ]
    scores = [0.0] * structure.units
    for at, member in enumerate(structure.members):
        w, g = weights[member.module].detach(), mean[at]
        f = torch.stack([grads[at] for grads in own]).square().mean(0)
        z = {
            "magnitude-l1": w.abs(),
            "magnitude-l2": w * w,
            "taylor-vector": w * g,
            "taylor-first": (w * g).abs(),
            "taylor-second": w * f * w,
            "taylor-mix": (w * g - w * f * w / 2).abs(),
        }[name]
        positions = member.outputs or member.inputs
        assert positions is not None
        for at_position, unit in enumerate(positions.units):
            line = z[at_position] if member.outputs else z[:, at_position]
            scores[unit] += abs(float(line.sum()))
    return scores


@pytest.mark.parametrize("kind", ["width", "heads"])
@pytest.mark.parametrize(
    "name", [name for name in SCORES if name.startswith(("magnitude", "taylor"))]
)
def test_scores_of_members_equal_autograd(
    model: nn.Module, evidence: Evidence, name: str, kind: str
) -> None:
    structure = mlp() if kind == "width" else attention(model)
    found = unit_scores(name, structure, evidence)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.tolist(), by_hand(model, structure, name))


def test_a_mask_at_each_unit(model: nn.Module, evidence: Evidence) -> None:
    for structure in (mlp(), attention(model)):
        positions = structure.closing.inputs
        assert positions is not None
        wanted = torch.zeros(structure.units, dtype=torch.float64)
        for ids_T in TEXT.documents:
            mask_U = torch.ones(structure.units, dtype=torch.float64, requires_grad=True)
            expand_N = torch.from_numpy(positions.units)
            handle = model.get_submodule(structure.closing.module).register_forward_pre_hook(
                lambda _m, args, m=mask_U, at=expand_N: args[0] * m[at]
            )
            (grad_U,) = torch.autograd.grad(own_loss(model, (ids_T,)), [mask_U])
            handle.remove()
            wanted += grad_U.square() / len(TEXT.documents)
        torch.testing.assert_close(unit_scores("fisher-mask", structure, evidence), wanted)


def test_scores_of_the_closing_weight(model: nn.Module, evidence: Evidence) -> None:
    name, calls = f"{MLP}.down_proj", []
    weight_MN = evidence.weights[name]
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _m, args: calls.append(args[0][0].detach())
    )
    for ids_T in TEXT.documents:
        model(ids_T[None])
    handle.remove()
    h_TN, norm_N = torch.cat(calls), weight_MN.square().sum(0)
    wanted = {
        "activation": h_TN.square().mean(0),
        "wanda": h_TN.square().mean(0) * norm_N,
        "flap": h_TN.var(0, correction=0) * norm_N,
    }
    for score, want in wanted.items():
        torch.testing.assert_close(unit_scores(score, mlp(), evidence), want)
    grad_MM = evidence.moments[name].grad_moment
    diagonal = (weight_MN.T @ grad_MM @ weight_MN).diagonal()
    want = 0.5 * h_TN.square().mean(0) * diagonal
    torch.testing.assert_close(unit_scores("kfac-diagonal", mlp(), evidence), want)


def alone(closing: Closing, channel: int) -> float:
    """1/2 A_jj (W^T G W)_jj: what one channel costs when nothing takes over."""
    loss_SS = closing.loss_moment(torch.tensor([channel]))
    return 0.5 * float(closing.input_NN[channel, channel] * loss_SS[0, 0])


def test_the_diagonal_is_what_one_channel_costs_without_compensation(evidence: Evidence) -> None:
    name = f"{MLP}.down_proj"
    closing = Closing.of(evidence.weights[name], evidence.moments[name])
    scores = unit_scores("kfac-diagonal", mlp(), evidence)
    for channel in (0, 7, 23):
        assert float(scores[channel]) == pytest.approx(alone(closing, channel), rel=1e-6)


def test_wide_closing_weights(evidence: Evidence) -> None:
    name = f"{MLP}.up_proj"
    moments = evidence.moments[name]
    wide = Structure("x", "width", 16, 1, (Member(name, 24, 16, inputs=channels(16)),))
    closing = Closing.of(evidence.weights[name], moments)
    scores = unit_scores("kfac-diagonal", wide, evidence)
    assert float(scores[0]) == pytest.approx(alone(closing, 0), rel=1e-6)


def test_each_score_is_its_own(model: nn.Module, evidence: Evidence) -> None:
    for structure in (mlp(), attention(model)):
        found = [unit_scores(name, structure, evidence) for name in SCORES]
        normal = [scores / scores.norm() for scores in found]
        for at, one in enumerate(normal):
            assert not any(torch.allclose(one, other, rtol=1e-4) for other in normal[:at])
        for name in SCORES:
            assert SCORES[name].name == name and SCORES[name].source and SCORES[name].what


def test_a_planted_head_keeps_its_key_value_head(model: nn.Module, evidence: Evidence) -> None:
    structure = attention(model)
    weights = dict(evidence.weights)
    query, size = weights[f"{ATTENTION}.q_proj"].clone(), 16 // (structure.units * structure.heads)
    last = structure.units * structure.heads - 1
    query[last * size :] += 100.0
    weights[f"{ATTENTION}.q_proj"] = query
    planted = replace(evidence, weights=weights)
    assert int(unit_scores("magnitude-l2", structure, planted).argmax()) == structure.units - 1
    by_head = unit_scores("magnitude-l2", structure, planted, by_head=True)
    assert by_head.shape == (structure.units, structure.heads)
    assert int(by_head.argmax()) == last


def test_scores_of_query_heads_leave_out_what_they_share(
    model: nn.Module, evidence: Evidence
) -> None:
    structure = attention(model)
    by_head = unit_scores("magnitude-l1", structure, evidence, by_head=True)
    own = [evidence.weights[f"{ATTENTION}.{x}_proj"].abs().sum() for x in "qo"]
    shared = [evidence.weights[f"{ATTENTION}.{x}_proj"].abs().sum() for x in "kv"]
    assert float(by_head.sum()) == pytest.approx(float(sum(own)))
    whole = unit_scores("magnitude-l1", structure, evidence)
    assert float(whole.sum()) == pytest.approx(float(sum(own) + sum(shared)))
    by_head = unit_scores("activation", structure, evidence, by_head=True)
    torch.testing.assert_close(by_head.sum(1), unit_scores("activation", structure, evidence))


def test_what_is_missing_or_bad_is_named(evidence: Evidence) -> None:
    with pytest.raises(PipelineError, match="no score 'nope'; known: magnitude-l1, "):
        unit_scores("nope", mlp(), evidence)
    with pytest.raises(CalibrationError, match=rf"{MLP}\.down_proj: .* taylor_sums"):
        unit_scores("flap", mlp(), replace(evidence, taylor=None))
    weights = {name: weight * torch.nan for name, weight in evidence.weights.items()}
    with pytest.raises(DecompositionFailed, match=f"{MLP}: its scores by magnitude-l1 are 0 or"):
        unit_scores("magnitude-l1", mlp(), replace(evidence, weights=weights))
    weights = {name: weight * 0 for name, weight in evidence.weights.items()}
    with pytest.raises(DecompositionFailed, match="are 0 or not finite"):
        unit_scores("wanda", mlp(), replace(evidence, weights=weights))
