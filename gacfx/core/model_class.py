"""Which class of transformers a configuration describes, and the part of it that is about text.

LlamaConfig                              LlamaForCausalLM, the configuration itself
LlavaConfig, text_config: LlamaConfig    LlavaForConditionalGeneration, the LlamaConfig
"""

from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def named_class(config: "PretrainedConfig") -> "type[PreTrainedModel] | None":
    """The class that a configuration names; None where transformers has none of that name, or one
    of another architecture: a file may name anything.
    """
    import transformers

    names = config.architectures if isinstance(config.architectures, list) else []
    cls = getattr(transformers, names[0], None) if names and isinstance(names[0], str) else None
    return cls if _is_of(cls, config) else None


def _is_of(cls: Any, config: "PretrainedConfig") -> TypeGuard["type[PreTrainedModel]"]:
    from transformers import PreTrainedModel

    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        return False
    return cls.config_class is not None and isinstance(config, cls.config_class)


def causal_class(config: "PretrainedConfig") -> "type[PreTrainedModel] | None":
    """The class that a configuration names, where it continues text and is not what
    ``AutoModelForCausalLM`` makes of it: of images and text, for example; else None.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    cls = named_class(config)
    usual: object = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if cls is None or cls is usual or getattr(config, "is_encoder_decoder", False):
        return None
    return cls if cls.can_generate() else None


def text_config(config: Any) -> Any:
    """The part that is about tokens; the configuration itself where it has no parts."""
    if not hasattr(config, "get_text_config"):
        return config
    try:
        return config.get_text_config()
    except ValueError:  # one for each end, and the text comes out at the decoder
        return config.get_text_config(decoder=True)


def positions(model: object) -> int | None:
    """Tokens of the longest sequence that a model was made for; None where it does not say."""
    return config_positions(getattr(model, "config", None))


def config_positions(config: object) -> int | None:
    """The same of a configuration."""
    config = text_config(config)
    found = (getattr(config, name, None) for name in _POSITIONS)
    return min((n for n in found if isinstance(n, int) and n > 0), default=None)


def embedding_rows(model: nn.Module) -> int | None:
    """Rows of the input embedding; None for a module that does not tell."""
    getter = getattr(model, "get_input_embeddings", None)
    weight = getattr(getter() if callable(getter) else None, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else None


def vocabulary(model: nn.Module) -> int:
    """How many tokens a model knows: those that it can read."""
    rows = embedding_rows(model)
    return int(text_config(model.config).vocab_size) if rows is None else rows
