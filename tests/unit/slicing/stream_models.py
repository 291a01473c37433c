"""Tiny random models whose residual stream can be turned, one for each thing to be folded."""

from typing import Any

import torch

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TURNED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3, norms in heads": ("Qwen3", {"head_dim": 8, "rms_norm_eps": 1e-2}),
    "phi3, fused": ("Phi3", {}),
    "gemma, 1 + weight, scaled and tied": ("Gemma", {"head_dim": 8}),
    "granite, multipliers": (
        "Granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "cohere, parallel, LayerNorm": ("Cohere", {}),
    "phi, parallel, LayerNorm, shift": ("Phi", {}),
    "starcoder2, LayerNorm, shift, tied": ("Starcoder2", {}),
}
"""Name -> (class in transformers, what is not as in ``BASE``)."""


def turned(name: str) -> Any:
    """A model in eval mode whose vectors are no ones and zeros."""
    kind, more = TURNED[name]
    return random_model(kind, **more)


def random_model(kind: str, **more: Any) -> Any:
    """A model of transformers in eval mode; norms and biases are random as well."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**BASE, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.3 * torch.randn_like(parameter)
                else:
                    parameter *= 3.0
    return model


def ids() -> torch.Tensor:
    """[2, 15] tokens, none of them special."""
    return torch.randint(3, 97, (2, 15), generator=torch.Generator().manual_seed(1))
