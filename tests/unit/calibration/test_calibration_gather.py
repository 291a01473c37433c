"""Second moments against a direct autograd computation; what gather leaves alone; bad input."""

# T tokens, M outputs, N inputs

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from gacfx.calibration.gather import _generator, gather, sample_labels
from gacfx.calibration.targets import is_conv1d, weight_of
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments, weight_digest
from gacfx.errors import CalibrationError, UnsupportedModel

VOCAB = 50


def llama(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_bias=True,
        initializer_range=0.3,
    )
    model: nn.Module = LlamaForCausalLM(config)
    model.to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3
    )
    model: nn.Module = GPT2LMHeadModel(config)
    return model.double()


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and name != "lm_head"
    }


def corpus(*lengths: int, seed: int = 1) -> Corpus:
    generator = torch.Generator().manual_seed(seed)
    return Corpus(tuple(torch.randint(0, VOCAB, (n,), generator=generator) for n in lengths))


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
        labels_T = sample_labels(logits_TV.detach(), _generator(seed, ids_T))
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
        part, weight_MN = found.moments[name], weight_of(module)
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


def test_modules_with_the_same_input_share_its_moment() -> None:
    model = llama()
    found = gather(model, corpus(40, 33), linears(model)).moments
    layer = "model.layers.{}.mlp.{}_proj"
    gate, up = found[layer.format(0, "gate")], found[layer.format(0, "up")]
    assert gate.side_moment is up.side_moment
    assert gate.side_moment is not found[layer.format(1, "gate")].side_moment


class Toy(nn.Module):
    """Ids -> logits, with a wide linear that is used in unusual ways."""

    def __init__(self, use: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.use = use
        self.embed = nn.Embedding(VOCAB, 8)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.idle = nn.Linear(8, 12)
        self.head = nn.Linear(8, VOCAB)
        self.double()

    def forward(self, ids_BT: Tensor) -> Tensor:
        x = self.embed(ids_BT)
        if self.use == "twice":
            x = x + self.narrow(self.wide(x)) + self.narrow(self.wide(x))
        elif self.use == "in place":
            x = x.detach().clone()
            first = self.wide(x).relu_()
            second = self.idle(x.mul_(2))
            x = x + self.narrow(first + second)
        elif self.use == "every second":
            routed = self.narrow(self.wide(x[:, ::2]))
            x = torch.cat([routed, x[:, 1::2]], 1)[:, : x.shape[1]]
        logits = self.head(x)
        assert isinstance(logits, Tensor)
        return logits


def test_several_calls_are_summed() -> None:
    once, twice = Toy("once"), Toy("twice")
    text = corpus(40)
    found = gather(twice, text, ["wide", "narrow"]).moments
    x_TN = once.embed(text.documents[0]).detach()
    torch.testing.assert_close(found["wide"].side_moment, 2 * x_TN.T @ x_TN / 40)
    torch.testing.assert_close(found["wide"].input_square_mean, 2 * x_TN.square().mean(0))


def test_an_input_changed_in_place_is_another_input() -> None:
    model = Toy("in place")
    found = gather(model, corpus(40), ["wide", "idle", "narrow"]).moments
    torch.testing.assert_close(found["idle"].side_moment, 4 * found["wide"].side_moment)
    assert float(found["wide"].projected_moment.trace()) > 0


def test_a_module_that_sees_half_of_the_tokens_weighs_half() -> None:
    text = corpus(40)
    model = Toy("every second")
    moments = gather(model, text, ["wide", "narrow"]).moments
    found, narrow = moments["wide"], moments["narrow"]
    x_TN = model.embed(text.documents[0]).detach()[::2]
    torch.testing.assert_close(found.side_moment, x_TN.T @ x_TN / 20)
    y_TM = (model.wide(x_TN) @ model.narrow.weight.T).detach()
    torch.testing.assert_close(narrow.projected_moment, y_TM.T @ y_TM / 20)
    grads: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _grads_in: Any, grads_out: Any) -> None:
        grads[module] = grads_out[0][0]

    model.wide.register_full_backward_hook(keep)
    model.narrow.register_full_backward_hook(keep)
    logits_TV = model(text.documents[0][None])[0]
    labels_T = sample_labels(logits_TV.detach(), _generator(0, text.documents[0]))
    torch.autograd.backward(F.cross_entropy(logits_TV, labels_T, reduction="sum"))
    p_TN = grads[model.wide] @ model.wide.weight.detach()
    torch.testing.assert_close(found.projected_moment, p_TN.T @ p_TN / 40)
    g_TM = grads[model.narrow]
    torch.testing.assert_close(narrow.side_moment, g_TM.T @ g_TM / 40)


def test_a_module_that_never_runs_has_a_problem() -> None:
    found = gather(Toy("once"), corpus(40), ["idle", "wide", "head"]).moments
    assert found["idle"].problem() == "no calibration token reached this weight"
    assert found["head"].problem() == ""


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
        assert found.digests[name] == weight_digest(weight_of(half.get_submodule(name)))
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
    with pytest.raises(CalibrationError, match="logits are NaN or infinite on document 0"):
        gather(model, corpus(40), ["head"])


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
