"""Second moments against a direct autograd computation; what gather leaves alone; bad input."""

# T tokens, M outputs, N inputs

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gacfx.calibration.gather import gather
from gacfx.calibration.labels import generator_of, sample_labels
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments, weight_digest
from gacfx.errors import CalibrationError, UnsupportedModel
from gacfx.modules.dense import dense_weight
from tests.unit.calibration.samples import Toy, corpus, gpt2, linears, llama


def direct(model: nn.Module, text: Corpus, name: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(A, G, all inputs) of one module, by autograd on the whole model."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        output.retain_grad()
        calls.append((args[0].detach().clone(), output))

    model = copy.deepcopy(model).eval().requires_grad_(True)
    handle = model.get_submodule(name).register_forward_hook(keep)
    for ids_T in text.documents:
        logits_TV = model(ids_T[None]).logits[0]
        labels_T = sample_labels(logits_TV.detach(), generator_of(seed, ids_T))
        torch.autograd.backward(F.cross_entropy(logits_TV, labels_T, reduction="sum"))
    handle.remove()
    x_TN = torch.cat([x.flatten(0, -2) for x, _ in calls])
    grads = [y.grad for _, y in calls]
    g_TM = torch.cat([g.flatten(0, -2) for g in grads if g is not None])
    return x_TN.T @ x_TN / len(x_TN), g_TM.T @ g_TM / len(x_TN), x_TN


@pytest.mark.parametrize("build", [llama, gpt2])
def test_moments_equal_a_direct_computation(build: Any) -> None:
    model, text = build(), corpus(40, 33, 57)
    found = gather(model, text, linears(model), seed=5)
    assert found.tokens == 130
    for name, module in linears(model).items():
        part, weight_MN = found.moments[name], dense_weight(module)
        input_NN, grad_MM, x_TN = direct(model, text, name, seed=5)
        assert part.shape == tuple(weight_MN.shape)
        if part.wide:
            torch.testing.assert_close(part.side_moment, input_NN)
            torch.testing.assert_close(part.projected_moment, weight_MN.T @ grad_MM @ weight_MN)
        else:
            torch.testing.assert_close(part.side_moment, grad_MM)
            torch.testing.assert_close(part.projected_moment, weight_MN @ input_NN @ weight_MN.T)
        torch.testing.assert_close(part.input_square_mean, input_NN.diagonal())
        torch.testing.assert_close(part.input_abs_mean, x_TN.abs().mean(0))
        assert part.input_abs_max is not None
        torch.testing.assert_close(part.input_abs_max, x_TN.abs().amax(0), rtol=1e-5, atol=0)
        assert part.grad_square_mean == pytest.approx(float(grad_MM.trace()) / part.rows)
        assert part.problem() == ""


def test_loss_and_digests_describe_text_and_weights() -> None:
    model, text = llama(), corpus(40, 50)
    names = list(linears(model))[:2]
    found = gather(model, text, names, seed=3)
    with torch.no_grad():
        losses = [model(d[None], labels=d[None]).loss * (len(d) - 1) for d in text.documents]
    assert found.dense_nats_per_token == pytest.approx(float(sum(losses)) / 88)
    assert (found.text_digest, found.seed) == (text.digest, 3)
    weight = model.get_submodule(names[0]).weight
    assert isinstance(weight, Tensor)
    assert found.digests[names[0]] == weight_digest(weight)
    assert len(found.digests[names[0]]) == 64
    digests = {weight_digest(w) for w in (weight, weight * 1.5, weight.T, weight.float())}
    assert len(digests) == 4
    assert weight_digest(weight.T) == weight_digest(weight.T.clone())


def same(one: Moments, other: Moments, rtol: float = 1e-9) -> None:
    for field in ("projected_moment", "side_moment", "input_abs_mean", "input_square_mean"):
        left, right = getattr(one, field), getattr(other, field)
        torch.testing.assert_close(left, right, rtol=rtol, atol=rtol * float(right.abs().max()))
    assert one.grad_square_mean == pytest.approx(other.grad_square_mean, rel=rtol)
    assert one.grad_output_mean == pytest.approx(other.grad_output_mean, rel=rtol)


def test_order_of_documents_and_global_seed_do_not_matter() -> None:
    model, text = llama(), corpus(40, 33, 57)
    first = gather(model, text, linears(model))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = gather(model, Corpus(text.documents[::-1]), linears(model))
    assert torch.equal(torch.get_rng_state(), before)
    for name in first.moments:
        same(first.moments[name], second.moments[name])
    other = gather(model, text, linears(model), seed=1)
    name = next(iter(first.moments))
    assert not torch.allclose(first.moments[name].side_moment, other.moments[name].side_moment)


def test_every_document_and_every_seed_draws_labels_of_its_own() -> None:
    documents = [torch.arange(40), torch.arange(40).flip(0)]
    draws = {
        tuple(torch.rand(4, generator=generator_of(seed, ids_T)).tolist())
        for ids_T in (*documents, documents[0].clone())
        for seed in (0, 1)
    }
    assert len(draws) == 4


def test_doubling_the_text_changes_no_mean() -> None:
    model, text = llama(), corpus(40, 33)
    once = gather(model, text, linears(model))
    twice = gather(model, Corpus(text.documents * 2), linears(model))
    for name in once.moments:
        same(once.moments[name], twice.moments[name])


def test_model_is_left_as_it_was() -> None:
    model, text = llama(), corpus(40, 33)
    parameters = dict(model.named_parameters())
    for index, parameter in enumerate(parameters.values()):
        parameter.requires_grad_(index % 3 > 0)
        parameter.grad = torch.full_like(parameter, 7.0) if index % 3 == 1 else None
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0

    def state() -> list[Any]:
        modules = [(m.training, len(m._forward_hooks)) for m in model.modules()]
        grads = [p.grad if p.grad is None else float(p.grad.sum()) for p in parameters.values()]
        return [modules, grads, [p.requires_grad for p in parameters.values()]]

    before, weights = state(), copy.deepcopy(model.state_dict())
    seen: list[int] = []
    gather(model, text, linears(model), progress=seen.append)
    assert seen == [40, 33]
    assert state() == before

    def stop(_tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, text, linears(model), progress=stop)
    assert state() == before
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])


def test_sampled_labels_follow_the_prediction() -> None:
    logits_V = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -torch.inf])
    labels = sample_labels(logits_V.expand(20_000, 5), torch.Generator().manual_seed(0))
    share = labels.bincount(minlength=5) / 20_000
    torch.testing.assert_close(share, logits_V.softmax(-1), rtol=0, atol=0.01)
    assert share[2] == share[4] == 0


@pytest.mark.parametrize(("draw", "label"), [(0.0, 1), (1.0, 3)])
def test_extreme_draws_give_labels_that_can_occur(
    monkeypatch: pytest.MonkeyPatch, draw: float, label: int
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, draw))
    logits_TV = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]])
    assert sample_labels(logits_TV, torch.Generator()).tolist() == [label]


def test_half_precision() -> None:
    text = corpus(40, 50)
    exact = gather(llama(torch.float32), text, linears(llama()).keys()).moments
    half = llama(torch.float16)
    found = gather(half, text, linears(half))
    assert all(p.dtype == torch.float16 for p in half.parameters())
    wanted = gather(copy.deepcopy(half).float(), text, linears(half).keys()).moments
    for name, part in found.moments.items():
        same(part, wanted[name])
        assert part.side_moment.dtype == torch.float64
        assert found.digests[name] == weight_digest(dense_weight(half.get_submodule(name)))
    brain = gather(llama(torch.bfloat16), text, linears(llama()).keys()).moments
    for name, part in brain.items():
        assert part.problem() == ""
        trace = float(part.side_moment.trace())
        assert trace == pytest.approx(float(exact[name].side_moment.trace()), rel=0.2)


def test_bad_weights_are_named() -> None:
    model = llama(torch.float32)
    name = "model.layers.1.self_attn.v_proj"
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    for value in (torch.nan, torch.inf):
        weight.data[1, 2] = value
        with pytest.raises(CalibrationError, match=rf"{name}: NaN or infinite"):
            gather(model, corpus(40), [name])
    with pytest.raises(CalibrationError, match="meta device"):
        gather(llama(torch.float32).to("meta"), corpus(40), [name])


def test_infinite_logits_are_an_error() -> None:
    model = Toy("once")
    model.head.weight.data.fill_(1e308)
    with pytest.raises(CalibrationError, match="logits are NaN or infinite on document 1"):
        gather(model, corpus(40), ["head"])


class Masked(nn.Module):
    """A model whose logits are ``fill`` from row 40 of the vocabulary on."""

    def __init__(self, model: nn.Module, fill: float) -> None:
        super().__init__()
        self.model, self.fill = model, fill

    def forward(self, ids_BT: Tensor) -> Tensor:
        """[B, T] -> [B, T, 50]."""
        logits: Tensor = self.model(ids_BT)
        return logits.masked_fill(torch.arange(50) >= 40, self.fill)


FILLS = [-torch.inf, torch.finfo(torch.float16).min, torch.finfo(torch.float32).min]


@pytest.mark.parametrize("fill", FILLS)
def test_a_masked_vocabulary_is_calibrated_like_a_smaller_one(fill: float) -> None:
    text = Corpus(tuple(ids_T.clamp(max=39) for ids_T in corpus(40, 33).documents))
    small = Toy("once")
    small.head.weight.data, small.head.bias.data = small.head.weight[:40], small.head.bias[:40]
    found = gather(Masked(Toy("once"), fill), text, ["model.head"])
    wanted = gather(small, text, ["head"])
    assert found.dense_nats_per_token == pytest.approx(wanted.dense_nats_per_token)
    part, want = found.moments["model.head"], wanted.moments["head"]
    torch.testing.assert_close(part.side_moment, want.side_moment)
    assert part.grad_square_mean * 50 == pytest.approx(want.grad_square_mean * 40)


@pytest.mark.parametrize("fill", FILLS)
def test_a_token_that_the_model_masks_is_named(fill: float) -> None:
    text = Corpus((*corpus(40).documents, torch.arange(3, 46)))
    text.documents[0].clamp_(max=39)
    with pytest.raises(CalibrationError) as caught:
        gather(Masked(Toy("once"), fill), text, ["model.head"])
    assert str(caught.value) == (
        "document 2 has the token id 40, which the model gives no probability (masked in its "
        "vocabulary); tokenise the text with the tokenizer of this model"
    )


def test_one_position_without_any_logit_is_an_error() -> None:
    model = Masked(Toy("once"), 0.0)
    model.register_forward_hook(lambda _m, _a, out: out.index_fill(1, torch.tensor(7), -torch.inf))
    with pytest.raises(CalibrationError, match="logits are NaN or infinite on document 1"):
        gather(model, corpus(40), ["model.head"])


def test_bad_names_are_refused() -> None:
    model = llama()
    with pytest.raises(CalibrationError, match=r"model\.nothing: the model has no such module"):
        gather(model, corpus(40), ["model.nothing"])
    with pytest.raises(CalibrationError, match="not the model's own"):
        gather(model, corpus(40), {"lm_head": nn.Linear(2, 2)})
    with pytest.raises(UnsupportedModel, match=r"model\.norm: is a LlamaRMSNorm"):
        gather(model, corpus(40), ["model.norm"])
    with pytest.raises(CalibrationError, match="no module to measure"):
        gather(model, corpus(40), [])
    with pytest.raises(CalibrationError, match="vocabulary of 50"):
        gather(model, Corpus((torch.arange(51),)), ["lm_head"])
    with pytest.raises(CalibrationError, match="gives no logits"):
        gather(nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 2), nn.Flatten()), corpus(40), ["1"])
