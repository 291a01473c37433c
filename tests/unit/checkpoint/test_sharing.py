"""Which tensors are one and the same, and which only look so: empty ones, and those on disk."""

import torch
from torch import nn

from gacfx.checkpoint.sharing import declared_ties, memory_of, undeclared
from tests import tiny


def test_views_of_one_memory_share_it() -> None:
    whole = torch.zeros(4, 4)
    assert memory_of("a", whole) == memory_of("b", whole[1:].T) == memory_of("c", whole.detach())
    assert memory_of("a", whole) != memory_of("a", whole.clone())


def test_what_has_no_memory_shares_none() -> None:
    for size, device in ((0, "cpu"), (4, "meta")):
        one, two = torch.empty(size, device=device), torch.empty(size, device=device)
        assert memory_of("a", one) != memory_of("b", two)


def test_of_what_is_shared_the_declared_names_are_left_to_the_loader() -> None:
    model = tiny.llama(tie_word_embeddings=True)
    assert declared_ties(model) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert undeclared(model) == set()
    first, second = model.model.layers
    second.self_attn.q_proj = first.self_attn.q_proj
    assert undeclared(model) == {"model.layers.1.self_attn.q_proj.weight"}


def test_a_module_without_transformers_declares_nothing() -> None:
    pair = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    pair[1].weight = pair[0].weight
    assert declared_ties(pair) == {} and undeclared(pair) == {"1.weight"}
    assert undeclared(pair.to("meta")) == set()
