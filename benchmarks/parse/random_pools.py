"""Models of the shapes of real ones with random pools and a router of as many kinds, to time."""

import copy
from typing import Any

import torch
from torch import nn

from gacfx.core.decision import break_even
from gacfx.core.materialise import Factors
from gacfx.core.routed import Routed
from gacfx.modules.install import install_
from gacfx.modules.prompt_router import PromptRouter
from gacfx.modules.routing_hooks import attach_, pools
from gacfx.routing.bases import pool_of
from gacfx.routing.classes import class_router, own_patterns
from gacfx.routing.prompts import Prompts

KINDS, BLOCK, RUNS = 5, 32, 0.6
SHAPES: dict[str, dict[str, int]] = {
    "smollm2-6": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 6,
        "vocab_size": 4096,
    },
    "llama-3.2-1b-2": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 2,
        "vocab_size": 4096,
    },
}
"""Sizes of the real layers; fewer of them, and a small vocabulary, so that layers are what is
measured."""


def dense_model(sizes: dict[str, int]) -> Any:
    """A random Llama.

    Args:
        sizes: of its configuration, as in :data:`SHAPES`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    asked: dict[str, Any] = {"max_position_embeddings": 2049, **sizes}
    config = LlamaConfig(**asked, tie_word_embeddings=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def routed_model(dense: nn.Module) -> nn.Module:
    """A copy whose linears are pools of random numbers, with a router of as many kinds."""
    model, factors = copy.deepcopy(dense), dict[str, Factors]()
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and name != "lm_head":
            rows, columns = layer.weight.shape
            decision = decision_for(rows, columns)
            made = {
                each: torch.randn(stored.shape) / stored.shape[1] ** 0.5
                for each, stored in decision.tensors(rows, columns).items()
            }
            factors[name] = Factors(decision, rows, columns, made)
    install_(model, factors)
    attach_(model, random_router(model))
    return model.requires_grad_(False)


def decision_for(rows: int, columns: int) -> Routed:
    """A pool of which the share that runs has the parameters of 60 % of the weight."""
    rank = int(RUNS * break_even(rows, columns)) // BLOCK * BLOCK
    return pool_of(rank, rank // 2 // BLOCK * BLOCK, BLOCK, KINDS)


def random_router(model: Any) -> PromptRouter:
    """A router that has seen random prompts."""
    features = model.get_input_embeddings().weight.shape[1]
    prompts = Prompts({128: tuple(torch.randn(24, features) + at for at in range(KINDS))})
    routed = {name: layer.decision for name, layer in pools(model).items()}
    return class_router(prompts, routed, own_patterns(routed, KINDS))
