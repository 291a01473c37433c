"""Basis Sharing: one decomposition of several weights, its losses, and which weights share."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gacfx.compressors.basis_sharing import LONELY, BasisSharing, Candidate
from gacfx.compressors.curves import OutputWeight
from gacfx.compressors.methods import METHODS
from gacfx.compressors.shared import SharedSvd, decompose_shared, shared_factors
from gacfx.compressors.values import VALUES
from gacfx.core.search import Search
from gacfx.core.shared_basis import SharedBasis
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed, PipelineError


def method(name: str = "basis-sharing") -> BasisSharing:
    found = METHODS.find(name)
    assert isinstance(found, BasisSharing)
    return found


METHOD = method()
TALL, FLAT, BOTH = (12, 7), (3, 9), (6, 9)
"""Each weight has more outputs; all together have fewer; only all together have more."""


def drawn(
    shape: tuple[int, int], count: int = 2
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(weights, input moments A, gradient moments G), all float64."""
    draw = torch.Generator().manual_seed(shape[0])

    def moment(size: int) -> Tensor:
        half = torch.randn(40, size, generator=draw, dtype=torch.float64)
        half *= torch.rand(size, generator=draw, dtype=torch.float64) + 0.1
        return half.T @ half / 40

    weights = [torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(count)]
    return weights, [moment(shape[1]) for _ in weights], [moment(shape[0]) for _ in weights]


def moments(weights: list[Tensor], inputs: list[Tensor], grads: list[Tensor]) -> dict[str, Moments]:
    made = (
        Moments.from_both_sides(w, a, g, a.diagonal().sqrt())
        for w, a, g in zip(weights, inputs, grads, strict=True)
    )
    return {f"layers.{at}.q": each for at, each in enumerate(made)}


def shared(shape: tuple[int, int], count: int = 2) -> SharedSvd:
    weights, inputs, grads = drawn(shape, count)
    known = moments(weights, inputs, grads)
    return decompose_shared("q", dict(zip(known, weights, strict=True)), known, METHOD)


@pytest.mark.parametrize("shape", [TALL, FLAT, BOTH])
@pytest.mark.parametrize("count", [2, 3])
def test_the_error_is_the_tail_of_the_stacked_weights(shape: tuple[int, int], count: int) -> None:
    weights, inputs, _ = drawn(shape, count)
    whole = torch.stack(inputs).sum(0)
    sigma = torch.linalg.svdvals(torch.cat(weights) @ torch.linalg.cholesky(whole))
    found = shared(shape, count)
    for rank in (1, 2, len(sigma) - 1):
        up, down = found.pair(rank)
        gap = torch.cat(weights) - up @ down
        error = (gap @ whole * gap).sum()
        torch.testing.assert_close(error, sigma[rank:].square().sum(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [TALL, FLAT, BOTH])
def test_losses_are_counted_layer_by_layer(shape: tuple[int, int]) -> None:
    weights, inputs, grads = drawn(shape)
    found = shared(shape)
    two_sided, fisher, relative = (
        VALUES.find(name).shared_curve(found) for name in ("two-sided", "fisher", "relative")
    )
    assert two_sided.facts.members == ("layers.0.q", "layers.1.q")
    assert (two_sided.facts.shape, two_sided.facts.value_model) == (
        (2 * shape[0], shape[1]),
        "two-sided",
    )
    for rank in (1, 3, 5):
        up, down = found.pair(rank)
        gaps = [w - u @ down for w, u in zip(weights, up.split(shape[0]), strict=True)]
        each = list(zip(gaps, inputs, grads, weights, strict=True))
        nats = sum(0.5 * torch.trace(g @ d @ a @ d.T) for d, a, g, _ in each)
        plain = [0.5 * torch.trace(d @ a @ d.T) for d, a, _, _ in each]
        means = [g.trace() / shape[0] for g in grads]
        own = [0.5 * torch.trace(w @ a @ w.T) for _, a, _, w in each]
        assert two_sided.losses[rank] == pytest.approx(float(nats), rel=1e-6)
        mean = sum(m * p for m, p in zip(means, plain, strict=True))
        assert fisher.losses[rank] == pytest.approx(float(mean), rel=1e-6)
        share = sum(p / o for p, o in zip(plain, own, strict=True))
        assert relative.losses[rank] == pytest.approx(float(share), rel=1e-6)
    assert relative.losses[0] == pytest.approx(2.0)
    assert two_sided.losses[-1] < 1e-9 * two_sided.losses[0]


@pytest.mark.parametrize("shape", [TALL, BOTH])
def test_a_group_of_one_is_svd_llm(shape: tuple[int, int]) -> None:
    (weight,), _, _ = found = drawn(shape, 1)
    known = moments(*found)
    alone = METHODS.find("svd-llm").decompose(weight, known["layers.0.q"], "q")
    made = shared(shape, 1)
    for rank in range(1, min(shape) + 1):
        ours, theirs = made.pair(rank), alone.pair(rank)
        torch.testing.assert_close(ours[0] @ ours[1], theirs[0] @ theirs[1], rtol=1e-9, atol=1e-9)
    losses = made.losses(OutputWeight.MOMENT)
    np.testing.assert_allclose(losses, alone.curve("two-sided").loss_nats, rtol=1e-8, atol=1e-9)


def test_factors_have_one_basis_and_the_norms_of_half_precision() -> None:
    found = shared(BOTH)
    made = shared_factors(found, SharedBasis(4))
    first, second = made.values()
    assert list(made) == ["layers.0.q", "layers.1.q"] and list(second.tensors) == ["up"]
    assert (first.decision, second.decision) == (SharedBasis(4), SharedBasis(4, 1))
    up = torch.cat([first.tensors["up"], second.tensors["up"]])
    torch.testing.assert_close(up, found.pair(4)[0])
    torch.testing.assert_close(up.norm(dim=0), first.tensors["down"].norm(dim=1))


def test_what_cannot_be_decomposed_together() -> None:
    weights, inputs, grads = drawn(FLAT)
    known = moments(weights, inputs, grads)
    named = dict(zip(known, weights, strict=True))
    short = {**named, "layers.1.q": weights[1][:2]}
    lacking = {name: replace(each, long_moment=None) for name, each in known.items()}
    spoilt = {**known, "layers.1.q": replace(known["layers.1.q"], grad_square_mean=0.0)}
    for given, of, message in (
        (short, known, "of different shapes"),
        (named, {"layers.0.q": known["layers.0.q"]}, "no calibration statistics"),
        (named, lacking, "inputs of a weight .* was not gathered"),
        (named, spoilt, "layers.1.q: it runs without gradient"),
        ({**named, "layers.1.q": weights[1] * torch.inf}, known, "NaN or infinite weight"),
    ):
        with pytest.raises(DecompositionFailed, match=message):
            decompose_shared("q", given, of, METHOD)


def test_importance_says_nothing_of_a_basis() -> None:
    with pytest.raises(DecompositionFailed, match="'paper' says nothing of what a shared basis"):
        VALUES.find("paper").shared_curve(shared(FLAT))


# -- who shares ------------------------------------------------------------------------------------

NAMES = [f"model.layers.{layer}.mlp.up" for layer in range(5)]
WEIGHT = Candidate(8, 4, "fp32")
WEIGHTS = dict.fromkeys(NAMES, WEIGHT)


def test_neighbours_share_and_the_last_one_is_alone() -> None:
    found = METHOD.group({**WEIGHTS, "lm_head": WEIGHT}, {}, ())
    assert found.groups == {f"{NAMES[0]}+1": (*NAMES[:2],), f"{NAMES[2]}+1": (*NAMES[2:4],)}
    assert found.reasons == {NAMES[4]: LONELY}
    three = method("basis-sharing:layers=3")
    assert list(map(len, three.group(WEIGHTS, {}, ()).groups.values())) == [3, 2]


def test_types_do_not_mix_and_closing_weights_stay_alone_without_a_word() -> None:
    weights = {f"layers.{n}.{kind}": WEIGHT for n in range(2) for kind in ("a", "b", "down")}
    found = METHOD.group(weights, {}, {"layers.0.down", "layers.1.down"})
    assert list(found.groups) == ["layers.0.a+1", "layers.0.b+1"] and not found.reasons


@pytest.mark.parametrize(
    ("odd", "left_out", "message"),
    [
        (Candidate(8, 5, "fp32"), {}, "is 8 x 4 and model.layers.1.mlp.up is 8 x 5"),
        (Candidate(8, 4, "bf16"), {}, "one dtype, and .* is fp32 and .* is bf16"),
        (Candidate(8, 4, "fp32", routed=True), {}, "experts of different layers"),
        (None, {NAMES[1]: "skipped by '*.1.*'"}, "left out of the plan: skipped by"),
        (None, {NAMES[1]: "shares its weight with lm_head"}, "shares its weight with lm_head"),
        (None, {}, LONELY),
    ],
)
def test_weights_that_share_nothing(
    odd: Candidate | None, left_out: dict[str, str], message: str
) -> None:
    weights = {NAMES[0]: WEIGHT, **({NAMES[1]: odd} if odd else {})}
    found = METHOD.group(weights, left_out, ())
    assert not found.groups and found.reasons.keys() == weights.keys()
    for reason in found.reasons.values():
        assert re.search(message, reason)


def test_layers_in_between_are_needed() -> None:
    three = method("basis-sharing:layers=3")
    found = three.group({NAMES[0]: WEIGHT, NAMES[2]: WEIGHT}, {}, ())
    assert "are not of consecutive layers" in found.reasons[NAMES[2]] and not found.groups


def test_one_layer_is_no_group() -> None:
    one = method("basis-sharing:layers=1")
    assert one.shares == 1
    assert not one.group(WEIGHTS, {}, ()).groups


@pytest.mark.parametrize("layers", ["0", "-1", "1001", "two"])
def test_numbers_of_layers_that_cannot_be(layers: str) -> None:
    with pytest.raises(PipelineError, match="layers"):
        METHODS.find(f"basis-sharing:layers={layers}")


def test_nothing_is_pruned_beside_it() -> None:
    assert METHOD.offered(Search()) == ("low-rank", "pivot")
    assert METHOD.offered(Search(form="shared-basis")) == ("shared-basis",)
    with pytest.raises(PipelineError, match="several layers at once"):
        METHOD.offered(Search(prune="both"))
    with pytest.raises(PipelineError, match="makes no 'shared-basis' decisions"):
        METHODS.find("svd-llm").offered(Search(form="shared-basis"))
