"""Tiny random models: every causal language model of transformers, and some that are none."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.families.shrink import TEXT, small_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

STIR = 0.02
"""Spread of what is added to biases and norms, so that none is zero or one."""


@dataclass(frozen=True, slots=True)
class Family:
    """A model type with the class that is tried."""

    name: str
    model_type: str
    cls: str
    """In transformers."""
    causal: bool = True
    """transformers lists the class as a causal language model."""


_OTHERS = {
    "bert (masked)": ("bert", "BertForMaskedLM"),
    "roberta (masked)": ("roberta", "RobertaForMaskedLM"),
    "deberta-v2": ("deberta-v2", "DebertaV2ForMaskedLM"),
    "t5": ("t5", "T5ForConditionalGeneration"),
    "bart (both halves)": ("bart", "BartForConditionalGeneration"),
    "vit": ("vit", "ViTForImageClassification"),
    "dinov2": ("dinov2", "Dinov2ForImageClassification"),
    "siglip_vision_model": ("siglip_vision_model", "SiglipVisionModel"),
    "whisper (both halves)": ("whisper", "WhisperForConditionalGeneration"),
    "wav2vec2": ("wav2vec2", "Wav2Vec2ForCTC"),
    "llava": ("llava", "LlavaForConditionalGeneration"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "paligemma": ("paligemma", "PaliGemmaForConditionalGeneration"),
}


def families() -> dict[str, Family]:
    """Every causal language model of this transformers by its type, then some that are none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = {
        name: Family(name, name, cls) for name, cls in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    }
    others = {name: Family(name, *found, causal=False) for name, found in _OTHERS.items()}
    return {**dict(sorted(causal.items())), **others}


def make(family: Family, seed: int = 0) -> "PreTrainedModel":
    """A tiny model in eval mode and float32, the same one for the same seed.

    Raises:
        Exception: transformers refuses the sizes, or has no model of the class.
    """
    import transformers

    cls: Any = getattr(transformers, family.cls)
    config = _part(small_config(family.model_type), cls)
    if family.causal and hasattr(config, "is_decoder"):
        config.is_decoder = True
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = cls(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1 and parameter.is_floating_point():
                parameter.data.add_(torch.randn_like(parameter), alpha=STIR)
    return model


def _part(config: "PretrainedConfig", cls: Any) -> "PretrainedConfig":
    """The part of a configuration that a class is made from: of several models, the language's."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    fitting: list[PretrainedConfig] = [p for p in parts if isinstance(p, cls.config_class)]
    return fitting[0] if fitting else config


def ids(batch: int, seq: int, seed: int = 0) -> torch.Tensor:
    """Random tokens [batch, seq] of texts."""
    return torch.randint(*TEXT, (batch, seq), generator=torch.Generator().manual_seed(seed))
