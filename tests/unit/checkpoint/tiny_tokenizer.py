"""A tokenizer of single words, made without any download."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.unit.checkpoint.tiny_models import VOCAB


def tokenizer() -> PreTrainedTokenizerFast:
    """Knows "a" as 3, "b" as 4 ... and fills the vocabulary of the tiny models."""
    letters = [chr(ord("a") + i) for i in range(26)]
    words = ["<pad>", "<s>", "</s>", *letters]
    words += [f"w{i}" for i in range(VOCAB - len(words))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="</s>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    made = fast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    assert isinstance(made, PreTrainedTokenizerFast)
    return made
