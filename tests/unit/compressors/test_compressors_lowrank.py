"""Decompositions: exactness at full rank, balance, singular moments, failures with a reason."""

# M outputs, N inputs, T tokens

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gacfx.compressors.lowrank import channel_scale, decompose, moment_root
from gacfx.compressors.methods import LOW_RANK, Method, Metric
from gacfx.core.statistics import Moments
from gacfx.errors import CalibrationError, DecompositionFailed

SHAPES = [(12, 20), (20, 12), (16, 16), (1, 7), (7, 1)]


def sample(rows: int, columns: int, tokens: int = 300, seed: int = 0) -> tuple[Tensor, Moments]:
    """Weight and moments of correlated inputs and gradients with decaying spectra."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def correlated(width: int) -> Tensor:
        decay = torch.arange(1, width + 1, dtype=torch.float64) ** -1.0
        return draw(tokens, width) * decay @ draw(width, width)

    weight_MN = draw(rows, columns)
    return weight_MN, Moments.from_samples(weight_MN, correlated(columns), correlated(rows))


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tokens", [300, 5, 1])
def test_full_rank_gives_the_weight_back(
    shape: tuple[int, int], method: Method, tokens: int
) -> None:
    weight_MN, moments = sample(*shape, tokens)
    factors = decompose(weight_MN, moments, method).factors(min(shape))
    error = (factors.tensors["up"] @ factors.tensors["down"] - weight_MN).norm() / weight_MN.norm()
    assert float(error) < 1e-9


def test_known_names_and_metrics() -> None:
    assert list(LOW_RANK) == [
        *("svd", "asvd", "svd-llm", "svd-llm-v2", "dobi-svd", "basis-sharing", "gfwsvd")
    ]
    assert all(method.name == name and method.source for name, method in LOW_RANK.items())
    assert all(method.left is not Metric.CHANNEL_SCALE for method in LOW_RANK.values())


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_factors_are_balanced_and_nested(shape: tuple[int, int], method: Method) -> None:
    weight_MN, moments = sample(*shape)
    found = decompose(weight_MN, moments, method)
    rank = (min(shape) + 1) // 2
    factors, whole = found.factors(rank), found.factors(min(shape))
    assert factors.tensors["down"].shape == (rank, shape[1])
    assert factors.tensors["up"].shape == (shape[0], rank)
    torch.testing.assert_close(
        factors.tensors["up"].norm(dim=0), factors.tensors["down"].norm(dim=1)
    )
    torch.testing.assert_close(factors.tensors["down"], whole.tensors["down"][:rank])
    torch.testing.assert_close(factors.tensors["up"], whole.tensors["up"][:, :rank])


def test_dtype_of_factors() -> None:
    weight_MN, moments = sample(12, 20)
    found = decompose(weight_MN.bfloat16(), moments, LOW_RANK["gfwsvd"])
    assert found.factors(3).tensors["down"].dtype == torch.bfloat16
    assert found.factors(3, torch.float32).tensors["up"].dtype == torch.float32
    # Balanced factors fit into half precision where one of an unbalanced pair would not.
    big = decompose(weight_MN * 1e6, sample(12, 20)[1], LOW_RANK["svd"])
    assert big.factors(12, torch.float16).finite
    with pytest.raises(DecompositionFailed, match="overflow"):
        decompose(weight_MN * 1e12, moments, LOW_RANK["svd"]).factors(12, torch.float16)


def test_ranks_outside_are_refused() -> None:
    found = decompose(*sample(12, 20), LOW_RANK["svd"], module="here")
    for rank in (0, 13, -1):
        with pytest.raises(ValueError, match=f"here: rank {rank} is outside"):
            found.factors(rank)


def test_moments_of_another_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        decompose(sample(12, 20)[0].T, sample(12, 20)[1], LOW_RANK["svd"])


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize(
    "field", ["projected_moment", "side_moment", "input_abs_mean", "input_abs_max"]
)
def test_bad_statistics_are_a_reason(method: Method, field: str) -> None:
    weight_MN, moments = sample(12, 20)
    getattr(moments, field).view(-1)[3] = torch.nan
    with pytest.raises(DecompositionFailed, match=r"a\.b: NaN or infinite calibration") as caught:
        decompose(weight_MN, moments, method, module="a.b")
    assert caught.value.module == "a.b"
    assert caught.value.reason == "NaN or infinite calibration statistics"
    assert isinstance(caught.value, CalibrationError)


def test_other_failures_have_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_MN, moments = sample(12, 20)
    nothing = replace(moments, input_square_mean=torch.zeros(20))
    with pytest.raises(DecompositionFailed, match="no calibration token"):
        decompose(weight_MN, nothing, LOW_RANK["svd"])
    with pytest.raises(DecompositionFailed, match="NaN or infinite gradient"):
        decompose(weight_MN, replace(moments, grad_square_mean=torch.inf), LOW_RANK["svd"])
    with pytest.raises(DecompositionFailed, match="NaN or infinite weight"):
        decompose(weight_MN * torch.inf, moments, LOW_RANK["svd"])

    def diverge(_matrix: Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")  # type: ignore[attr-defined]

    monkeypatch.setattr(torch.linalg, "eigh", diverge)
    with pytest.raises(DecompositionFailed, match="no decomposition"):
        decompose(weight_MN, moments, LOW_RANK["svd"])


def test_huge_numbers_are_a_reason_not_a_wrong_answer() -> None:
    weight_MN, moments = sample(12, 20)
    with pytest.raises(DecompositionFailed):
        decompose(weight_MN * 1e200, moments, LOW_RANK["svd"])


def test_a_weight_without_gradient_is_not_decomposed_as_nobody_knows_what_it_costs() -> None:
    for shape in ((12, 20), (20, 12)):
        weight_MN, _ = sample(*shape)
        inputs_TN = torch.ones(5, shape[1], dtype=torch.float64)
        moments = Moments.from_samples(weight_MN, inputs_TN, torch.zeros(5, shape[0]).double())
        with pytest.raises(DecompositionFailed, match="it runs without gradient"):
            decompose(weight_MN, moments, LOW_RANK["gfwsvd"])


def test_roots_of_a_singular_moment() -> None:
    x_TN = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moment = x_TN.T @ x_TN
    root = moment_root(moment)
    assert torch.equal(root, root.tril())
    torch.testing.assert_close(root @ root.T, moment, atol=1e-8, rtol=1e-8)
    assert torch.linalg.cond(root) < 1.1e5
    assert torch.equal(moment_root(torch.zeros(4, 4).double()), torch.eye(4).double())


def test_rounding_below_zero_is_raised() -> None:
    """Fewer tokens than inputs, with products in float32."""
    x_TN = torch.randn(128, 256, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    moment = (x_TN.T @ x_TN).double()
    assert float(torch.linalg.eigvalsh(moment)[0]) < -1e-9 * float(moment.norm())
    root = moment_root(moment)
    assert torch.equal(root, root.tril())
    assert float((root @ root.T - moment).norm() / moment.norm()) < 1e-6
    assert torch.linalg.cond(root) < 1.1e5


def test_the_root_does_not_matter() -> None:
    """Factors and curves of a Cholesky factor are those of the symmetric root."""
    for shape in ((12, 20), (20, 12)):
        weight_MN, moments = sample(*shape)
        found = decompose(weight_MN, moments, LOW_RANK["gfwsvd"])
        values_S, vectors_SS = torch.linalg.eigh(moments.side_moment)
        root_SS = vectors_SS * values_S.sqrt() @ vectors_SS.T
        energy_S = torch.linalg.eigvalsh(root_SS @ moments.projected_moment @ root_SS)
        wanted = 0.5 * energy_S.cumsum(0).flip(0)  # without the largest r
        losses = torch.from_numpy(found.curve("two-sided").loss_nats)[:-1]
        torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=float(wanted[0]) * 1e-9)


def test_dead_channels_keep_a_scale_relative_to_the_others() -> None:
    scale = channel_scale(torch.tensor([4.0, 0.0, 1.0, 9.0, 0.0]))
    torch.testing.assert_close(scale, torch.tensor([2.0, 2e-3, 1.0, 3.0, 2e-3]))
    torch.testing.assert_close(channel_scale(torch.tensor([4.0, 0.0]) * 1e-8), scale[:2] * 1e-4)
