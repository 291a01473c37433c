"""Linears that are used in unusual ways: shared inputs, several calls, few tokens, none."""

# T tokens, M outputs, N inputs

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gacfx.calibration.gather import gather
from gacfx.calibration.labels import generator_of, sample_labels
from gacfx.calibration.sums import InputSums, LinearSums
from gacfx.calibration.taylor import taylor_sums
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments
from tests.unit.calibration.samples import Toy, corpus, linears, llama


def test_modules_with_the_same_input_share_its_moment() -> None:
    model = llama()
    found = gather(model, corpus(40, 33), linears(model)).moments
    layer = "model.layers.{}.mlp.{}_proj"
    gate, up = found[layer.format(0, "gate")], found[layer.format(0, "up")]
    assert gate.side_moment is up.side_moment
    assert gate.side_moment is not found[layer.format(1, "gate")].side_moment


def test_several_calls_are_summed() -> None:
    once, twice = Toy("once"), Toy("twice")
    text = corpus(40)
    found = gather(twice, text, ["wide", "narrow"]).moments
    x_TN = once.embed(text.documents[0]).detach()
    torch.testing.assert_close(found["wide"].side_moment, 2 * x_TN.T @ x_TN / 40)
    torch.testing.assert_close(found["wide"].input_square_mean, 2 * x_TN.square().mean(0))
    assert found["wide"].input_abs_max is not None  # no sum
    assert torch.equal(found["wide"].input_abs_max, x_TN.abs().amax(0).double())


@pytest.mark.parametrize("rows", [8, 2])
def test_the_largest_input_is_one_of_a_token_and_none_of_what_comes_after_a_document(
    rows: int,
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, rows, bias=False)
    sums = LinearSums("x", layer, inputs := InputSums())
    handles = sums.attach(layer)
    x_BTN = torch.randn(2, 3, 4)
    x_BTN[1, 2] = -100  # follows the shorter document
    inputs.counts = torch.tensor([True, True, True, True, True, False])
    layer(x_BTN)
    inputs.counts = None
    layer(x_BTN[:1, :0])  # an expert without a token
    for handle in handles:
        handle.remove()
    inputs.flush()
    found = sums.moments(5).input_abs_max
    assert found is not None and found.dtype == torch.float64
    assert torch.equal(found, x_BTN.flatten(0, 1)[:5].abs().amax(0).double())


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
    labels_T = sample_labels(logits_TV.detach(), generator_of(0, text.documents[0]))
    torch.autograd.backward(F.cross_entropy(logits_TV, labels_T, reduction="sum"))
    p_TN = grads[model.wide] @ model.wide.weight.detach()
    torch.testing.assert_close(found.projected_moment, p_TN.T @ p_TN / 40)
    g_TM = grads[model.narrow]
    torch.testing.assert_close(narrow.side_moment, g_TM.T @ g_TM / 40)


def gradients_and_outputs(model: nn.Module, text: Corpus) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> gradients and outputs [T, M] of all documents, by autograd alone."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    names = {id(module): name for name, module in linears(model).items()}

    def keep(module: nn.Module, _args: Any, output: Tensor) -> None:
        values = output.detach().clone()

        def back(grad: Tensor) -> None:
            rows = (each.flatten(0, -2) for each in (grad, values))
            grad_TM, output_TM = rows
            found.setdefault(names[id(module)], []).append((grad_TM, output_TM))

        output.register_hook(back)

    hooks = [module.register_forward_hook(keep) for module in linears(model).values()]
    for ids_T in text.documents:
        logits_TV = model(ids_T[None]).logits[0]
        labels_T = sample_labels(logits_TV.detach(), generator_of(0, ids_T))
        torch.autograd.backward(F.cross_entropy(logits_TV, labels_T, reduction="sum"))
    for hook in hooks:
        hook.remove()
    return {
        name: (torch.cat([g for g, _ in parts]), torch.cat([h for _, h in parts]))
        for name, parts in found.items()
    }


def test_gradients_times_outputs_are_those_of_autograd_with_the_bias_and_without_padding() -> None:
    model, text = llama(), corpus(40, 33, 51)
    found = gather(model, text, linears(model)).moments
    wanted = gradients_and_outputs(model, text)
    assert found.keys() == wanted.keys()
    for name, (grad_TM, output_TM) in wanted.items():
        assert len(grad_TM) == text.tokens
        mean = float((grad_TM * output_TM).abs().mean())
        assert found[name].grad_output_mean == pytest.approx(mean, rel=1e-9) and mean > 0


class Rectified(nn.Module):
    """Ids -> logits; the output of ``second`` is changed in place, unless it is told not to."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.in_place = in_place
        self.embed = nn.Embedding(50, 8)
        self.first, self.second, self.head = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 50)
        self.double()

    def forward(self, ids_BT: Tensor) -> Tensor:
        made = self.second(self.first(self.embed(ids_BT)))
        made = made.relu_() if self.in_place else made.relu()
        logits = self.head(made)
        assert isinstance(logits, Tensor)
        return logits


def test_an_output_that_is_changed_in_place_has_no_such_mean_rather_than_a_wrong_one() -> None:
    names = ["first", "second", "head"]
    changed, plain = (
        gather(Rectified(in_place), corpus(40), names).moments for in_place in (True, False)
    )
    assert changed["second"].grad_output_mean is None
    # The other statistics do not need the output, and its gradient comes all the same.
    assert changed["second"].grad_square_mean == plain["second"].grad_square_mean > 0
    torch.testing.assert_close(changed["second"].projected_moment, plain["second"].projected_moment)
    for name in ("first", "head"):
        mean = plain[name].grad_output_mean
        assert mean is not None and changed[name].grad_output_mean == pytest.approx(mean)


def test_a_module_that_never_runs_has_a_problem() -> None:
    found = gather(Toy("once"), corpus(40), ["idle", "wide", "head"]).moments
    assert found["idle"].problem() == "no calibration token reached this weight"
    assert found["head"].problem() == ""


@pytest.mark.parametrize("use", ["no grad", "inference", "chooses"])
def test_a_module_that_no_gradient_comes_back_to_has_a_problem(use: str) -> None:
    names = ["idle", "wide", "narrow", "head"]
    found = gather(Toy(use), corpus(40, 33), names).moments
    assert found["idle"].problem() == "it runs without gradient, so its loss cannot be measured"
    assert {name: found[name].problem() for name in names[1:]} == dict.fromkeys(names[1:], "")
    assert found["idle"].tokens_seen == found["wide"].tokens_seen == 73
    gradients = taylor_sums(Toy(use), corpus(40, 33), names)
    assert not gradients["idle"].mean.any() and gradients["wide"].mean.any()


def test_half_precision_loses_little_in_its_sums() -> None:
    """Products in float32, against float64 ones of the very numbers that a bfloat16 model has."""
    random = torch.Generator().manual_seed(0)
    for rows, columns in ((48, 32), (24, 40)):
        layer = nn.Linear(columns, rows, bias=False).to(torch.bfloat16)
        x_TN = torch.randn(600, columns, generator=random).to(torch.bfloat16)
        x_TN[:, 0] *= 300  # a channel that drowns the others, as language models have
        g_TM = torch.randn(600, rows, generator=random).to(torch.bfloat16)
        sums = LinearSums("x", layer, inputs := InputSums())
        sums.attach(layer)
        y_TM = layer(x_TN)
        y_TM.backward(g_TM)
        inputs.flush()
        found, weight_MN = sums.moments(600), layer.weight.detach().double()
        exact = Moments.from_samples(weight_MN, x_TN.double(), g_TM.double())
        wide = rows > columns
        side = (found.side_moment - exact.side_moment).norm() / exact.side_moment.norm()
        assert float(side) < 1e-6
        projected = found.projected_moment - exact.projected_moment
        assert float(projected.norm() / exact.projected_moment.norm()) < (2e-3 if wide else 1e-2)
        # Directions far below the largest one keep their size, to what float32 has left of it.
        values, wanted = (torch.linalg.eigvalsh(m.side_moment) for m in (found, exact))
        assert torch.allclose(values, wanted, rtol=1e-3, atol=float(wanted[-1]) * 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(48, 32), (24, 40)])
def test_moments_are_the_same_whether_the_backward_gives_the_projection_or_not(
    rows: int, columns: int, dtype: torch.dtype
) -> None:
    """An input that wants its gradient has W^T g computed by autograd. Called twice, and once with
    an output that nobody reads."""
    random, found = torch.Generator().manual_seed(1), []
    layer = nn.Linear(columns, rows).to(dtype).requires_grad_(False)
    x_TN = torch.randn(30, columns, generator=random).to(dtype)
    g_TM = torch.randn(30, rows, generator=random).to(dtype)
    for wanted in (False, True):
        sums = LinearSums("x", layer, inputs := InputSums())
        handles = sums.attach(layer)
        one_TN, other_TN = (x.clone().requires_grad_(wanted) for x in (x_TN, x_TN * 2))
        y_TM = layer(one_TN) + layer(other_TN)
        layer(one_TN)
        y_TM.backward(g_TM)
        inputs.flush()
        for handle in handles:
            handle.remove()
        assert not layer._forward_hooks and not layer._forward_pre_hooks
        if wanted:
            assert one_TN.grad is not None and one_TN.grad.any()
        found.append(sums.moments(90))
    one, other = found
    rough = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-6, torch.float64: 1e-12}
    for name in ("projected_moment", "side_moment", "input_square_mean", "input_abs_mean"):
        left, right = getattr(one, name), getattr(other, name)
        assert float((left - right).norm() / left.norm()) <= rough[dtype], name
    assert one.grad_square_mean == other.grad_square_mean > 0
    assert one.grad_output_mean == other.grad_output_mean is not None


def test_an_output_that_somebody_cut_off_still_projects_its_gradient() -> None:
    layer = nn.Linear(4, 8).requires_grad_(False)
    layer.register_forward_hook(lambda _m, _a, output: output.detach())
    sums = LinearSums("x", layer, InputSums())
    sums.attach(layer)
    layer(torch.randn(5, 4, requires_grad=True)).sum().backward()
    assert bool(sums.moments(5).projected_moment.any())
