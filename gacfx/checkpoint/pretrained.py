"""``save_pretrained`` that writes what is in memory, and leaves the model as it was."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gacfx.checkpoint.sharing import memory_of, undeclared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gacfx.checkpoint.hf import GacfxConfig


def save_pretrained(
    model: "PreTrainedModel",
    folder: Any,
    *,
    tensors: dict[str, Tensor] | None = None,
    block: "GacfxConfig | None" = None,
) -> None:
    """``save_pretrained`` that writes what is in memory, and nothing else.

    Names and dtypes are those in memory: the original format of a checkpoint that was dequantized
    while it was loaded is not restored. The generation config is written as it was read:
    transformers reads what it refuses to write.

    Args:
        model: any Hugging Face model; it is left as it was.
        folder: to write to.
        tensors: instead of ``state_dict_to_save``.
        block: what config.json says of the compressed layers; None leaves the model's own word.
    """
    with _lent(model, block) as generation:
        model.save_pretrained(
            folder,
            state_dict=tensors if tensors is not None else state_dict_to_save(model),
            save_original_format=False,
        )
        if generation is not None:
            generation.to_json_file(f"{folder}/generation_config.json", use_diff=True)


def plain_config(model: "PreTrainedModel") -> Any:
    """A copy of the configuration that says nothing of compressed layers."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def state_dict_to_save(model: nn.Module) -> dict[str, Tensor]:
    """The state dict; what is shared without the model's saying so gets a copy for each name.

    transformers drops the further names of declared ties by itself and ties them again on loading.
    It refuses all other sharing, because a loader would fill the second name with random numbers.
    """
    state, copied = model.state_dict(), undeclared(model)
    return {name: t.clone() if name in copied else t for name, t in state.items()}


def _is_untied(model: Any) -> bool:
    """The configuration says that the head is the embedding, and the two are not one.

    transformers finds out when both are in the file and differ; other loaders believe the
    configuration.
    """
    if getattr(model.config, "tie_word_embeddings", False) is not True:
        return False
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    first, last = (getattr(part, "weight", None) for part in parts)
    if not isinstance(first, Tensor) or not isinstance(last, Tensor) or first.shape != last.shape:
        return False
    return memory_of("first", first) != memory_of("last", last) and not (
        first.is_meta or last.is_meta
    )


@contextmanager
def _lent(model: Any, block: object) -> Iterator[Any]:
    """Inside, the model has a copy of its config, and a generation config that can be written.

    Yields its own generation config, or None.
    """
    from transformers import GenerationConfig

    config, generation = model.config, getattr(model, "generation_config", None)
    model.config = copy.deepcopy(config)  # saving writes dtype and class into it
    if block is not None:
        model.config.quantization_config = block
    if _is_untied(model):
        model.config.tie_word_embeddings = False
    if generation is not None:
        model.generation_config = GenerationConfig()
    try:
        yield generation
    finally:
        model.config = config
        if generation is not None:
            model.generation_config = generation
