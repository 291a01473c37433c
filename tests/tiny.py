"""A tiny random Llama with a byte-level tokenizer, as a checkpoint folder: no network, no data."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

TEXT = "the cat sat on a mat and saw the dog run over the hill to a red house by the sea"
WORDS = TEXT.split()


def tokenizer() -> Any:
    """One token per byte, <s> in front."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{c: i for i, c in enumerate(alphabet, start=2)}}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def llama(hidden: int = 64, width: int = 176, layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """A random Llama with grouped-query attention, in eval mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": 258,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **more,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def texts(count: int = 8) -> list[str]:
    """Documents of about 80 bytes that differ from each other."""
    step = len(WORDS)
    return [
        " ".join(WORDS[(i * 7 + j * (1 + i % 5)) % step] for j in range(24)) for i in range(count)
    ]


def checkpoint(folder: Path, **settings: Any) -> Path:
    """The model and its tokenizer, saved as safetensors."""
    llama(**settings).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def text_file(path: Path, count: int = 8) -> Path:
    """The documents as a .txt file."""
    path.write_text("\n\n".join(texts(count)), encoding="utf-8")
    return path
