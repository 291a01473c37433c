"""How another program has quantized the weights of a checkpoint, as its configuration declares.

    {"quant_method": "gptq", "bits": 4, "group_size": 128}        gptq, 4 bits
    {"quant_method": "fp8", "weight_block_size": [128, 128]}      fp8, 8 bits
    {"load_in_8bit": true}                                        bitsandbytes, 8 bits

gacfx neither reads nor writes such weights. Who looks at a model by its configuration alone sees
sizes and a dtype that the stored weights do not have, and is told so.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gacfx.core.config_json import METHOD
from gacfx.core.names import printable

_BLOCKS = ("quantization_config", "compression_config")
_BITS = ("bits", "w_bit", "wbits", "nbits", "num_bits", "weight_bits")
_ACTIVATIONS = ("input_activations", "output_activations", "kv_cache_scheme")
_LEFT = ("modules_to_not_convert", "ignore", "llm_int8_skip_modules", "ignored_layers", "exclude")
_HEAD = "lm_head"
"""Kept as it is by every method, unless its block says otherwise."""


@dataclass(frozen=True, slots=True)
class StoredAs:
    """What the configuration of a checkpoint says of its weights."""

    method: str
    bits: tuple[int, ...]
    left: tuple[str, ...]
    """Names and patterns of modules that are not quantized."""

    def __str__(self) -> str:
        """``gptq, 4 bits``."""
        bits = " and ".join(map(str, self.bits))
        return f"{self.method}, {bits} bits" if bits else self.method

    def covers(self, module: str) -> bool:
        """The weight of a module is quantized, as far as the configuration says."""
        return not any(_matches(pattern, module) for pattern in self.left)


def stored_as(config: object) -> StoredAs | None:
    """What a configuration declares, itself or in a part; None where nothing is quantized, and for
    what gacfx wrote.
    """
    for part in (config, getattr(config, "text_config", None)):
        for name in _BLOCKS:
            block = _table(getattr(part, name, None))
            if block and (found := _read(block)) is not None:
                return found
    return None


def _table(block: object) -> Mapping[str, Any]:
    """A block as a table; some programs keep the name of their method in the class."""
    if isinstance(block, Mapping):
        return block
    method, own = getattr(block, "quant_method", None), getattr(block, "__dict__", {})
    return own if method is None else {"quant_method": method, **own}


def _read(block: Mapping[str, Any]) -> StoredAs | None:
    loads = next((n for n in (4, 8) if block.get(f"load_in_{n}bit") is True), None)
    method = block.get("quant_method", "bitsandbytes" if loads else METHOD)
    method = printable(str(getattr(method, "value", method)), 40)
    if method == METHOD:
        return None
    bits = [loads] if loads else list(dict.fromkeys(_bits(block)))
    if not bits:  # mxfp4, fbgemm_fp8
        bits = [int(n) for n in re.findall(r"(?:fp|int)(\d+)", method)[:1]]
    left = [each for key in _LEFT for each in block.get(key) or () if isinstance(each, str)]
    return StoredAs(method, tuple(bits), tuple(left if block.get(_HEAD) else [*left, _HEAD]))


def _bits(block: Mapping[str, Any]) -> Iterator[int]:
    """Numbers of bits of weights, at any depth."""
    for key, found in block.items():
        if key in _BITS and type(found) is int and found > 0:
            yield found
        elif isinstance(found, Mapping) and key not in _ACTIVATIONS:
            yield from _bits(found)


def _matches(pattern: str, module: str) -> bool:
    """A module of that name, or inside of it; a regular expression behind ``re:``; stars."""
    if "*" in pattern and not pattern.startswith("re:"):
        return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
    if not pattern.startswith("re:"):
        return f".{pattern}." in f".{module}."
    try:
        return re.match(pattern[3:], module) is not None
    except re.error:
        return False
