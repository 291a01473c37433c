"""Tiny random Hugging Face models, one for each architecture family, two layers each.

Residual width 48, MLP width 88 (experts of two families 40), 6 heads: none is a power of two, so a
size tells what it is. Batch and sequence are odd for the same reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

VOCAB = 97
MLP_WIDTHS = (88, 40)
"""Widths of MLPs and experts; no other size of any family is one of these."""

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {**_BASE, "num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {**_GROUPED, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    """One architecture family: how to build a tiny model, and what to feed it."""

    name: str
    config: Callable[[], Any]
    model: str
    """Class in transformers."""
    feeds: Literal["tokens", "tokens to tokens", "pixels"] = "tokens"
    cache: bool = True
    """The forward takes ``use_cache``."""

    def make(self, seed: int = 0) -> torch.nn.Module:
        """A random model in eval mode, the same one for the same seed."""
        import transformers

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: torch.nn.Module = getattr(transformers, self.model)(self.config()).eval()
        if hasattr(model.config, "num_experts_per_tok"):
            # Eager experts depend on data and cannot be exported.
            model.set_experts_implementation("grouped_mm")  # type: ignore[operator]
        return model

    def inputs(self, batch: int = 3, seq: int = 17, seed: int = 0) -> dict[str, Tensor]:
        """Keyword arguments of the forward."""
        random = torch.Generator().manual_seed(seed)
        if self.feeds == "pixels":
            return {"pixel_values": torch.randn(batch, 3, 32, 32, generator=random)}
        ids = torch.randint(3, VOCAB, (batch, seq), generator=random)
        if self.feeds == "tokens":
            return {"input_ids": ids}
        return {"input_ids": ids, "decoder_input_ids": ids.clone()}

    def export_kwargs(self, batch: int = 3, seq: int = 17) -> dict[str, Tensor | bool]:
        """Keyword arguments for ``torch.export``: without a cache."""
        return {**self.inputs(batch, seq), **({"use_cache": False} if self.cache else {})}


def _config(name: str, settings: dict[str, Any], **more: object) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        return getattr(transformers, name)(**settings, **more)

    return build


def _causal(name: str, prefix: str, settings: dict[str, Any], **more: object) -> Family:
    return Family(name, _config(f"{prefix}Config", settings, **more), f"{prefix}ForCausalLM")


_GPT2 = {
    **{k: v for k, v in _BASE.items() if k.endswith("_id")},
    "vocab_size": VOCAB,
    "n_embd": 48,
    "n_inner": 88,
    "n_layer": 2,
    "n_head": 6,
    "n_positions": 64,
}
_OPT = {k: v for k, v in _BASE.items() if k != "intermediate_size"}
_T5 = {"vocab_size": VOCAB, "d_model": 48, "d_kv": 8, "d_ff": 88, "num_layers": 2, "num_heads": 6}
_VIT = {
    **{k: _BASE[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")},
    "num_attention_heads": 6,
    "image_size": 32,
    "patch_size": 8,
}
_DEEPSEEK = {
    **_EXPERTS,
    "num_key_value_heads": 6,
    "q_lora_rank": 20,
    "kv_lora_rank": 22,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}

_ALL = (
    _causal("llama", "Llama", _GROUPED),
    _causal("qwen2", "Qwen2", _GROUPED),
    _causal("qwen3", "Qwen3", _GROUPED, head_dim=12),
    _causal("mistral", "Mistral", _GROUPED, sliding_window=32),
    Family(
        "gemma3",
        _config("Gemma3TextConfig", _GROUPED, head_dim=12, sliding_window=16),
        "Gemma3ForCausalLM",
    ),
    _causal("phi3", "Phi3", _GROUPED),
    Family("gpt2", _config("GPT2Config", _GPT2), "GPT2LMHeadModel"),
    _causal("opt", "OPT", _OPT, ffn_dim=88, word_embed_proj_dim=48),
    _causal("gptneox", "GPTNeoX", _BASE),
    Family("bert", _config("BertConfig", _BASE), "BertForMaskedLM", cache=False),
    _causal("mixtral", "Mixtral", _EXPERTS, num_local_experts=4, sliding_window=None),
    _causal("qwen3moe", "Qwen3Moe", _EXPERTS, head_dim=12, num_experts=4, moe_intermediate_size=40),
    Family(
        "t5",
        _config("T5Config", _T5, feed_forward_proj="gated-gelu"),
        "T5ForConditionalGeneration",
        feeds="tokens to tokens",
    ),
    Family("vit", _config("ViTConfig", _VIT), "ViTForImageClassification", "pixels", cache=False),
    _causal("deepseekv3", "DeepseekV3", _DEEPSEEK),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
CORNERS = ("llama", "gpt2", "phi3", "mixtral", "deepseekv3", "t5", "bert")
"""Families that differ most: grouped heads, Conv1D, fused projections, experts, latent attention,
an encoder with a decoder, and an encoder; every run tries them."""
