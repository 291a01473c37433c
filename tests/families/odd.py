"""Tiny models as a careless pruning tool leaves them: heads of 10 or 7 numbers, MLPs of 91."""

from dataclasses import dataclass
from typing import Any

import torch

from tests.families.zoo import VOCAB

WIDTH = 91
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 60,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {**_BASE, "num_key_value_heads": 2}
_NORMED: dict[str, Any] = {**_GROUPED, "head_dim": 10, "rms_norm_eps": 0.1}
"""The epsilon is large, so that one that is not corrected shows."""
_NO_WIDTH = {name: value for name, value in _BASE.items() if name != "intermediate_size"}
_OPT = {**_NO_WIDTH, "ffn_dim": WIDTH, "hidden_size": 42, "word_embed_proj_dim": 42}
_GPT2 = {
    **{name: value for name, value in _BASE.items() if name.endswith("_id")},
    "vocab_size": VOCAB,
    "n_embd": 42,
    "n_inner": WIDTH,
    "n_layer": 2,
    "n_head": 6,
    "n_positions": 64,
}


def _rope(kind: str = "default", **more: object) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


@dataclass(frozen=True)
class Odd:
    """A model with odd sizes, and what padding should do with its heads."""

    config: str
    model: str
    settings: dict[str, Any]
    head_dim: int = 10
    layout: str = "end"
    """Where the zeros should go."""

    def make(self) -> Any:
        """The model in eval mode; norms and biases are no ones and zeros."""
        import transformers

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = getattr(transformers, self.config)(**self.settings)
            model = getattr(transformers, self.model)(config).eval()
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
                else:
                    parameter.data.mul_(4)  # scores that matter
        return model


def _of(prefix: str, settings: dict[str, Any], layout: str, head_dim: int = 10, **more: Any) -> Odd:
    return Odd(f"{prefix}Config", f"{prefix}ForCausalLM", {**settings, **more}, head_dim, layout)


ODD: dict[str, Odd] = {
    "llama": _of("Llama", _GROUPED, "halves"),
    "llama3 rope": _of(
        "Llama",
        _GROUPED,
        "halves",
        **_rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "qwen2": _of("Qwen2", _GROUPED, "halves"),
    "qwen3": Odd("Qwen3Config", "Qwen3ForCausalLM", _NORMED, layout="halves"),
    "mistral": _of("Mistral", _GROUPED, "halves", sliding_window=32),
    "gemma3": Odd(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**_NORMED, "sliding_window": 16},
        layout="halves",
    ),
    "smollm3": _of("SmolLM3", _GROUPED, "halves"),
    "cohere": _of("Cohere", _GROUPED, "pairs"),
    "phi3": _of("Phi3", _GROUPED, "end"),
    "phi3 partial": _of("Phi3", _GROUPED, "end", partial_rotary_factor=0.4),
    "phi": _of("Phi", _GROUPED, "end", 12, hidden_size=72, partial_rotary_factor=0.5),
    "glm": Odd("GlmConfig", "GlmForCausalLM", {**_GROUPED, "head_dim": 12}, 12),
    "gptneox": _of("GPTNeoX", _BASE, "end", **_rope(partial_rotary_factor=0.4)),
    "gptneox odd": _of(
        "GPTNeoX", _BASE, "end", 11, hidden_size=66, **_rope(partial_rotary_factor=0.4)
    ),
    "gpt2": Odd("GPT2Config", "GPT2LMHeadModel", _GPT2, 7, "end"),
    "opt": _of("OPT", _OPT, "end", 7),
}
