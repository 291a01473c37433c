"""Moments of the long side: gathered where asked for, exact enough, and nothing else changes."""

# T tokens, M outputs, N inputs

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.calibration import batches
from gacfx.calibration.gather import gather
from gacfx.calibration.sums import InputSums
from gacfx.calibration.text import split
from gacfx.core.statistics import Moments
from gacfx.core.stored_moments import merge
from gacfx.errors import CalibrationError
from tests.unit.calibration.samples import Toy, corpus, gpt2, linears, llama
from tests.unit.calibration.test_calibration_gather import direct

MLP = "model.layers.0.mlp.{}_proj"
ATTENTION = "model.layers.1.self_attn.{}_proj"


@pytest.mark.parametrize("build", [llama, gpt2])
def test_both_moments_equal_a_direct_computation(build: Any) -> None:
    model, text = build(), corpus(40, 33, 57)
    found = gather(model, text, linears(model), both_sides=linears(model), seed=5).moments
    for name, part in found.items():
        input_NN, grad_MM, _ = direct(model, text, name, seed=5)
        torch.testing.assert_close(part.input_moment, input_NN)
        torch.testing.assert_close(part.grad_moment, grad_MM)
        assert part.long_moment is (part.grad_moment if part.wide else part.input_moment)


def test_only_those_that_are_named_get_them_and_nothing_else_changes() -> None:
    model, text = llama(torch.float32), corpus(40, 33)
    named = {MLP.format("down"), MLP.format("up"), ATTENTION.format("k")}
    plain = gather(model, text, linears(model)).moments
    found = gather(model, text, linears(model), both_sides=named).moments
    for name, part in found.items():
        assert (part.long_moment is not None) == (name in named)
        for field in ("projected_moment", "side_moment", "input_abs_mean", "input_square_mean"):
            assert torch.equal(getattr(part, field), getattr(plain[name], field))
        assert part.grad_square_mean == plain[name].grad_square_mean
    gate, down = plain[MLP.format("gate")], plain[MLP.format("down")]
    with pytest.raises(CalibrationError, match=r"output gradients of a weight \[24, 16\] was not"):
        _ = gate.grad_moment
    with pytest.raises(CalibrationError, match=r"inputs of a weight \[16, 24\] was not gathered"):
        _ = down.input_moment
    assert torch.equal(gate.input_moment, gate.side_moment)
    assert torch.equal(down.grad_moment, down.side_moment)


def test_weights_that_are_fed_alike_share_one_moment() -> None:
    model = llama()
    found = gather(model, corpus(40, 33), linears(model), both_sides=linears(model))
    merged = merge((found, found), "").moments
    for moments in (found.moments, merged):
        q, k, v, o = (moments[ATTENTION.format(x)] for x in "qkvo")
        assert q.long_moment is k.long_moment is v.long_moment is not o.long_moment
        assert q.long_moment is not None


def test_wide_and_narrow_weights_with_one_input() -> None:
    """The wide one wants products in float64, the narrow ones are content with float32."""
    inputs, x_TN = InputSums(), torch.randn(20, 6)
    for order in (["narrow", "wide", "other"], ["wide", "narrow"]):
        for name in order:
            inputs.add(name, x_TN, x_TN.double() if name == "wide" else x_TN.clone())
        inputs.flush()
    want = x_TN.double().T @ x_TN.double()
    for name, calls in (("wide", 2), ("narrow", 2), ("other", 1)):
        found = inputs.mean(name, 1)
        assert found is not None and found.dtype == torch.float64
        torch.testing.assert_close(found, calls * want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_in_float32_are_exact_enough(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """The same rows, in float64 and in float32: far less than 1e-6 apart."""
    monkeypatch.setattr(batches, "MOST_TOKENS", 1)  # the hooks below see nothing else then
    model, text = llama(dtype), corpus(64, 50, 60, 64)
    rows: dict[str, list[Tensor]] = {}
    for name in (MLP.format("down"), MLP.format("gate")):

        def keep(_m: Any, args: Any, out: Tensor, name: str = name) -> None:
            wide = name.endswith("gate_proj")
            if not wide:
                rows.setdefault(name, []).append(args[0].detach().flatten(0, -2).double())
            elif out.requires_grad:
                out.register_hook(
                    lambda g: rows.setdefault(name, []).append(g.flatten(0, -2).double())
                )

        model.get_submodule(name).register_forward_hook(keep)
    # Hooks run in order: an embedding that needs a gradient lets ours see the output's too.
    model.model.embed_tokens.register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    found = gather(model, text, list(rows_names()), both_sides=set(rows_names())).moments
    for name, part in found.items():
        calls_TL = torch.cat(rows[name])
        want = calls_TL.T @ calls_TL / text.tokens
        assert part.long_moment is not None
        error = float((part.long_moment - want).norm() / want.norm())
        assert error < 1e-6


def rows_names() -> tuple[str, str]:
    return MLP.format("down"), MLP.format("gate")


def test_products_of_many_channels_go_in_blocks() -> None:
    inputs = InputSums()
    x_TN = torch.randn(30, 450, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for rows_TN in (x_TN[:10], x_TN[10:]):
        inputs.add("down", rows_TN, rows_TN.clone())
        inputs.flush()
    found = inputs.mean("down", 3)
    assert found is not None and torch.equal(found, found.T)
    torch.testing.assert_close(found, x_TN.T @ x_TN / 3)


def test_many_rows_in_float32_are_exact_enough() -> None:
    """Documents of 4096 tokens whose channels differ in scale by 1e4."""
    generator = torch.Generator().manual_seed(0)
    scale_N = torch.logspace(-2, 2, 96)
    inputs, exact = InputSums(), torch.zeros(96, 96, dtype=torch.float64)
    for _ in range(3):
        x_TN = (torch.randn(4096, 96, generator=generator) + 0.5) * scale_N
        inputs.add("down", x_TN, x_TN.clone())
        inputs.flush()
        exact += x_TN.double().T @ x_TN.double()
    found = inputs.mean("down", 1)
    assert found is not None
    assert 0 < float((found - exact).norm() / exact.norm()) < 1e-6
    root_N = exact.diagonal().sqrt()
    assert float(((found - exact) / root_N / root_N[:, None]).abs().max()) < 1e-6


def test_merged_parts_equal_the_whole() -> None:
    model, whole = llama(), corpus(40, 33, 57, 21)
    parts = [
        gather(model, part, linears(model), both_sides=linears(model)) for part in split(whole)
    ]
    merged = merge(parts, whole.digest).moments
    want = gather(model, whole, linears(model), both_sides=linears(model)).moments
    for name, part in merged.items():
        torch.testing.assert_close(part.long_moment, want[name].long_moment)
    plain = gather(model, whole, linears(model))
    assert all(part.long_moment is None for part in merge((parts[0], plain), "").moments.values())


def test_idle_modules_and_several_calls() -> None:
    text, names = corpus(40), ["wide", "narrow", "idle"]
    twice = gather(Toy("twice"), text, names, both_sides=names).moments
    assert twice["idle"].problem() == "no calibration token reached this weight"
    assert not twice["idle"].grad_moment.any()
    h_TN = Toy("twice").wide(Toy("twice").embed(text.documents[0])).detach()
    torch.testing.assert_close(twice["narrow"].input_moment, 2 * h_TN.T @ h_TN / 40)
    idle = gather(Toy("once"), text, ["narrow", "wide"], both_sides=["narrow"]).moments["narrow"]
    assert idle.input_moment.shape == (12, 12)
    assert not idle.input_moment.any()


def test_from_both_sides_equals_samples_and_nan_is_a_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((5, 8), (8, 5), (6, 6)):
        weight, x, g = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((rows, columns), (30, columns), (30, rows))
        )
        want = Moments.from_samples(weight, x, g, both_sides=True)
        found = Moments.from_both_sides(
            weight, want.input_moment, want.grad_moment, want.input_abs_mean
        )
        for field in ("projected_moment", "side_moment", "long_moment", "input_square_mean"):
            torch.testing.assert_close(getattr(found, field), getattr(want, field))
        assert found.shape == want.shape
        assert found.grad_square_mean == pytest.approx(want.grad_square_mean)
        assert want.long_moment is not None
        bad = replace(want, long_moment=want.long_moment * torch.nan)
        assert bad.problem() == "NaN or infinite calibration statistics"
