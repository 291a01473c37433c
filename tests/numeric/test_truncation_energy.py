"""Numbers that must come out: discarded energy, optimality, full rank, nats."""

# M outputs, N inputs, T tokens, V vocabulary, R rank

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from gacfx.calibration.gather import gather
from gacfx.calibration.text import Corpus
from gacfx.compressors.lowrank import channel_scale, decompose
from gacfx.compressors.methods import LOW_RANK, Method, Metric
from gacfx.core.statistics import Moments
from gacfx.modules.install import swapped

SHAPES = [(24, 40), (40, 24), (32, 32)]


class Sample:
    """A weight with its inputs and gradients, and the moments of both sides, long ones as well."""

    def __init__(self, rows: int, columns: int, tokens: int = 400) -> None:
        self.generator = torch.Generator().manual_seed(rows)
        self.weight_MN = self.draw(rows, columns)
        x_TN = self.draw(tokens, columns) @ self.draw(columns, columns)
        g_TM = self.draw(tokens, rows) @ self.draw(rows, rows)
        self.input_NN, self.grad_MM = x_TN.T @ x_TN / tokens, g_TM.T @ g_TM / tokens
        self.moments = Moments.from_samples(self.weight_MN, x_TN, g_TM)

    def draw(self, *shape: int) -> Tensor:
        decay: Tensor = torch.arange(1, shape[1] + 1, dtype=torch.float64) ** -0.5
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64) * decay

    def metrics(self, method: Method) -> tuple[Tensor, Tensor]:
        """(L, R) by their definitions."""
        identity = torch.eye(len(self.grad_MM), dtype=torch.float64)
        left = self.grad_MM if method.left is Metric.MOMENT else identity
        right = {
            Metric.IDENTITY: torch.eye(len(self.input_NN), dtype=torch.float64),
            Metric.CHANNEL_SCALE: channel_scale(self.moments.input_abs_mean).square().diag(),
            Metric.MOMENT: self.input_NN,
        }[method.right]
        return left, right

    def truncated(self, method: Method, rank: int) -> Tensor:
        factors = decompose(self.weight_MN, self.moments, method).factors(rank)
        return factors.tensors["up"] @ factors.tensors["down"]


def energy(error_MN: Tensor, left_MM: Tensor, right_NN: Tensor) -> float:
    return float(torch.trace(left_MM @ error_MN @ right_NN @ error_MN.T))


def singular_values(weight_MN: Tensor, left_MM: Tensor, right_NN: Tensor) -> Tensor:
    """Of C^T W K with Cholesky factors L = C C^T, R = K K^T: another road than the product's."""
    left, right = torch.linalg.cholesky(left_MM), torch.linalg.cholesky(right_NN)
    sigma: Tensor = torch.linalg.svdvals(left.T @ weight_MN @ right)
    return sigma


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_truncation_error_is_the_discarded_energy(shape: tuple[int, int], method: Method) -> None:
    sample = Sample(*shape)
    left_MM, right_NN = sample.metrics(method)
    sigma = singular_values(sample.weight_MN, left_MM, right_NN)
    for rank in (1, 5, 12, 20, 23):
        error = sample.weight_MN - sample.truncated(method, rank)
        wanted = float(sigma[rank:].square().sum())
        assert energy(error, left_MM, right_NN) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_sided_curve_is_half_the_discarded_energy(shape: tuple[int, int]) -> None:
    sample = Sample(*shape)
    sigma = singular_values(sample.weight_MN, sample.grad_MM, sample.input_NN)
    curve = decompose(sample.weight_MN, sample.moments, LOW_RANK["gfwsvd"]).curve("two-sided")
    for rank in range(min(shape)):
        wanted = 0.5 * float(sigma[rank:].square().sum())
        assert curve.loss_nats[rank] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_svd_llm_is_the_whitened_optimum(shape: tuple[int, int]) -> None:
    sample = Sample(*shape)
    values, vectors = torch.linalg.eigh(sample.input_NN)
    root = vectors * values.sqrt() @ vectors.T
    u, sigma, vh = torch.linalg.svd(sample.weight_MN @ root)
    for rank in (1, 8, 17):
        wanted = u[:, :rank] * sigma[:rank] @ vh[:rank] @ torch.linalg.inv(root)
        torch.testing.assert_close(sample.truncated(LOW_RANK["svd-llm"], rank), wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_beats_gfwsvd_in_its_metric(shape: tuple[int, int]) -> None:
    sample = Sample(*shape)
    rank = 9

    def loss(approximation_MN: Tensor) -> float:
        return energy(sample.weight_MN - approximation_MN, sample.grad_MM, sample.input_NN)

    factors = decompose(sample.weight_MN, sample.moments, LOW_RANK["gfwsvd"]).factors(rank)
    best = loss(factors.tensors["up"] @ factors.tensors["down"])
    for method in ("svd", "asvd", "svd-llm"):
        assert best < loss(sample.truncated(LOW_RANK[method], rank))
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(25):
            up = factors.tensors["up"] + scale * sample.draw(*factors.tensors["up"].shape)
            down = factors.tensors["down"] + scale * sample.draw(*factors.tensors["down"].shape)
            assert best < loss(up @ down)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_moments_still_give_the_optimum(shape: tuple[int, int]) -> None:
    sample = Sample(*shape, tokens=10)
    curve = decompose(sample.weight_MN, sample.moments, LOW_RANK["gfwsvd"]).curve("two-sided")
    # Ten tokens span ten directions of inputs and of gradients.
    assert curve.loss_nats[0] > 0
    assert curve.loss_nats[10] < 1e-6 * curve.loss_nats[0]
    sigma = torch.linalg.svdvals(_root(sample.grad_MM) @ sample.weight_MN @ _root(sample.input_NN))
    for rank in (1, 4, 8):
        wanted = 0.5 * float(sigma[rank:].square().sum())
        assert curve.loss_nats[rank] == pytest.approx(wanted, rel=1e-4)


def _root(moment: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("method", LOW_RANK.values(), ids=list(LOW_RANK))
def test_full_rank_model_equals_the_original(method: Method) -> None:
    model, ids_T = tiny(), torch.arange(40)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    moments = gather(model, Corpus((ids_T,)), names).moments
    factors = {}
    for name in names:
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        factors[name] = decompose(weight, moments[name], method).factors(min(weight.shape))
    model.train(False)
    with torch.no_grad():
        wanted = model(ids_T[None]).logits
        with swapped(model, factors):
            found = model(ids_T[None]).logits
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


class Bag(nn.Module):
    """Logits are a linear function of the embedding of the last token."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embed = nn.Embedding(vocab, width)
        self.head = nn.Linear(width, vocab, bias=False)
        # Nearly uniform predictions: there the Kronecker factors are independent, and exact.
        nn.init.normal_(self.head.weight, std=0.1)

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits = self.head(self.embed(ids_BT))
        assert isinstance(logits, Tensor)
        return logits


def test_the_curve_is_the_divergence_in_nats() -> None:
    model = Bag(vocab=16, width=10)
    generator = torch.Generator().manual_seed(0)
    corpus = Corpus(tuple(torch.randint(0, 16, (500,), generator=generator) for _ in range(40)))
    found = decompose(
        model.head.weight, gather(model, corpus, ["head"]).moments["head"], LOW_RANK["gfwsvd"]
    )
    curve = found.curve("two-sided").loss_nats
    ids_T = torch.cat(corpus.documents)
    with torch.no_grad():
        dense_TV = model(ids_T[None])[0].log_softmax(-1)
        for rank in (2, 5, 8):
            with swapped(model, {"head": found.factors(rank)}):
                small_TV = model(ids_T[None])[0].log_softmax(-1)
            divergence = (dense_TV.exp() * (dense_TV - small_TV)).sum(-1).mean()
            assert curve[rank] == pytest.approx(float(divergence), rel=0.1)
