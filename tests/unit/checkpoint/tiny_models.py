"""Tiny random models, factors for some of their layers, and the plan that asks for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from gacfx.core.decision import Decision, LowRank
from gacfx.core.locks import fingerprint
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.provenance import Provenance
from gacfx.core.statistics import weight_digest
from tests.svd import Svd

VOCAB = 97
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    **_IDS,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 6,
    "n_positions": 64,
    **_IDS,
}


def llama(*, tied: bool = False) -> PreTrainedModel:
    """Linears without bias."""
    return _build(LlamaForCausalLM, LlamaConfig(**_LLAMA, tie_word_embeddings=tied))


def gpt2() -> PreTrainedModel:
    """Conv1D with bias, lm_head tied to the embedding."""
    return _with_biases(_build(GPT2LMHeadModel, GPT2Config(**_GPT2)))


def qwen2() -> PreTrainedModel:
    """Linears with bias in q, k and v."""
    return _with_biases(_build(Qwen2ForCausalLM, Qwen2Config(**_LLAMA)))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"llama": llama, "gpt2": gpt2, "qwen2": qwen2}
LAYERS: dict[str, Sequence[str]] = {
    "llama": ("self_attn.q_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_attn", "mlp.c_proj"),
    "qwen2": ("self_attn.q_proj", "mlp.up_proj"),
}


def skeleton_of(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture on the meta device, from the configuration."""
    with torch.device("meta"):
        return _build(type(model), model.config)


def cast_(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Parameters only: ``model.to`` would also round the rotary frequencies, unlike a loader."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _build(cls: Any, config: PreTrainedConfig) -> PreTrainedModel:
    model = cls(config).eval()
    assert isinstance(model, PreTrainedModel)
    return model


def _with_biases(model: PreTrainedModel) -> PreTrainedModel:
    # Fresh biases are zero, which would hide a lost one.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.1)
    return model


def token_ids(batch: int = 3, length: int = 17) -> Tensor:
    """[batch, length], the same at every call."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


def dense_weight(model: PreTrainedModel, name: str) -> Tensor:
    """[out, in] of a Linear or Conv1D."""
    layer = model.get_submodule(name)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if type(layer).__name__ == "Conv1D" else weight.detach()


def factors_for(
    model: PreTrainedModel,
    suffixes: Sequence[str],
    rank: int = 9,
    kind: Callable[[int], Decision] = LowRank,
) -> FactorSet:
    """Truncated SVD in float64, with another rank in every layer."""
    names = [name for name, _ in model.named_modules() if name.endswith(tuple(suffixes))]
    factors = {}
    for index, name in enumerate(names):
        r = min(rank + index, *dense_weight(model, name).shape)
        factors[name] = Svd.of(dense_weight(model, name)).factors(kind(r))
    return factors


def plan_for(model: PreTrainedModel, factors: FactorSet) -> Plan:
    """A plan with both locks; ``model`` is still dense."""
    choices = tuple(
        Choice.single(name, made.rows, made.columns, made.decision, 9.5, 0.001)
        for name, made in factors.items()
    )
    dense = sum(choice.dense_params for choice in choices)
    total = sum(parameter.numel() for parameter in model.parameters())
    digests = {name: digest_of(model, name) for name in factors}
    return Plan(
        choices=choices,
        budget=Budget("0.2", "targeted", dense, total, dense * 4 // 5),
        proof=None,
        provenance=Provenance("svd", "two-sided", "h200", 8, "float32"),
        fingerprint=fingerprint(model),
        digests=digests,
    )


def digest_of(model: PreTrainedModel, name: str) -> str:
    """Weights lock of one module."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight_digest(weight)
