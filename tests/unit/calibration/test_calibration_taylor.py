"""Gradients on text against autograd on the whole model; what gathering them leaves alone."""

# T tokens, M outputs, N inputs, J documents

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.taylor import taylor_sums
from gacfx.calibration.text import Corpus
from gacfx.errors import CalibrationError, UnsupportedModel
from gacfx.modules.dense import is_conv1d
from tests.unit.calibration.samples import Toy, corpus, gpt2, linears, llama


def loss(model: nn.Module, documents: tuple[Tensor, ...]) -> Tensor:
    """Nats per predicted token of all documents together."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for ids_T in documents:
        found = model(ids_T[None])
        logits_TV = getattr(found, "logits", found)[0]
        total = total + nn.functional.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="sum")
        count += len(ids_T) - 1
    return total / count


def gradient(model: nn.Module, name: str, documents: tuple[Tensor, ...]) -> Tensor:
    """[M, N] by autograd."""
    module = model.get_submodule(name)
    weight = module.weight
    assert isinstance(weight, Tensor)
    (found,) = torch.autograd.grad(loss(model, documents), [weight])
    return found.T if is_conv1d(module) else found


@pytest.mark.parametrize("build", [llama, gpt2])
def test_gradients_equal_autograd(build: Any) -> None:
    model, text = build().eval(), corpus(20, 33, 27)
    found = taylor_sums(model, text, linears(model))
    for name, part in found.items():
        torch.testing.assert_close(part.mean, gradient(model, name, text.documents))
        own = torch.stack([gradient(model, name, (ids_T,)) for ids_T in text.documents])
        torch.testing.assert_close(part.square_mean, own.square().mean(0))


@pytest.mark.parametrize("use", ["twice", "every second"])
def test_column_sums_are_gradients_of_a_factor_of_each_input(use: str) -> None:
    model, text = Toy(use), corpus(20, 33)
    found = taylor_sums(model, text, ["narrow", "wide"])
    for name, size in (("narrow", 12), ("wide", 8)):
        for ids_T, sums_N in zip(text.documents, found[name].column_sums, strict=True):
            factor_N = torch.ones(size, dtype=torch.float64, requires_grad=True)

            def scaled(_m: Any, args: Any, factor_N: Tensor = factor_N) -> Tensor:
                return args[0] * factor_N  # type: ignore[no-any-return]

            handle = model.get_submodule(name).register_forward_pre_hook(scaled)
            (want,) = torch.autograd.grad(loss(model, (ids_T,)), [factor_N])
            handle.remove()
            torch.testing.assert_close(sums_N, want)
        mean = gradient(model, name, text.documents)
        torch.testing.assert_close(found[name].mean, mean)


class OutOfPlace(Toy):
    """The same function as ``Toy("in place")``, which autograd can go through."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Ids -> logits."""
        x = self.embed(ids_BT).detach()
        hidden = self.wide(x).relu() + self.idle(2 * x)
        logits = self.head(2 * x + self.narrow(hidden))
        assert isinstance(logits, Tensor)
        return logits


def test_an_input_that_is_changed_in_place_after_the_call() -> None:
    text, names = corpus(20, 33), ["wide", "idle", "narrow"]
    found = taylor_sums(Toy("in place"), text, names)
    for name in names:
        want = gradient(OutOfPlace("in place"), name, text.documents)
        torch.testing.assert_close(found[name].mean, want)


def test_input_mean_and_dtypes() -> None:
    model, text = Toy("in place"), corpus(20, 33)
    x_TN = torch.cat([model.embed(ids_T) for ids_T in text.documents]).detach()
    found = taylor_sums(model, text, ["wide", "idle"])
    torch.testing.assert_close(found["wide"].input_mean, x_TN.mean(0))
    torch.testing.assert_close(found["idle"].input_mean, 2 * x_TN.mean(0))
    exact = taylor_sums(llama(torch.float32), text, linears(llama()).keys())
    brain = taylor_sums(llama(torch.bfloat16), text, linears(llama()).keys())
    for name, part in brain.items():
        assert part.mean.dtype == part.square_mean.dtype == torch.float32
        assert float((part.mean - exact[name].mean).norm() / exact[name].mean.norm()) < 0.1


def test_the_model_is_left_alone_and_idle_modules_have_no_gradient() -> None:
    model, text = Toy("once"), corpus(20)
    before = copy.deepcopy(model.state_dict())
    seen: list[int] = []
    found = taylor_sums(model, text, ["idle", "wide"], progress=seen.append)
    assert seen == [20]
    assert not found["idle"].mean.any() and not found["idle"].input_mean.any()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not model.wide._forward_hooks


def test_bad_models_and_names_are_refused() -> None:
    model = Toy("once")
    with pytest.raises(CalibrationError, match="no such module"):
        taylor_sums(model, corpus(20), ["nothing"])
    with pytest.raises(UnsupportedModel, match="Embedding"):
        taylor_sums(model, corpus(20), ["embed"])
    with pytest.raises(CalibrationError, match="vocabulary of 50"):
        taylor_sums(llama(), Corpus((torch.arange(51),)), ["lm_head"])
    model.head.weight.data.fill_(1e308)
    with pytest.raises(CalibrationError, match="NaN or infinite on document 1"):
        taylor_sums(model, corpus(20), ["wide"])
