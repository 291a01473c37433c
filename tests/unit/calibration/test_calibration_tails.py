"""Losses of every rank, token by token: against errors of the weight itself, whole and by layer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.calibration import batches
from gacfx.calibration.counting import Counting
from gacfx.calibration.labels import generator_of, sample_labels
from gacfx.calibration.tails import token_tails
from gacfx.calibration.text import Corpus
from gacfx.core.store import Drawer, MemoryStore
from gacfx.modules.dense import dense_weight
from tests.families.zoo import FAMILIES, VOCAB

NAMES = {
    "llama": ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj",
              "model.layers.1.mlp.down_proj"),
    "gpt2": ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"),
    "qwen2": ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.gate_proj"),
}  # fmt: skip
"""Family -> square, wide, tall and transposed weights, with and without a bias."""


def corpus(*lengths: int) -> Corpus:
    random = torch.Generator().manual_seed(1)
    return Corpus(
        tuple(torch.randint(3, VOCAB, (n,), generator=random) for n in lengths or (40, 37, 48))
    )


def components(model: Any, names: tuple[str, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Terms of each weight in an order of no meaning, in float64."""
    found = {}
    for name in names:
        weight_MN = dense_weight(model.get_submodule(name)).double()
        u, s, v = torch.linalg.svd(weight_MN, full_matrices=False)
        order = torch.randperm(len(s), generator=torch.Generator().manual_seed(len(s)))
        found[name] = (u * s)[:, order], v[order]
    return found


def seen(model: Any, name: str, text: Corpus) -> tuple[Tensor, Tensor]:
    """(inputs [T, N], gradients [T, M]) of all tokens, each document alone."""
    inputs, gradients = list[Tensor](), list[Tensor]()
    module = model.get_submodule(name)

    def look(_module: Any, args: Any, output: Tensor) -> None:
        inputs.append(args[0].detach().flatten(0, -2))
        output.register_hook(lambda grad: gradients.append(grad.flatten(0, -2)))

    hook = module.register_forward_hook(look)
    for ids_T in text.documents:
        logits_TV = model(ids_T[None]).logits[0]
        labels_T = sample_labels(logits_TV.detach(), generator_of(7, ids_T))
        torch.nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum").backward()
    hook.remove()
    return torch.cat(inputs), torch.cat(gradients)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("at_once", [2048, 1], ids=["together", "alone"])
def test_a_rank_costs_what_the_error_of_its_weight_costs_each_token(
    family: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_TOKENS", at_once)
    model: Any = FAMILIES[family].make()
    text, terms = corpus(), components(model, NAMES[family])
    found = token_tails(model, text, terms, seed=7)
    for name, (up_MS, down_SN) in terms.items():
        x_TN, g_TM = (each.double() for each in seen(model, name, text))
        ranks = up_MS.shape[1]
        wanted = []
        for rank in range(ranks + 1):
            error_MN = up_MS[:, rank:] @ down_SN[rank:]
            wanted.append(float((g_TM * (x_TN @ error_MN.T)).sum(1).square().sum() / 2))
        losses = torch.tensor(wanted, dtype=torch.float64) / text.tokens
        losses = losses.flip(0).cummax(0).values.flip(0)
        assert found[name].shape == (ranks + 1,) and found[name].dtype == torch.float64
        assert torch.allclose(found[name], losses, rtol=1e-3, atol=1e-6 * float(losses[0]))
        assert float(found[name][-1]) == 0.0 and float(losses[0]) > 0


def test_every_token_counts_whatever_counts_in_moments() -> None:
    model: Any = FAMILIES["llama"].make()
    text, terms = corpus(), components(model, NAMES["llama"][:1])
    fewer = replace(text, counting=Counting(first=8, last=3))
    for by_layer in (False, True):
        every, some = (
            token_tails(model, one, terms, seed=7, store=MemoryStore() if by_layer else None)
            for one in (text, fewer)
        )
        assert all(torch.equal(every[name], some[name]) for name in terms)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_one_layer_at_a_time_gives_the_same_and_keeps_it(family: str) -> None:
    model: Any = FAMILIES[family].make()
    names = {**NAMES, "mixtral": ("model.layers.0.self_attn.q_proj",)}[family]
    text, terms, store = corpus(), components(model, names), MemoryStore()
    whole = token_tails(model, text, terms, seed=7)
    drawer = Drawer(store, "tails.svd")
    parts = token_tails(model, text, terms, seed=7, store=drawer)
    for name in names:
        assert torch.allclose(whole[name], parts[name], rtol=1e-5)
    kept = [name for name in store._sets if name.startswith("tails.svd.moments")]
    assert kept and not any(name.split(".")[2] in ("hidden", "grads") for name in store._sets)

    def reads(*_: Any) -> None:
        raise AssertionError("what is kept is not measured again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gacfx.calibration.tails.TailSums", reads)
        again = token_tails(model, text, terms, seed=7, store=drawer)
    assert all(torch.equal(again[name], parts[name]) for name in names)


def test_a_model_whose_layers_do_not_run_alone_is_read_whole() -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside: Any = FAMILIES["llama"].make()

        def forward(self, ids: Tensor) -> Any:
            return self.inside(ids)

    model, text = Wrapped(), corpus()
    name = "inside.model.layers.0.self_attn.q_proj"
    terms = components(model, (name,))
    found = token_tails(model, text, terms, seed=7, store=Drawer(MemoryStore(), "tails"))
    assert torch.equal(found[name], token_tails(model, text, terms, seed=7)[name])


def test_terms_of_few_weights_are_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = FAMILIES["llama"].make()
    text, terms, done = corpus(), components(model, NAMES["llama"]), list[float]()
    whole = token_tails(model, text, terms, seed=7)
    monkeypatch.setattr("gacfx.calibration.tails.MOST_BYTES", 1)
    found = token_tails(model, text, terms, seed=7, progress=done.append)
    assert all(torch.equal(found[name], whole[name]) for name in terms)
    assert len(done) == 3 * len(batches.batches(text.documents, batches.Reads.PADDED))
    assert sum(done) == pytest.approx(len(text.documents))


def test_what_is_left_of_the_model_is_as_it_was() -> None:
    model: Any = FAMILIES["llama"].make()
    terms = components(model, NAMES["llama"])
    before = [p.requires_grad for p in model.parameters()]
    token_tails(model, corpus(), terms)
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())
    assert not any(each._forward_hooks for each in model.modules())
    assert token_tails(model, corpus(), {}) == {}
