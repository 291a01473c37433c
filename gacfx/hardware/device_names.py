"""Which profile a person means: ``H100-SXM`` is h100, ``NVIDIA RTX 4090`` is rtx4090.

A text means a profile if it says the same as the profile's name or device, apart from words that
tell no GPU from another (``NVIDIA``, ``SXM5``). What does tell them apart must agree: an H100 PCIe
is another GPU than the SXM one, and so is an A100 of 40 GB than that of 80.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

MAKER = ("nvidia", "geforce", "tesla", "jetson", "gpu")
FORM = ("sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "hbm2e", "hbm3", "hbm3e")
"""Every profile of a data-centre GPU is of the SXM board; other boards have other words."""
LIKENESS = 0.6
"""From 0 to 1, as difflib has it; below this a name is no typing error of another."""


def match(text: str, devices: Mapping[str, str]) -> str:
    """The name among ``devices`` (name -> device) that a text means; empty if there is none."""
    said, sizes = _parts(text), _sizes(text)
    for name, device in devices.items():
        same = said and said <= {name, *_parts(device)}
        if same and sizes <= (_sizes(device) or sizes):
            return name
    return ""


def nearest(text: str, devices: Mapping[str, str]) -> str:
    """The name among ``devices`` that looks most like a text; empty if none looks like it."""
    spelled = {s: name for name, device in devices.items() for s in (name, *_parts(device))}
    found = get_close_matches(core(text), sorted(spelled), n=1, cutoff=LIKENESS)
    return spelled[found[0]] if found else ""


def core(text: str) -> str:
    """What tells a GPU from others, in one word: ``rtx4090`` for ``NVIDIA GeForce RTX 4090``."""
    words = [w for w in _words(text) if w not in (*MAKER, *FORM) and not _is_size(w)]
    return "".join(words)


def _parts(text: str) -> set[str]:
    """The core of a text, and of what stands in brackets behind it: ``GB10 (DGX Spark)``."""
    return {core(part) for part in re.split(r"[()]", text) if core(part)}


def _words(text: str) -> list[str]:
    """Lower case, without punctuation; a size of memory is one word: ``80gb``."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(\d)\s+gb\b", r"\1gb", text.lower()))


def _is_size(word: str) -> bool:
    return re.fullmatch(r"\d+gb", word) is not None


def _sizes(text: str) -> set[str]:
    return {word for word in _words(text) if _is_size(word)}
